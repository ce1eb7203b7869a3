"""What every test stands on: no network, and the options of the installed libraries derived once."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def warm_options():
    """Deriving imports the libraries and takes seconds; with this no single test pays for it."""
    from finetune.config import options
    from finetune.config.task import tasks

    for group in ("adapter", "quantization"):
        options.methods(group)
    for task in tasks().values():
        options.of(task.arguments_class)
