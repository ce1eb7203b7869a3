"""Warnings of the libraries that change a result are errors; a library that words one anew fails here first."""

import importlib.util
import logging
import warnings
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.training.upstream import REGISTRY, strict


@pytest.mark.parametrize("each", REGISTRY, ids=lambda each: each.part[:30])
def test_the_installed_library_still_words_it_so(each):
    spec = importlib.util.find_spec(each.library)
    if spec is None:
        pytest.skip(f"{each.library} is not installed")
    (folder,) = spec.submodule_search_locations
    assert any(each.part in file.read_text(encoding="utf-8", errors="replace") for file in Path(folder).rglob("*.py"))


@pytest.mark.parametrize("each", [each for each in REGISTRY if each.means], ids=lambda each: each.part[:30])
def test_it_is_an_error_whether_it_is_warned_or_logged(each):
    with pytest.raises(UserError, match=f"{each.library} warns: .*Here that is an error"), strict():
        warnings.warn(f"Well: {each.part} of it", stacklevel=1)
    with pytest.raises(UserError, match="Here that is an error"), strict():
        logging.getLogger(f"{each.library}.some.module").warning("%s of it", each.part)


def test_other_warnings_are_as_they_were(recwarn):
    logger = logging.getLogger("transformers")
    level = logger.level
    with strict():
        warnings.warn("harmless", stacklevel=1)
        logging.getLogger("transformers.trainer").warning("harmless")
    assert [str(each.message) for each in recwarn] == ["harmless"]
    assert logger.level == level
