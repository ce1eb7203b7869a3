"""The front door as a test uses it: a folder of one's own, recipe files, and what a user is told."""

import textwrap

import pytest

from finetune.config.check import load_config
from finetune.errors import UserError

PATHS = ("model.path=some/model", "dataset.path=some/data")


@pytest.fixture
def write(here):
    """Write a YAML file and return how it is chosen."""

    def write(text, name="mine.yaml"):
        file = here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return f"recipe=./{name}"

    return write


@pytest.fixture
def config():
    """The config of a command line that has the two paths a run needs."""

    def config(*arguments):
        return load_config([*PATHS, *arguments])[0]

    return config


@pytest.fixture
def told():
    """What a user is told of a mistake."""

    def told(*arguments, paths=PATHS):
        with pytest.raises(UserError) as caught:
            load_config([*paths, *arguments])
        assert caught.value.exit_code == 2
        return str(caught.value)

    return told
