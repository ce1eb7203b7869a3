"""Transcripts of sounds: trained, resumed, verified and asked; what cannot be learned is counted and named."""

import json
import shutil
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from crash import SMALL, Kill, differences, once, outcome, trained
from tiny_media import RATE, ctc, sound, speech, transcribe, transcribed, wav2vec2, written
from tiny_runs import LORA, config, finetune, own_caches, root, worked
from transformers import AutoModelForCTC, AutoProcessor, Wav2Vec2CTCTokenizer

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.config.task import RowError
from finetune.data import media, transcripts
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.data.transcripts import Writing
from finetune.errors import ConfigError, UserError
from finetune.evaluation import metrics

METHODS = {"full": (), "lora": (*LORA, "trainer.max_steps=15")}


@cache
def run_of(method):
    return worked(transcribe(*METHODS[method], f"name=speech_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    folder = run_of(method)
    found = folder.read("evaluation.json")
    assert found["scores"]["loss"] < (0.1 if method == "full" else 0.9) * found["baseline"]["loss"]
    assert found["scores"]["wer"] == 0 < found["baseline"]["wer"] or method != "full"
    assert found["score"] == ["wer", False]
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def test_the_saved_model_is_one_that_plain_transformers_loads():
    model, processor = (auto.from_pretrained(run_of("full").model) for auto in (AutoModelForCTC, AutoProcessor))
    given = processor(audio=speech("mh", 99), sampling_rate=RATE, return_tensors="pt")
    assert processor.batch_decode(model(**given).logits.argmax(-1)) == ["MH"]


def test_a_file_at_any_rate_is_answered_with_its_transcript(tmp_path):
    soundfile.write(tmp_path / "x.flac", speech("lh", 77, 44100), 44100)
    for found in answering(run_of("full"), {})([str(tmp_path / "x.flac"), {"audio": str(tmp_path / "x.flac")}]):
        assert found["answer"] == "LH"


@pytest.mark.parametrize("wrong", ["no such file.wav", {"other": "x"}, 3, None, __file__])
def test_an_input_that_is_no_sound_is_refused_by_number(wrong):
    with pytest.raises(UserError, match="input 0: "):
        list(answering(run_of("full"), {})([wrong]))


def test_a_run_that_was_killed_goes_on_bit_for_bit_with_drawn_masks(tmp_path):
    drawn = "model.config={mask_time_prob: 0.2, mask_time_length: 2, hidden_dropout: 0.1, layerdrop: 0.1}"
    recipe = transcribe("trainer.save_strategy=steps", *SMALL, drawn)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert once(partial(trained, recipe, whole), whole).code == 0
    assert once(partial(trained, recipe, parts, [Kill(5)]), parts).code == -9
    assert once(partial(trained, recipe, parts), parts).code == 0
    assert not differences(outcome(whole), outcome(parts))


def test_the_loss_is_a_mean_over_letters_however_rows_are_batched():
    recipe = config(transcribe())
    with own_caches():
        prepared = prepare(recipe)
        model = AutoModelForCTC.from_pretrained(run_of("full").model).eval()
        model.config.ctc_loss_reduction = "sum"
        rows, collate = prepared.rows("validation"), recipe.task.collator(prepared.tokenizer)

        def total(*batches):
            given = [collate([rows[at] for at in batch]) for batch in batches]
            with torch.no_grad():
                losses = [recipe.task.forward(model, batch, prepared.facts).loss for batch in given]
            weights = [recipe.task.weight(batch) for batch in given]
            return sum(float(loss) * weight for loss, weight in zip(losses, weights)) / sum(weights)

        assert total(range(6)) == pytest.approx(total([0], range(1, 6)), rel=1e-2)


# What is learned


def prepared(path, *more):
    with own_caches():
        return prepare(config([*transcribe(path=path), "dataset.max_dropped=0.9", *more]))


def table(tmp_path, *rows):
    """A table of twelve good sounds, and what is given to it."""
    good = [{"audio": f"{at}.wav", "text": "lmh"[at % 3] * (1 + at % 2)} for at in range(12)]
    for at, row in enumerate(good):
        soundfile.write(tmp_path / row["audio"], speech(row["text"], at), RATE)
    return written(tmp_path / "rows.jsonl", [*rows, *good])


def notes_of(found):
    return {what: count for split in found.report.values() for what, count in split["notes"].items()}


UNUSABLE = (
    ({"audio": "0.wav", "text": "  "}, "no text in text"),
    ({"audio": "0.wav", "text": None}, "no text in text"),
    ({"audio": "0.wav", "text": "..."}, "no character of the transcript is in the vocabulary"),
    ({"audio": "short.wav", "text": "lmh" * 9}, "the transcript needs more frames than its sound has"),
    ({"audio": "gone.wav", "text": "l"}, "there is no such file"),
    ({"audio": "odd.wav", "text": "l"}, "the file is no sound that libsndfile knows (Format not recognised.)"),
)


def test_rows_that_cannot_be_learned_are_dropped_and_counted_by_reason(tmp_path):
    soundfile.write(tmp_path / "short.wav", sound(300, 0, 0.05), RATE)
    (tmp_path / "odd.wav").write_bytes(b"no sound at all")
    found = prepared(table(tmp_path, *(row for row, _ in UNUSABLE)), "dataset.validation_size=3")
    counted = Counter()
    for split in found.report.values():
        counted.update({why: entry["rows"] for why, entry in split["dropped"].items()})
    assert counted == Counter(reason for _, reason in UNUSABLE)


def test_what_is_done_to_transcripts_is_counted(tmp_path):
    rows = [{"audio": "0.wav", "text": "l, m!"}, {"audio": "1.wav", "text": "M"}]
    found = prepared(table(tmp_path, *rows), "dataset.validation_size=3")
    notes = notes_of(found)
    assert notes["transcripts without !, which the vocabulary lacks"] == 1
    assert notes["transcripts without ,, which the vocabulary lacks"] == 1
    assert sum(account["notes"].get("transcripts written in upper case", 0) for account in found.report.values()) == 13
    assert found.report["train"]["audit"]["targets"]["longest"] <= 3


def test_a_long_sound_is_dropped_and_never_cut():
    account = prepared(transcribed(), "task.max_duration_in_seconds=0.3").report["train"]
    assert account["kept"] == 16
    assert sum(entry["rows"] for entry in account["dropped"].values()) == 8


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("task.overlong=error", "task.max_duration_in_seconds=0.2"), "samples, more than"),
        (("dataset.columns={audio: sound, text: text}",), "the columns are audio, text"),
        (("dataset.columns={audio: audio, text: audio}",), "column audio is the audio and the text"),
        ((f"model.path={wav2vec2()}",), "lacks a part, such as a tokenizer|no tokenizer to write with"),
    ],
)
def test_rows_that_are_no_transcribed_sounds_are_refused(more, reason):
    with pytest.raises(UserError, match=reason):
        prepared(transcribed(), *more)


