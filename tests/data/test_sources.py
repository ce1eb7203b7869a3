"""Raw rows from files and folders of every kind, and splits that share no row."""

import json

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from finetune.config import recipes
from finetune.config.data import DatasetConfig, SourceConfig
from finetune.data import sources, splits
from finetune.errors import UserError

ROWS = [{"text": f"row {at}", "label": at % 3} for at in range(30)]
DATA = Dataset.from_list(ROWS)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def load(path, seed=1, **options):
    (source,) = sources.sources_of(DatasetConfig(path=str(path), **options))
    return splits.load(source, seed)


def every_row(found):
    return sorted((row for split in found.values() for row in split.rows), key=lambda row: int(row["text"][4:]))


def write_json_list(file):
    file.write_text(json.dumps(ROWS))


WRITERS = {
    "rows.csv": DATA.to_csv,
    "rows.jsonl": DATA.to_json,
    "rows.json": write_json_list,
    "rows.parquet": DATA.to_parquet,
}


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_a_file_of_every_format_gives_the_same_rows(tmp_path, name, write):
    write(tmp_path / name)
    found = load(tmp_path / name)
    assert {name: len(split.rows) for name, split in found.items()} == {"train": 27, "validation": 3}
    assert every_row(found) == ROWS


def test_an_arrow_file_is_read(tmp_path):
    DATA.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert every_row(load(file)) == ROWS


def test_a_text_file_has_a_row_a_line(tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(row["text"] for row in ROWS))
    assert every_row(load(tmp_path / "rows.txt")) == [{"text": row["text"]} for row in ROWS]


def test_a_saved_data_set_is_read(tmp_path):
    DATA.save_to_disk(tmp_path / "saved")
    assert every_row(load(tmp_path / "saved")) == ROWS


def test_a_saved_data_set_of_splits_is_read(tmp_path):
    parts = {"train": DATA.select(range(20)), "dev": DATA.select(range(20, 25)), "test": DATA.select(range(25, 30))}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved", test_split="test")
    assert {name: len(split.rows) for name, split in found.items()} == {"train": 20, "validation": 5, "test": 5}
    assert found["validation"].origin == "split dev"
    assert every_row(found) == ROWS


@pytest.fixture
def folder(tmp_path):
    """Files named after their splits."""
    for name, part in {"train": range(20), "validation": range(20, 25), "test": range(25, 30)}.items():
        DATA.select(part).to_json(tmp_path / f"{name}.jsonl")
    return tmp_path


def test_a_folder_of_files_named_after_splits_is_read(folder):
    found = load(folder, test_split="test")
    assert {name: len(split.rows) for name, split in found.items()} == {"train": 20, "validation": 5, "test": 5}
    assert [row["text"] for row in found["test"].rows] == [row["text"] for row in ROWS[25:]]


def test_data_files_are_relative_to_the_folder(folder):
    found = load(folder, data_files={"train": ["train.jsonl", "test.jsonl"], "validation": "validation.jsonl"})
    assert {name: len(split.rows) for name, split in found.items()} == {"train": 25, "validation": 5}


def test_data_files_may_be_patterns_or_whole_paths(folder):
    assert len(every_row(load(folder, data_files="t*.jsonl"))) == 25
    assert len(every_row(load(folder, data_files=str(folder / "train.jsonl")))) == 20


@pytest.fixture
def configured(tmp_path):
    """A folder whose README declares two configurations, of which the first is the default."""
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  default: true\n  data_files: en.jsonl\n"
        "- config_name: de\n  data_files: de.jsonl\n---\n"
    )
    DATA.select(range(20)).to_json(tmp_path / "en.jsonl")
    DATA.select(range(20, 30)).to_json(tmp_path / "de.jsonl")
    return tmp_path


@pytest.mark.parametrize(("name", "expected"), [("de", ROWS[20:]), ("en", ROWS[:20]), (None, ROWS[:20])])
def test_a_configuration_that_a_folder_declares_is_read_by_its_name(configured, name, expected):
    assert every_row(load(configured, name=name)) == expected
    (source,) = sources.sources_of(DatasetConfig(sources=[SourceConfig(path=str(configured), name=name)]))
    assert every_row(splits.load(source, 1)) == expected


def test_a_configuration_that_a_folder_does_not_declare_is_answered_with_those_there_are(configured):
    with pytest.raises(UserError, match=r"dataset\.name=ed: the folder has the configurations en, de\."):
        load(configured, name="ed")


