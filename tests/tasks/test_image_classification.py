"""Labels of images: trained, resumed, verified and asked; what cannot be decoded is counted and named."""

import io
from functools import cache, partial

import numpy as np
import pytest
import torch
from crash import SMALL, Kill, differences, once, outcome, trained
from PIL import Image
from tiny_media import COLOURS, classify_images, folder, images, picture, vit, written
from tiny_runs import LORA, config, finetune, own_caches, root, worked
from transformers import AutoImageProcessor, AutoModelForImageClassification

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.config.task import RowError
from finetune.data import images as data_images
from finetune.data.media import File
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.errors import ConfigError, FinetuneError, UserError
from finetune.tasks.image_classification import ImageClassification

METHODS = {"full": (), "lora": LORA, "qlora": ("adapter=qlora", "adapter.lora_dropout=0")}


@cache
def run_of(method):
    return worked(classify_images(*METHODS[method], f"name=images_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    folder = run_of(method)
    found = folder.read("evaluation.json")
    assert found["scores"]["accuracy"] > max(0.6, found["baseline"]["accuracy"])
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def test_the_saved_model_is_one_that_plain_transformers_loads():
    model = AutoModelForImageClassification.from_pretrained(run_of("full").model)
    processor = AutoImageProcessor.from_pretrained(run_of("full").model)
    pixels = processor(picture("green", 99), return_tensors="pt")
    assert model.config.id2label[int(model(**pixels).logits.argmax())] == "green"


def test_the_label_of_a_file_is_answered_with_its_confidence(tmp_path):
    picture("blue", 77).save(tmp_path / "sky.png")
    rows = [str(tmp_path / "sky.png"), {"image": str(tmp_path / "sky.png")}]
    for found in answering(run_of("full"), {})(rows):
        assert found["label"] == "blue"
        assert 0 < found["confidence"] <= 1


@pytest.mark.parametrize("wrong", ["no such file.png", {"other": "x"}, 3, None, __file__])
def test_an_input_that_is_no_image_is_refused_by_number(wrong):
    with pytest.raises(UserError, match="input 0: "):
        list(answering(run_of("full"), {})([wrong]))


def test_a_run_that_was_killed_goes_on_bit_for_bit_with_images_mirrored_alike(tmp_path):
    recipe = classify_images(*SMALL, "task.flip=0.5", "trainer.dataloader_num_workers=1")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert once(partial(trained, recipe, whole), whole).code == 0
    assert once(partial(trained, recipe, parts, [Kill(5)]), parts).code == -9
    assert once(partial(trained, recipe, parts), parts).code == 0
    assert not differences(outcome(whole), outcome(parts))


# Where images come from


def prepared(path, *more):
    with own_caches():
        return prepare(config([*classify_images(path=path), "dataset.max_dropped=0.9", *more]))


def test_names_in_a_table_are_relative_to_it_and_bytes_and_features_are_read_as_well():
    table = written(images() / "table.jsonl", [
        {"file_name": f"train/{colour}/{number}.png", "label": colour}
        for number, colour in enumerate(list(COLOURS) * 8)
    ])  # fmt: skip
    by_name = prepared(table)
    assert by_name.facts["columns"] == {"image": "file_name", "label": "label"}
    assert by_name.report["train"]["kept"] + by_name.report["validation"]["kept"] == 24
    from datasets import Dataset, Features, Value
    from datasets import Image as Feature

    cells = [{"bytes": (images() / f"train/red/{at}.png").read_bytes(), "path": None} for at in range(0, 24, 3)]
    for kind, values in ((Feature(), cells), (Value("binary"), [cell["bytes"] for cell in cells])):
        rows = {"image": values, "label": ["a", "b"] * 4}
        target = folder("parquet") / f"{type(kind).__name__}.parquet"
        Dataset.from_dict(rows, features=Features({"image": kind, "label": Value("string")})).to_parquet(target)
        assert prepared(target).report["train"]["dropped"] == {}


def test_a_file_that_changes_under_its_name_is_prepared_anew(tmp_path):
    rows = [{"image": f"{at}.png", "label": list(COLOURS)[at % 3]} for at in range(12)]
    for at, row in enumerate(rows):
        picture(row["label"], at).save(tmp_path / row["image"])
    table = written(tmp_path / "rows.jsonl", rows)
    first = prepared(table).folder
    assert prepared(table).folder == first
    picture("red", 1234).save(tmp_path / "3.png")
    assert prepared(table).folder != first


@pytest.fixture
def broken(tmp_path):
    """A table of twelve good files and what is given to it."""

    def made(name, content, **more):
        rows = [{"image": f"{at}.png", "label": list(COLOURS)[at % 3]} for at in range(12)]
        for at, row in enumerate(rows):
            picture(row["label"], at).save(tmp_path / row["image"])
        if content is not None:
            (tmp_path / name).write_bytes(content)
        return written(tmp_path / "rows.jsonl", [{"image": name, "label": "red", **more}, *rows])

    return made


def dropped(path):
    report = prepared(path, "dataset.validation_size=3").report
    return {reason: entry for split in report.values() for reason, entry in split["dropped"].items()}


def png(mode="RGB", size=(8, 8)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.png", None, "there is no such file"),
        ("empty.png", b"", "the image is empty"),
        ("text.png", b"not an image at all", "the file is no image that Pillow knows"),
        ("cut.png", png(size=(64, 64))[:60], "the image cannot be decoded"),
    ],
)
def test_an_image_that_cannot_be_read_is_dropped_counted_and_named(name, content, reason, broken):
    ((found, entry),) = dropped(broken(name, content)).items()
    assert found.startswith(reason)
    assert entry["rows"] == 1
    assert entry["files"][0].endswith(name)


def test_too_many_unreadable_images_are_refused_with_their_names(broken, capsys):
    path = broken("text.png", b"not an image")
    assert finetune("plan", *classify_images(path=path)) == 2
    assert "1 × the file is no image that Pillow knows" in (said := capsys.readouterr().err)
    assert "text.png" in said


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"image": 3, "label": "a"}, {"image": 4, "label": "b"}] * 3, "row 4: image holds int, where the name of a"),
        ([{"picture": "a.png", "label": "a"}] * 6, "no column for the image"),
        ([{"image": "a.png", "label": "a"}] * 6, "holds one label only: a"),
        ([{"image": "a.png", "label": None}] * 6, "holds no label"),
        ([{"image": "a.png", "label": label} for label in "abababab"], "no row of 5 is left: 5"),
    ],
)  # fmt: skip
def test_rows_that_are_no_labelled_images_are_refused(rows, reason, tmp_path, capsys):
    path = written(tmp_path / "rows.jsonl", rows)
    assert finetune("plan", *classify_images("dataset.validation_size=3", path=path)) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("key", ["tokenizer.max_length=16", "evaluation.generation.rows=4"])