@pytest.mark.parametrize("key", ["tokenizer.max_length=16", "packing=bfd", "trainer.label_smoothing_factor=0.1"])
def test_keys_that_speech_has_no_use_for_are_refused(key):
    with pytest.raises(ConfigError):
        config(transcribe(key))


def test_a_whole_run_on_a_table_with_no_column_of_texts_says_what_to_write(tmp_path, capsys):
    path = written(tmp_path / "rows.jsonl", [{"audio": "0.wav", "said": "l"}] * 12)
    assert finetune("plan", *transcribe(path=path)) == 2
    assert "Write dataset.columns.text=NAME" in capsys.readouterr().err


def test_rows_are_shown_with_their_length_and_rate():
    found = prepared(transcribed())
    with own_caches():
        (row, *_) = shown(found, Choice())
    assert row.units[0].text == "a sound of 0.15 s, recorded at 8,000 Hz"


def test_sounds_that_rows_hold_as_bytes_are_kept_by_what_they_are():
    content = next((transcribed() / "train").glob("*.wav")).read_bytes()
    with own_caches():
        names = {media.named(cell, "sound") for cell in (content, {"bytes": content, "path": "x"})}
        (name,) = names
        assert Path(name).read_bytes() == content


# How a transcript is written


@pytest.mark.parametrize(
    ("alphabet", "case"), [("ABC '", "upper"), ("abc '", "lower"), ("aB", "keep"), ("漢字", "keep"), ("", "keep")]
)
def test_the_case_of_transcripts_is_that_of_the_vocabulary(alphabet, case):
    assert transcripts.case_of(alphabet) == case


def test_characters_of_another_language_are_not_listed_one_by_one():
    text, notes = Writing("AB ", "upper")("ab αβγδεζηθ b")
    assert text == "AB B"
    assert len(notes) == 1 + transcripts.NAMED + 1


def test_without_an_alphabet_a_transcript_stays_as_it_is():
    assert Writing("", "keep")("  Ça  va?\n") == ("Ça va?", [])
    with pytest.raises(RowError, match="no transcript"):
        Writing("", "keep")(" ")


def test_a_tokenizer_that_reads_in_upper_case_has_the_letters_it_writes():
    words = Wav2Vec2CTCTokenizer(str(ctc() / "vocab.json"), do_lower_case=True)
    assert transcripts.alphabet_of(words) == " hlm"
    assert transcripts.alphabet_of(AutoProcessor.from_pretrained(ctc()).tokenizer) == " HLM"


@pytest.mark.parametrize("samples", [5, 399, 400, 800, 2800, 16001])
def test_frames_are_counted_as_the_model_makes_them(samples):
    model = AutoModelForCTC.from_pretrained(run_of("full").model)
    made = transcripts.convolutions_of(model.config.to_dict())
    assert transcripts.frames(samples, made) == max(0, int(model._get_feat_extract_output_lengths(samples)))


def test_letters_that_are_doubled_need_a_frame_between_them():
    assert transcripts.needed([5, 6, 6, 5]) == 5
    logits = torch.zeros(4, 1, 8).log_softmax(-1)
    lengths = torch.tensor([4]), torch.tensor([4])
    loss = torch.nn.functional.ctc_loss(logits, torch.tensor([[5, 6, 6, 5]]), *lengths)
    assert not np.isfinite(float(loss))


def test_errors_are_counted_over_all_words_and_against_the_nearest_right_text():
    assert metrics.compute(["wer"], ["a", "c d"], ["a b", "c"]) == {"wer": pytest.approx(2 / 3)}
    assert metrics.compute(["wer", "cer"], ["one"], [["two", "one"]]) == {"wer": 0.0, "cer": 0.0}
    assert metrics.compute(["cer"], ["cat"], ["cut"]) == {"cer": pytest.approx(1 / 3)}


def test_answers_are_kept_beside_what_is_right():
    lines = (run_of("full") / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["L", "ML", "HLL", "L", "MM", "HML"]


def test_a_sound_that_is_gone_from_the_folder_is_counted(tmp_path):
    made = tmp_path / "sounds"
    shutil.copytree(transcribed(), made)
    next((made / "train").glob("*.wav")).unlink()
    with own_caches(), pytest.raises(UserError):
        prepare(config(transcribe(path=made)))