def test_the_name_of_a_source_that_has_no_configurations_is_refused(folder):
    for path, files in ((folder, None), (folder / "train.jsonl", None), (folder, "train.jsonl")):
        source = SourceConfig(path=str(path), name="de", data_files=files)
        with pytest.raises(UserError, match=r"name=de of .* is read by nothing: .* Leave name out"):
            sources.sources_of(DatasetConfig(sources=[source]))


def test_the_revision_of_a_source_of_this_machine_is_refused(folder):
    with pytest.raises(UserError, match=r"revision=main of .* is read by nothing: .* Leave revision out"):
        sources.sources_of(DatasetConfig(sources=[SourceConfig(path=str(folder), revision="main")]))


def test_data_that_ships_with_the_recipes_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    (tmp_path / "data").mkdir()
    DATA.to_json(tmp_path / "data" / "rows.jsonl")
    assert every_row(load("recipes://data/rows.jsonl")) == ROWS
    assert every_row(load("recipes://data", data_files="rows.jsonl")) == ROWS


def test_a_path_that_leads_out_of_the_recipes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", tmp_path / "recipes")
    DATA.to_json(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="nothing of that name beside the recipes"):
        load("recipes://../rows.jsonl")


def test_a_file_without_an_ending_is_read_as_the_format_that_is_written(tmp_path):
    DATA.to_json(tmp_path / "rows")
    with pytest.raises(UserError, match=r"format is not known by its ending. Write dataset\.format="):
        load(tmp_path / "rows")
    assert every_row(load(tmp_path / "rows", format="json")) == ROWS


def test_a_missing_file_is_answered_with_the_nearest(folder):
    with pytest.raises(UserError, match=r"there is no such file or folder. Did you mean train\.jsonl\?"):
        load(folder / "trian.jsonl")


@pytest.mark.parametrize("files", ["trian.jsonl", {"train": "trian.jsonl"}, {"train": ["train.jsonl", "trian.jsonl"]}])
def test_a_missing_data_file_is_answered_with_the_nearest(folder, files):
    with pytest.raises(UserError, match=r"dataset\.data_files: trian\.jsonl is not in .*Did you mean train\.jsonl\?"):
        load(folder, data_files=files)


def test_a_missing_data_file_by_its_whole_path_is_refused(folder):
    with pytest.raises(UserError, match=r"dataset\.data_files: .*trian\.jsonl is not in"):
        load(folder, data_files=str(folder / "trian.jsonl"))


def test_a_folder_that_is_a_link_is_read_and_links_inside_of_one_are_refused(folder, tmp_path):
    link, parts = tmp_path.with_name("link"), tmp_path.with_name("parts")
    link.symlink_to(folder)
    assert load(link).keys() == load(folder).keys()
    (parts / "old").mkdir(parents=True)
    (parts / "old" / "train").symlink_to(folder)
    with pytest.raises(UserError, match=r"links to folders are not followed, such as old/train"):
        load(parts)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet", "rows.arrow", "rows.txt"])
