"""Transcripts that a decoder writes, as Whisper does: trained, verified and asked; the language said and kept."""

import shutil
from functools import cache

import pytest
import torch
from tiny_media import RATE, ctc, speech, transcribed, whisper, write
from tiny_runs import config, own_caches, root, worked
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationConfig

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.data import sounds, transcripts
from finetune.data.prepare import prepare
from finetune.errors import ConfigError, UserError
from finetune.models import languages

METHODS = {"full": (), "qlora": ("adapter=qlora", "adapter.lora_dropout=0", "trainer.max_steps=15")}


@cache
def run_of(method):
    return worked(write(*METHODS[method], f"name=written_{method}"), root() / "runs")


def prepared(*more):
    with own_caches():
        return prepare(config([*write("dataset.max_dropped=0.9"), *more]))


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    found = run_of(method).read("evaluation.json")
    assert found["scores"]["loss"] < (0.1 if method == "full" else 0.9) * found["baseline"]["loss"]
    assert found["scores"]["wer"] == 0 < found["baseline"]["wer"] or method != "full"
    assert found["scores"]["generation_capped"] == 0 or method != "full"
    with own_caches():
        assert all(finding.passed for finding in verify.compare(run_of(method)))


def test_the_saved_model_is_one_that_plain_transformers_asks_without_a_word_about_language():
    model, processor = (
        auto.from_pretrained(run_of("full").model) for auto in (AutoModelForSpeechSeq2Seq, AutoProcessor)
    )
    given = processor(audio=speech("mh", 99), sampling_rate=RATE, return_tensors="pt")
    written = model.generate(**given, max_new_tokens=5)
    assert processor.batch_decode(written, skip_special_tokens=True) == ["mh"]
    assert processor.tokenizer.language == model.generation_config.language == "en"


def test_files_are_answered_in_order_in_batches():
    names = [str(transcribed() / "validation" / f"{at}.wav") for at in (5, 1, 2)]
    found = list(answering(run_of("full"), {"batch_size": 2})([*names, {"audio": names[0]}]))
    assert [answer["answer"] for answer in found] == ["hml", "ml", "hll", "hml"]
    assert not any(answer["capped"] for answer in found)


def test_an_answer_that_the_limit_cut_off_says_so():
    (found,) = answering(run_of("full"), {"max_new_tokens": 1})([str(transcribed() / "validation" / "2.wav")])
    assert (found["answer"], found["capped"]) == ("h", True)


@pytest.mark.parametrize("wrong", ["no such file.wav", {"other": "x"}, None])
def test_an_input_that_is_no_sound_is_refused_by_number(wrong):
    good = str(transcribed() / "validation" / "2.wav")
    with pytest.raises(UserError, match="input 1: "):
        list(answering(run_of("full"), {})([good, wrong]))


def test_a_row_holds_the_language_the_task_and_an_end_but_not_what_a_decoder_begins_with():
    found = prepared()
    words = found.tokenizer.tokenizer
    ids = [int(at) for at in found.rows("train")[1]["labels"]]
    assert words.decode(ids) == "<|en|><|transcribe|><|notimestamps|>ml<|endoftext|>"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("task.language=null",), "write task.language, such as english"),
        (("task.language=englisch",), "no such language. Did you mean english"),
        (("task.max_target_length=17",), "more than the model's 16 positions"),
        (("task.max_target_length=5", "task.overlong=error"), "a transcript of 6 tokens, more than 5"),
        (("task.max_duration_in_seconds=2",), "the model hears 1 seconds"),
        ((f"model.path={ctc()}",), "no AutoModelForSpeechSeq2Seq|knows no languages"),
    ],
)
def test_what_the_model_cannot_write_is_refused(more, reason):
    with pytest.raises(UserError, match=reason):
        prepared(*more)


def test_labels_are_not_smoothed():
    with pytest.raises(ConfigError, match="label_smoothing_factor"):
        config(write("trainer.label_smoothing_factor=0.1"))


def test_a_transcript_that_has_no_room_is_dropped_and_counted():
    account = prepared("task.max_target_length=5").report["train"]
    assert account["dropped"]["transcript longer than 5 tokens"]["rows"] == 16


def test_a_model_of_one_language_is_told_none(tmp_path):
    made = shutil.copytree(whisper(), tmp_path / "whisper")
    GenerationConfig(is_multilingual=False).save_pretrained(made)
    with pytest.raises(UserError, match="knows one language alone"):
        prepared(f"model.path={made}")
    assert prepared(f"model.path={made}", "task.language=null").facts["most"] == 16


def test_a_text_gets_one_end_and_no_beginning():
    assert transcripts.ended([1, 5, 6, 2], 1, 2) == transcripts.ended([5, 6], None, 2) == [5, 6, 2]


def test_a_language_goes_with_the_saved_tokenizer(tmp_path):
    words = AutoProcessor.from_pretrained(whisper()).tokenizer
    languages.speak(words, "Mandarin")
    words.save_pretrained(tmp_path)
    ids = type(words).from_pretrained(tmp_path)("l")["input_ids"]
    assert words.decode(ids) == "<|startoftranscript|><|zh|><|transcribe|><|notimestamps|>l<|endoftext|>"


def test_spectra_are_the_same_whatever_the_products_are_computed_in():
    processor, heard = AutoProcessor.from_pretrained(whisper()), [(speech("mh", 1) * 30000).astype("int16")]
    plain = sounds.features(processor, heard)["input_features"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sounds.features(processor, heard)["input_features"], plain)
