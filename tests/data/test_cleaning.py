"""The store: listed by when a folder was last used, cleaned from the longest unused on."""

import os
import time

import pytest

from finetune import cli
from finetune.data import cleaning, store
from finetune.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "finetune" / "prepared"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def aged(inputs, days):
    """A folder of a hundred bytes that was last used some days ago."""

    def build(folder):
        (folder / "rows").write_bytes(b"x" * 100)

    folder = store.find_or_build(store.PREPARED, inputs, build)
    os.utime(folder, (time.time() - days * 86400,) * 2)
    return folder


def test_the_longest_unused_folders_are_removed_down_to_a_limit():
    old, new, newest = (aged({"at": at}, days) for at, days in enumerate((3, 2, 1)))
    sizes = [entry.size for entry in cleaning.entries()]
    assert [entry.folder for entry in cleaning.entries()] == [old, new, newest]
    removed = cleaning.clean(sum(sizes[1:]))
    assert [entry.folder for entry in removed] == [old]
    assert [entry.folder for entry in cleaning.entries()] == [new, newest]


def test_a_folder_that_is_found_counts_as_used():
    old, new = (aged({"at": at}, days) for at, days in enumerate((3, 2)))
    assert store.find(store.PREPARED, {"at": 0}) == old
    assert [entry.folder for entry in cleaning.entries()] == [new, old]


def test_what_killed_builders_left_is_removed_after_a_day(cache):
    for name, hours in ((".left", 30), (".new", 1)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - hours * 3600,) * 2)
    assert cleaning.clean(1000) == []
    assert names(cache) == [".new"]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500MB", 500_000_000), ("1.5gb", 1_500_000_000), ("7 K", 7000), ("2T", 2 * 10**12)]
)
def test_a_size_is_written_as_people_write_it(text, size):
    assert cleaning.size(text) == size


def test_what_is_no_size_is_refused():
    with pytest.raises(UserError, match="1zb is not a size; write 500MB or 20GB"):
        cleaning.size("1zb")


def test_the_verb_lists_and_cleans(capsys):
    old, new = (aged({"at": at}, days) for at, days in enumerate((3, 2)))
    for words, printed in ((["store"], [old, new]), (["store", "clean", "--keep", "150"], [old]), (["store"], [new])):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        shown = capsys.readouterr().out.splitlines()
        assert end.value.code == 0
        assert [line.rpartition("/")[2] for line in shown[:-1]] == [folder.name for folder in printed]