def test_an_empty_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"dataset\.path=.* cannot be read: {name} is empty"):
        load(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.path=.* cannot be read: "):
        load(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    DatasetDict({"train": DATA, "validation": DATA.select([])}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"dataset\.path=.*saved cannot be read: one of its splits has no rows"):
        load(tmp_path / "saved")


def test_a_split_with_a_head_and_no_rows_is_refused(tmp_path):
    DATA.to_csv(tmp_path / "train.csv")
    (tmp_path / "validation.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"^validation\.csv:1 names columns, and no row comes after it"):
        load(tmp_path)


@pytest.mark.parametrize("line", ['{"text": oops}', '{"text": ', "text"])
@pytest.mark.parametrize("path", ["rows.jsonl", ""], ids=["file", "folder"])
def test_a_broken_line_of_json_is_refused_by_file_and_line(tmp_path, path, line):
    lines = [*(json.dumps(row) for row in ROWS), line, json.dumps(ROWS[0])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"^rows\.jsonl:31 is not JSON: Expecting value"):
        load(tmp_path / path)


def test_splits_with_other_columns_are_refused_by_file_and_column(tmp_path):
    DATA.to_csv(tmp_path / "train.csv")
    DATA.rename_column("text", "txt").to_csv(tmp_path / "validation.csv")
    with pytest.raises(UserError, match=r"1 new columns \({'txt'}\) and 1 missing columns.*validation\.csv"):
        load(tmp_path)


@pytest.mark.parametrize("key", ["train_split", "validation_split", "test_split"])
def test_a_misspelt_split_is_answered_with_the_splits_there_are(folder, key):
    expected = f"dataset.{key}=tset: the data has the splits train, validation, test. Did you mean test?"
    with pytest.raises(UserError) as refused:
        load(folder, **{key: "tset"})
    assert str(refused.value) == expected


def texts(found, name):
    return [row["text"] for row in found[name].rows]


@pytest.fixture
def file(tmp_path):
    DATA.to_json(tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


def test_the_same_seed_cuts_the_same_validation_rows(file):
    first, second = load(file, seed=1), load(file, seed=1)
    assert [texts(first, name) for name in ("train", "validation")] == [
        texts(second, name) for name in ("train", "validation")
    ]
    assert first["validation"].origin == "cut from train with seed 1"


def test_another_seed_cuts_other_validation_rows(file):
    assert set(texts(load(file, seed=1), "validation")) != set(texts(load(file, seed=2), "validation"))


@pytest.mark.parametrize(("size", "expected"), [(0.2, 6), (4, 4)])
def test_a_cut_has_the_size_that_is_written_and_shares_no_row(file, size, expected):
    found = load(file, validation_size=size)
    assert len(found["validation"].rows) == expected
    assert every_row(found) == ROWS


def test_a_cut_of_all_rows_is_refused(file):
    with pytest.raises(UserError, match=r"dataset\.validation_size=30 of 30 rows: "):
        load(file, validation_size=30)


@pytest.mark.parametrize("kind", ["integers", "texts", "names beside ids"])
def test_a_stratified_cut_keeps_the_share_of_each_label_and_the_labels_as_they_are(tmp_path, kind):
    labels = [0] * 20 + [1] * 10
    rows = Dataset.from_dict({"text": [str(at) for at in range(30)], "label": labels})
    if kind == "texts":
        rows = Dataset.from_dict({"text": rows["text"][:], "label": [str(label) for label in labels]})
    if kind == "names beside ids":
        rows = rows.cast_column("label", ClassLabel(names=["a", "b"]))
    rows.save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved", stratify=True, validation_size=9)
    for name, expected in {"train": [14, 7], "validation": [6, 3]}.items():
        labels_found = found[name].rows["label"][:]
        assert [labels_found.count(label) for label in sorted(set(labels if kind != "texts" else "01"))] == expected
        assert found[name].rows.features == rows.features
    assert sorted(texts(found, "train") + texts(found, "validation")) == sorted(rows["text"])


def test_a_stratified_cut_needs_the_column_of_labels(file):
    with pytest.raises(UserError, match=r"dataset\.stratify needs a label column; write dataset\.columns\.label=NAME"):
        load(file, stratify=True, columns={"label": "mood"})


def test_a_label_that_occurs_once_cannot_be_stratified(tmp_path):
    Dataset.from_list([*ROWS, {"text": "row 30", "label": 7}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"dataset\.validation_size=0\.1 of 31 rows: "):
        load(tmp_path / "saved", stratify=True)


def test_a_limit_takes_the_first_rows_of_each_split(folder):
    found = load(folder, limit=3, test_split="test")
    assert texts(found, "train") == ["row 0", "row 1", "row 2"]
    assert {name: len(split.rows) for name, split in found.items()} == {"train": 3, "validation": 3, "test": 3}
    assert len(load(folder, limit=1000)["train"].rows) == 20


def test_splits_are_chosen_by_name(folder):
    found = load(folder, train_split="validation", validation_split="train")
    assert (len(found["train"].rows), len(found["validation"].rows)) == (5, 20)


def test_a_test_split_is_prepared_only_where_it_is_named(folder):
    assert set(load(folder)) == {"train", "validation"}
    assert set(load(folder, test_split="test")) == {"train", "validation", "test"}


def test_a_split_that_is_trained_on_is_not_the_validation_split_as_well(folder):
    found = load(folder, train_split="validation")
    assert found["validation"].origin == "cut from validation with seed 1"
    assert not set(texts(found, "train")) & set(texts(found, "validation"))


def test_a_name_that_is_no_path_is_sought_on_the_hub(monkeypatch):
    with pytest.raises(UserError, match=r"dataset\.path=nobody/nothing cannot be read: "):
        load("nobody/nothing")
