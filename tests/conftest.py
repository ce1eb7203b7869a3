"""What every test stands on: no network, one thread, and the options of the installed libraries derived once."""

import os

import pytest

# Read when the libraries are imported. Test processes with a thread for each core slow each other tenfold.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is compiled but where a test says so: each process spares two seconds of imports.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def warm_options():
    """Deriving imports the libraries and takes seconds; with this no single test pays for it."""
    from finetune.config import options
    from finetune.config.installed import tasks

    for group in ("adapter", "quantization"):
        options.methods(group)
    for task in tasks().values():
        options.of(task.arguments_class)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which the test works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
