"""Labels of sounds: trained, resumed, verified and asked; what cannot be heard is counted and named."""

import base64
import io
import re
import shutil
from functools import cache, partial

import numpy as np
import pytest
import soundfile
from crash import SMALL, Kill, differences, once, outcome, trained
from tiny_media import RATE, TONES, classify_sounds, sound, sounds, written
from tiny_runs import LORA, config, own_caches, root, worked
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, WhisperFeatureExtractor

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.config.task import RowError
from finetune.data import report
from finetune.data import sounds as data_sounds
from finetune.data.media import File
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.errors import ConfigError, UserError
from finetune.tasks.audio_classification import AudioClassification

METHODS = {"full": (), "lora": LORA, "qlora": ("adapter=qlora", "adapter.lora_dropout=0")}


@cache
def run_of(method):
    return worked(classify_sounds(*METHODS[method], f"name=sounds_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    folder = run_of(method)
    found = folder.read("evaluation.json")
    assert found["scores"]["accuracy"] > max(0.6, found["baseline"]["accuracy"])
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def test_the_saved_model_is_one_that_plain_transformers_loads():
    model = AutoModelForAudioClassification.from_pretrained(run_of("full").model)
    extractor = AutoFeatureExtractor.from_pretrained(run_of("full").model)
    given = extractor(sound(TONES["high"], 99), sampling_rate=RATE, return_tensors="pt")
    assert model.config.id2label[int(model(**given).logits.argmax())] == "high"


def test_the_label_of_a_file_at_any_rate_is_answered_with_its_confidence(tmp_path):
    soundfile.write(tmp_path / "bass.flac", sound(TONES["low"], 77, 0.3, 44100), 44100)
    rows = [str(tmp_path / "bass.flac"), {"audio": str(tmp_path / "bass.flac")}]
    for found in answering(run_of("full"), {})(rows):
        assert found["label"] == "low"
        assert 0 < found["confidence"] <= 1


@pytest.mark.parametrize("wrong", ["no such file.wav", {"other": "x"}, 3, None, __file__])
def test_an_input_that_is_no_sound_is_refused_by_number(wrong):
    with pytest.raises(UserError, match="input 0: "):
        list(answering(run_of("full"), {})([wrong]))


def test_a_run_that_was_killed_goes_on_bit_for_bit_with_drawn_masks(tmp_path):
    drawn = "model.config={mask_time_prob: 0.2, mask_time_length: 2, hidden_dropout: 0.1, layerdrop: 0.1}"
    recipe = classify_sounds(*SMALL, drawn)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert once(partial(trained, recipe, whole), whole).code == 0
    assert once(partial(trained, recipe, parts, [Kill(5)]), parts).code == -9
    assert once(partial(trained, recipe, parts), parts).code == 0
    assert not differences(outcome(whole), outcome(parts))


def test_the_convolutions_stay_as_they_are_and_the_plan_counts_them_so():
    whole, frozen = (
        worked(classify_sounds(f"task.freeze_feature_encoder={state}", "trainer.max_steps=1", f"name=freeze_{state}"),
               root() / "runs").read("plan.json")["model"]["trainable"]
        for state in ("false", "true")
    )  # fmt: skip
    assert frozen < whole


# What is heard


def prepared(path, *more):
    with own_caches():
        return prepare(config([*classify_sounds(path=path), "dataset.max_dropped=0.9", *more]))


def table(tmp_path, *rows):
    """A table of twelve good sounds, and what is given to it."""
    good = [{"audio": f"{at}.wav", "label": list(TONES)[at % 3]} for at in range(12)]
    for at, row in enumerate(good):
        soundfile.write(tmp_path / row["audio"], sound(TONES[row["label"]], at), RATE)
    return written(tmp_path / "rows.jsonl", [*rows, *good])


def wav(values, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, np.asarray(values, np.float32), rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"", "the sound is empty"),
        (b"no sound at all", "the file is no sound that libsndfile knows"),
        (wav([]), "the sound is empty"),
        (wav(np.zeros(4000)), "the sound is silent"),
        (wav([0.1, np.nan] * 2000), "the sound holds values that are no numbers"),
        (wav(sound(300, 0, 0.01)), "the sound is shorter than 0.025 s"),
    ],
    # Not by their bytes: libsndfile writes the time into a file of floats, and each process would name another test.
    ids=["absent", "no bytes", "no sound", "no samples", "silent", "no numbers", "short"],
)
def test_a_sound_that_cannot_be_heard_is_dropped_counted_and_named(content, reason, tmp_path):
    if content is not None:
        (tmp_path / "odd.wav").write_bytes(content)
    report = prepared(table(tmp_path, {"audio": "odd.wav", "label": "low"}), "dataset.validation_size=3").report
    dropped = {why: entry for split in report.values() for why, entry in split["dropped"].items()}
    ((found, entry),) = dropped.items()
    assert found.startswith(reason)
    assert entry["files"][0].endswith("odd.wav")