def test_keys_that_an_image_has_no_use_for_are_refused(key):
    with pytest.raises(ConfigError, match="and nothing reads it"):
        config(classify_images(key))


def test_near_copies_are_not_looked_for_in_images():
    with pytest.raises(FinetuneError, match="deduplicate=near compares texts"):
        prepared(images(), "dataset.deduplicate=near")


def test_a_head_for_other_labels_is_named_and_replaced_on_request(tmp_path):
    other = classify_images(f"model.path={run_of('full').model}", path=(digits := tmp_path / "rows.jsonl"))
    rows = [{"image": str(images() / f"train/red/{at}.png"), "label": f"kind {at % 4}"} for at in range(0, 24, 3)]
    written(digits, rows * 2)
    with own_caches(), pytest.raises(UserError, match=r"write model\.ignore_mismatched_sizes=true"):
        prepare(config(other))
    found = worked([*other, "model.ignore_mismatched_sizes=true", "trainer.max_steps=1"], tmp_path / "runs")
    assert "classifier" in found.read("plan.json")["model"]["fresh"]


# What an image is


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_three_channels_of_eight_bits_and_is_counted(mode):
    file = io.BytesIO()
    Image.new(mode, (16, 8)).save(file, "TIFF")
    width, height, notes = data_images.check(File(file.getvalue(), "x"))
    assert (width, height, data_images.pixels(file.getvalue()).mode) == (16, 8, "RGB")
    assert len(notes) == 1


def test_sixteen_bits_are_scaled_and_not_cut_off():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(file, "PNG")
    assert np.asarray(data_images.pixels(file.getvalue()))[0, :, 0].tolist() == [0, 128, 255]


def test_a_photograph_is_turned_upright():
    file, tags = io.BytesIO(), Image.Exif()
    tags[data_images.ORIENTATION] = 6
    picture("red", 1, (20, 12)).save(file, "JPEG", exif=tags)
    width, height, notes = data_images.check(File(file.getvalue(), "x"))
    assert (width, height) == (12, 20)
    assert notes == ["images turned upright"]


def test_an_image_of_far_too_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(RowError, match="more than 10 pixels"):
        data_images.check(File(png(), "x"))


def test_images_are_mirrored_while_training_as_the_generator_draws_and_never_while_scoring():
    processor, task = AutoImageProcessor.from_pretrained(vit()), ImageClassification(flip=0.5)
    row = {"image": np.frombuffer((images() / "train/red/0.png").read_bytes(), np.uint8), "labels": np.int64(0)}
    torch.manual_seed(0)
    drawn = task.collator(processor)([row] * 8)["pixel_values"]
    plain = task.scoring_collator(processor)([row] * 8)["pixel_values"]
    assert all(torch.equal(plain[0], each) for each in plain)
    assert 0 < sum(torch.equal(plain[0], each) for each in drawn) < 8
    assert all(torch.equal(plain[0], each) or torch.equal(plain[0].flip(-1), each) for each in drawn)


def test_the_right_class_among_five_counts_where_there_are_more():
    logits = torch.eye(8)[:2] + torch.arange(8) * 0.1
    found = ImageClassification().means(logits, {"labels": torch.tensor([0, 1])})
    assert found["top_5_accuracy"].tolist() == [True, True]
    assert ImageClassification().means(logits[:, :4], {"labels": torch.tensor([0, 1])}) == {}


def test_rows_are_shown_with_their_size_and_the_audit_knows_it():
    found = prepared(images())
    with own_caches():
        (row, *_) = shown(found, Choice())
    assert (row.units[0].text, row.unit) == ("an image of 20 × 12 pixels", "bytes")
    seen, kept = data_images.pixels(row.media.content), bytes(found.rows("train")[0]["image"])
    assert seen.tobytes() == data_images.pixels(kept).tobytes()
    assert found.report["train"]["audit"]["numbers"]["width"] == {"least": 20, "median": 20, "most": 20}
    assert found.report["train"]["audit"]["labels"] == {"blue": 8, "green": 8, "red": 8}


def test_a_large_image_is_shown_smaller_and_in_its_shape():
    content = np.frombuffer(png(size=(1600, 800)), np.uint8)
    media = data_images.shown({"image": content, "width": 1600, "height": 800})
    assert data_images.pixels(media.content).size == (320, 160)
    assert media.words == "an image of 1600 × 800 pixels"
