"""A checkpoint is whole or not there: whatever happens to its files is found, and the one before it taken."""

import json
import random
import shutil
from pathlib import Path

import pytest
from damage import DAMAGES, said

from finetune.training import checkpoint
from finetune.training.checkpoint import Manifest

RUN = "run"


def made(folder: Path, step: int, run: str = RUN) -> Path:
    staging = checkpoint.stage(folder, step)
    (staging / "rank-0").mkdir()
    content = random.Random(step).randbytes(3000)
    for name in ("model.safetensors", "optimizer.json", "rank-0/generators.json"):
        (staging / name).write_bytes(content)
    files = checkpoint.flushed((path for path in staging.rglob("*") if path.is_file()), staging)
    target = folder / checkpoint.name(step)
    checkpoint.publish(staging, target, Manifest(run, step, None, 1, {}, files))
    return target


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (4, 8):
        made(folder, step)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.json", "rank-0/generators.json", "manifest.json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_named_and_passed_by(whole, kind, file, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    DAMAGES[kind](folder / "checkpoint-8" / file, folder / "checkpoint-4" / file)
    with said() as lines:
        assert checkpoint.newest(folder, RUN) == folder / "checkpoint-4"
    (line,) = lines
    assert "checkpoint-8" in line
    assert file in line
    assert [path.name.startswith("checkpoint-8-") for path in (folder / "damaged").iterdir()] == [True]
    assert checkpoint.newest(folder, RUN) == folder / "checkpoint-4"


def test_an_empty_folder_of_a_later_step_is_no_checkpoint(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoints"))
    (folder / "checkpoint-99").mkdir()
    assert checkpoint.newest(folder, RUN) == folder / "checkpoint-8"


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path):
    made(tmp_path, 4)
    made(tmp_path, 24, run="another")
    assert checkpoint.newest(tmp_path, RUN) == tmp_path / "checkpoint-4"


def test_a_renamed_checkpoint_is_not_the_step_it_says(tmp_path):
    made(tmp_path, 4).rename(tmp_path / "checkpoint-9")
    assert "is of checkpoint-4" in checkpoint.fault(tmp_path / "checkpoint-9")


def test_the_limit_counts_whole_ones_and_keeps_the_best(tmp_path):
    for step in (2, 4, 6, 8):
        made(tmp_path, step)
    (tmp_path / "checkpoint-8" / "model.safetensors").unlink()
    checkpoint.retain(tmp_path, 2, ["checkpoint-2"])
    assert {path.name for path in checkpoint.found(tmp_path)} == {"checkpoint-8", "checkpoint-6", "checkpoint-2"}
    checkpoint.retain(tmp_path, 1)
    assert checkpoint.newest(tmp_path, RUN).name == "checkpoint-6"


@pytest.mark.parametrize("limit", [0, None])
def test_without_a_limit_nothing_is_deleted(limit, tmp_path):
    for step in (2, 4):
        made(tmp_path, step)
    checkpoint.retain(tmp_path, limit)
    assert len(checkpoint.found(tmp_path)) == 2


def test_the_best_and_the_newest_stay_whatever_the_limit(tmp_path):
    for step in (2, 4, 6):
        made(tmp_path, step)
    checkpoint.retain(tmp_path, 1, ["checkpoint-2"])
    assert {path.name for path in checkpoint.found(tmp_path)} == {"checkpoint-6", "checkpoint-2"}


def test_a_way_that_was_left_is_never_taken_again(tmp_path):
    for step in (4, 8, 24):
        made(tmp_path, step)
    checkpoint.go_back(tmp_path, 4)
    assert checkpoint.newest(tmp_path, RUN).name == "checkpoint-4"
    assert len(list((tmp_path / "abandoned").iterdir())) == 2
    made(tmp_path, 8)
    assert checkpoint.newest(tmp_path, RUN).name == "checkpoint-8"


def test_what_an_interrupted_process_left_is_swept_away(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoints"))
    checkpoint.stage(folder, 12)
    checkpoint.sweep(folder)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-4", "checkpoint-8"}


def test_the_same_step_again_leaves_the_one_that_is_whole(tmp_path):
    first = made(tmp_path, 4)
    written = (first / "manifest.json").stat().st_ino
    made(tmp_path, 4)
    assert (first / "manifest.json").stat().st_ino == written
    (first / "model.safetensors").write_bytes(b"")
    assert checkpoint.fault(made(tmp_path, 4)) is None
    checkpoint.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "damaged"}


def test_a_later_format_is_refused_and_said(tmp_path):
    target = made(tmp_path, 4)
    values = json.loads((target / "manifest.json").read_text())
    del values["seal"]
    values["format"] = 2
    (target / "manifest.json").write_text(json.dumps({"seal": checkpoint._seal(values), **values}))
    assert "has format 2" in checkpoint.fault(target)
