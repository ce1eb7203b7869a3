"""A corpus of configs and overrides that mean harm: each is refused, and nothing is run, read or repeated.

All of it in one process of its own, because an audit hook cannot be taken out again. `scripts/hostile` prints times.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "hostile/child.py"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run([sys.executable, CHILD, folder], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def those(outcomes, is_wrong):
    return [f"{each['kind']}: {each['name']}: {each['said'][-300:]}" for each in outcomes if is_wrong(each)]


def test_the_corpus_is_large_and_of_every_kind(outcomes):
    kinds = Counter(each["kind"] for each in outcomes)
    assert len(outcomes) >= 150
    assert kinds.keys() == {
        "code", "hydra", "resolver", "tag", "bomb", "traversal", "secret", "character", "number", "structure"
    }  # fmt: skip


def test_each_is_refused_as_a_mistake_of_the_input(outcomes):
    assert those(outcomes, lambda each: each["code"] != 2) == []


def test_none_runs_code_or_touches_what_is_not_its_own(outcomes):
    assert those(outcomes, lambda each: each["seen"]) == []


def test_no_secret_is_repeated(outcomes):
    assert those(outcomes, lambda each: each["repeated"]) == []


def test_no_message_holds_what_a_terminal_obeys(outcomes):
    assert those(outcomes, lambda each: each["raw"]) == []


def test_the_watch_sees_what_it_must(tmp_path):
    """The audit hook itself: a corpus that did all it must not would be caught."""
    code = f"""
import sys; sys.path.insert(0, {str(CHILD.parent)!r})
from pathlib import Path
from child import Watch
watch = Watch([Path({str(tmp_path)!r})])
sys.addaudithook(watch)
watch.is_on = True
exec("1")
import os, socket, subprocess
os.system("true"); subprocess.run(["true"]); socket.socket().close(); open("/etc/hostname").close()
open({str(tmp_path / "own")!r}, "w").close()
watch.is_on = False
print([event.split()[0] for event in watch.seen if "/lib/" not in event])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seen = done.stdout
    for event in ("exec", "os.system", "subprocess.Popen", "socket.__new__", "open"):
        assert f"'{event}'" in seen, done.stderr
    assert "own" not in seen
