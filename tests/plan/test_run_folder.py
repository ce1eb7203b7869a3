"""The folder of a run: always a new one, refused early where it cannot be made, each name documented."""

import os
import re
import threading
from pathlib import Path

import pytest
from tiny_runs import KINDS, trained

from finetune.errors import UserError
from finetune.plan import run_folder
from finetune.plan.run_folder import check_writable, create, find

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_two_runs_in_the_same_second_get_two_folders(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(create(str(tmp_path), "x").path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert all(path.is_dir() and path.parent == tmp_path / "x" for path in found)


def test_folders_that_are_missing_are_made(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert create(str(tmp_path / "a" / "b"), "x").path.is_dir()


def test_an_output_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for attempt in (check_writable, lambda path: create(path, "x")):
        with pytest.raises(UserError, match="output_dir="):
            attempt(str(tmp_path / "file" / "runs"))


def test_a_file_where_the_name_of_the_run_should_be_a_folder_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="output_dir="):
        create(str(tmp_path), "x")


@needs_permissions
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    for attempt in (check_writable, lambda path: create(path, "x")):
        with pytest.raises(UserError, match="cannot be written"):
            attempt(str(tmp_path / "runs"))


def test_a_folder_without_a_plan_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no plan\.json"):
        find(str(tmp_path))


def test_a_json_file_is_whole_or_not_there(tmp_path):
    folder = create(str(tmp_path), "x")
    folder.write("status.json", {"stage": "planned"})
    with pytest.raises(TypeError):
        folder.write("status.json", {"stage": object()})
    assert folder.read("status.json") == {"stage": "planned"}
    assert [file.name for file in folder.path.iterdir()] == ["status.json"]


def test_what_ended_a_run_stands_beside_the_stage_it_reached(tmp_path):
    folder = create(str(tmp_path), "x")
    folder.reached("training")
    folder.failed(UserError("the loss is nan"))
    assert folder.read("status.json") == {"stage": "training", "failed": "the loss is nan"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_holds_documented_files_only(kind):
    documented = set(re.findall(r"^([\w.]+)/?  +", run_folder.__doc__, re.MULTILINE))
    assert {file.name for file in trained(kind).path.iterdir()} <= documented


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder where nobody may write")
def test_a_folder_that_cannot_be_made_is_the_users_to_change():
    with pytest.raises(UserError, match=r"output_dir=/proc/self cannot be written: \w+"):
        create("/proc/self", "x")