def test_rates_and_channels_are_brought_to_the_models_and_counted(tmp_path):
    soundfile.write(
        tmp_path / "stereo.wav", np.stack([sound(900, 1, 0.3, 22050), sound(900, 2, 0.3, 22050)], 1), 22050
    )
    found = prepared(table(tmp_path, {"audio": "stereo.wav", "label": "middle"}))
    notes = {what: count for account in found.report.values() for what, count in account["notes"].items()}
    assert notes["sounds of 2 channels, mixed to one"] == 1
    assert notes["sounds of 22,050 Hz, resampled to 8,000"] == 1
    assert found.report["train"]["audit"]["numbers"]["seconds"]["most"] <= 0.3


def test_a_resampled_tone_is_the_same_tone():
    heard = data_sounds.decode(File(wav(sound(900, 1, 0.5, 44100), 44100), "x"), RATE).samples
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(np.fft.rfftfreq(len(heard), 1 / RATE)[spectrum.argmax()] - 900) < 4


@pytest.mark.parametrize(("overlong", "kept", "counted"), [("truncate", 24, "truncated"), ("drop", 6, None)])
def test_a_long_sound_is_cut_or_dropped_and_counted(overlong, kept, counted):
    found = prepared(sounds(), "task.max_duration_in_seconds=0.2", f"task.overlong={overlong}")
    account, rows = found.report["train"], found.rows("train")
    assert account["kept"] == kept
    assert rows.lengths.max() == 1600
    assert account["notes"].get(counted, 0) == (18 if counted else 0)
    assert 0 < len(rows[0]["audio"]) <= 1600


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("task.overlong=error", "task.max_duration_in_seconds=0.2"), "samples, more than"),
        (("dataset.columns={audio: sound, label: label}",), "the columns are audio, label"),
        (("dataset.columns={label: label, audio: label}",), "there is no such file|holds int"),
    ],
)
def test_rows_that_are_no_labelled_sounds_are_refused(more, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        prepared(sounds(), *more)


@pytest.mark.parametrize("key", ["tokenizer.max_length=16", "evaluation.generation.rows=4"])
def test_keys_that_a_sound_has_no_use_for_are_refused(key):
    with pytest.raises(ConfigError, match="and nothing reads it"):
        config(classify_sounds(key))


def test_more_seconds_than_a_model_hears_are_refused():
    with pytest.raises(UserError, match=r"max_duration_in_seconds=31: the model hears 30 seconds"):
        AudioClassification(max_duration_in_seconds=31.0).limit(WhisperFeatureExtractor())


def test_an_audio_folder_is_read_without_torchcodec_and_one_in_a_parquet_file_alike(tmp_path):
    from datasets import Audio, Dataset, Value

    found = prepared(sounds())
    assert found.facts["labels"] == ["high", "low", "middle"]
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted((sounds() / "train").rglob("*.wav"))]
    rows = Dataset.from_dict({"audio": cells, "label": ["a", "b", "c"] * 8})
    rows.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "rows.parquet")
    assert prepared(tmp_path / "rows.parquet").report["train"]["dropped"] == {}
    streamed = prepared(tmp_path / "rows.parquet", "dataset.streaming=true", "dataset.limit=9")
    assert streamed.report["train"]["kept"] == 9
    assert Value("binary") not in rows.features.values()


def test_a_sound_that_is_gone_from_the_folder_is_no_row_any_more(tmp_path):
    made = tmp_path / "sounds"
    shutil.copytree(sounds(), made)
    first = prepared(made)
    next((made / "train" / "low").iterdir()).unlink()
    assert prepared(made).report["train"]["read"] == first.report["train"]["read"] - 1


def test_rows_are_shown_with_their_length_and_rate():
    found = prepared(sounds())
    with own_caches():
        (row, *_) = shown(found, Choice())
    assert row.units[0].text == "a sound of 0.35 s, recorded at 8,000 Hz"
    assert (row.tokens, row.unit) == (2800, "samples")
    heard, rate = soundfile.read(io.BytesIO(row.media.content), dtype="int16")
    assert rate == RATE
    assert heard.tolist() == found.rows("train")[0]["audio"]


def test_a_sound_that_was_cut_is_shown_as_long_as_it_is_kept_and_at_the_rate_that_is_heard():
    found = prepared(sounds(), "task.max_duration_in_seconds=0.1", "task.overlong=truncate")
    with own_caches():
        (row, *_) = shown(found, Choice())
    assert row.units[0].text == "a sound of 0.10 s, recorded at 8,000 Hz"
    heard, rate = soundfile.read(io.BytesIO(row.media.content), dtype="int16")
    assert (rate, len(heard)) == (RATE, RATE // 10)


def test_a_page_of_rows_holds_the_sounds(tmp_path):
    found = prepared(sounds())
    with own_caches():
        rows = shown(found, Choice(count=2))
        report.write(found, Choice(count=2), rows, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    held = re.findall(r"<audio [^>]*src='data:audio/wav;base64,([^']*)'", page)
    assert [base64.b64decode(each) for each in held] == [row.media.content for row in rows]
    assert "over a token" not in page


def test_what_libsndfile_says_of_a_file_is_told():
    with pytest.raises(RowError, match="Format not recognised"):
        data_sounds.decode(File(b"12345678" * 10, "x"), RATE)
