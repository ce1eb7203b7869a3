"""What decides how rows are rendered and tokenized besides files: versions of libraries, and the day.

Imports none of the libraries.
"""

from datetime import date, datetime
from importlib.metadata import version
from typing import Any

from finetune.config.task import Task

# fastokens is left out: it is used only where its ids are proven equal to those of tokenizers.
LIBRARIES = ("transformers", "tokenizers", "jinja2")
CLOCK = "strftime_now"
"""What templates ask for the date with."""


def versions() -> dict[str, str]:
    """The installed libraries that make tokens of rows."""
    return {name: version(name) for name in LIBRARIES}


def renders(task: Task) -> bool:
    """Whether the chat template may decide the rows of a task."""
    return "tokenizer.chat_template" not in task.unread


def day(processor: Any) -> str | None:
    """Today, where the chat template of a tokenizer or of a processor writes the date."""
    return date.today().isoformat() if CLOCK in str(getattr(processor, "chat_template", None)) else None


def program(template: str) -> Any | None:
    """The template as upstream compiles it, once for a process; None where upstream has it no more."""
    from transformers.utils import chat_template_utils

    compile_template = getattr(chat_template_utils, "_compile_jinja_template", None)
    return compile_template(template) if compile_template else None


def at(moment: datetime, tokenizer: Any) -> None:
    """Let a template that writes the date write that of a moment, in this process: rendered again, it is the same."""
    if day(tokenizer) and (compiled := program(tokenizer.get_chat_template())):
        compiled.environment.globals[CLOCK] = moment.strftime
