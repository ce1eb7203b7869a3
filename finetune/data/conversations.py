"""Chat data in the layouts people have, detected and turned into one: `messages` with roles and content."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.task import RowError
from finetune.errors import UserError

Message = dict[str, Any]
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Layout:
    """A way of writing a conversation: the roles it needs, and how a row becomes messages."""

    needs: tuple[str, ...]
    read: Callable[[dict[str, Any], dict[str, str]], list[Message]]


def _messages(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    turns = row[columns["messages"]]
    if not isinstance(turns, list) or not turns:
        raise RowError("no messages")
    return [_message(turn.get("role"), turn) for turn in turns]


def _sharegpt(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    turns = row[columns["conversations"]]
    if not isinstance(turns, list) or not turns:
        raise RowError("no messages")
    return [_message(SHAREGPT_ROLES.get(turn["from"], turn["from"]), {"content": turn["value"]}) for turn in turns]


def _alpaca(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    extra = row.get(columns.get("input", "input")) or ""
    prompt = "\n\n".join(part for part in (row[columns["instruction"]], extra) if part)
    return [_message("user", {"content": prompt}), _message("assistant", {"content": row[columns["output"]]})]


def _prompt_completion(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return [*_turns("user", row[columns["prompt"]]), *_turns("assistant", row[columns["completion"]])]


def _completion_only(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return [_message("assistant", {"content": row[columns["text"]]})]


def _turns(role: str, value: Any) -> list[Message]:
    if isinstance(value, list):
        return [_message(turn.get("role"), turn) for turn in value]
    return [_message(role, {"content": value})]


def _message(role: str | None, turn: dict[str, Any]) -> Message:
    """A message without the nulls that Arrow fills in for keys other rows have."""
    if role not in ROLES:
        raise RowError(f"unknown role {role!r}, expected one of {', '.join(ROLES)}")
    kept = {key: value for key, value in turn.items() if value is not None and key not in ("role", "from", "value")}
    if not kept.get("content") and not kept.get("tool_calls"):
        raise RowError(f"a message of {role} has no content")
    return {"role": role, **kept}


LAYOUTS = {
    "messages": Layout(("messages",), _messages),
    "sharegpt": Layout(("conversations",), _sharegpt),
    "alpaca": Layout(("instruction", "output"), _alpaca),
    "prompt_completion": Layout(("prompt", "completion"), _prompt_completion),
    "text": Layout(("text",), _completion_only),
}


def detect(first: dict[str, Any], columns: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The layout of the rows, and role to column.

    Args:
        first: the first row.
        columns: role to column as the user named them; other roles are the columns of the same name.
    Raises:
        UserError: no layout fits the columns.
    """
    _existing(first, columns)
    named = {name: name for name in first} | columns
    for layout, needs in ((name, layout.needs) for name, layout in LAYOUTS.items()):
        if all(role in named for role in needs):
            found = {role: named[role] for role in (*needs, "input") if role in named}
            return _by_keys(layout, found, first)
    known = "; ".join(f"{name}: {', '.join(layout.needs)}" for name, layout in LAYOUTS.items())
    raise UserError(
        f"no chat layout fits the columns {', '.join(first)}. Layouts and the columns they need: {known}. "
        "Name yours, for example dataset.columns.prompt=question dataset.columns.completion=answer"
    )


def _existing(first: dict[str, Any], columns: dict[str, str]) -> None:
    if absent := [column for column in columns.values() if column not in first]:
        raise UserError(f"dataset.columns names {', '.join(absent)}, but the data has the columns {', '.join(first)}")


def _by_keys(layout: str, found: dict[str, str], first: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """`messages` and `conversations` are both used for both layouts of turns; their keys tell which it is."""
    if layout not in ("messages", "sharegpt"):
        return layout, found
    column = next(iter(found.values()))
    turns: Sequence[Any] = first[column] or [{}]
    if isinstance(turns, str) or not isinstance(turns[0], dict):
        raise UserError(f"{column} holds {type(turns).__name__}, expected a list of messages with role and content")
    return ("sharegpt", {"conversations": column}) if "from" in turns[0] else ("messages", {"messages": column})


def read(row: dict[str, Any], layout: str, columns: dict[str, str]) -> list[Message]:
    """The messages of a row.

    Raises:
        RowError: the row is not what its layout says.
    """
    return LAYOUTS[layout].read(row, columns)


def text(row: dict[str, Any], columns: dict[str, str]) -> str:
    """The text of a row of layout `text`.

    Raises:
        RowError: there is none.
    """
    value = row[columns["text"]]
    if not isinstance(value, str) or not value.strip():
        raise RowError("no text")
    return value
