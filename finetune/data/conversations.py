"""Chat data in the layouts people have, detected and turned into one: `messages` with roles and content."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from finetune.config.task import RowError
from finetune.data.columns import check
from finetune.errors import UserError

Message = dict[str, Any]
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
ROLES = ("system", "developer", "user", "assistant", "tool")
SYSTEM = ("system", "developer")
"""Roles of messages that say how to answer, before anything is asked."""
ANSWERS = ("output", "completion")
"""Roles of columns that hold an answer alone: a row that asks has none."""


@dataclass(frozen=True)
class Conversation:
    """What is rendered: messages, the tools that the assistant may call, and the messages that are trained."""

    messages: list[Message]
    tools: list[Any] | None = None
    trained: tuple[int, ...] = ()
    """Indices of messages of the assistant."""


@dataclass(frozen=True)
class Layout:
    """A way of writing a conversation: the roles of its columns, and how a row becomes messages."""

    needs: tuple[str, ...]
    read: Callable[[dict[str, Any], dict[str, str]], list[Message]]
    optional: tuple[str, ...] = ()


def _messages(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return turns("", row[columns["messages"]])


def _sharegpt(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return turns("", row[columns["conversations"]])


def _alpaca(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    parts = [row[columns[role]] for role in ("instruction", "input") if role in columns]
    prompt = "\n\n".join(_text(part) for part in parts if part)
    return [*turns("user", prompt), *turns("assistant", row[columns["output"]])]


def _prompt_completion(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return [*turns("user", row[columns["prompt"]]), *turns("assistant", row[columns["completion"]])]


def _completion_only(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    return turns("assistant", row[columns["text"]])


def turns(role: str, value: Any) -> list[Message]:
    """The messages of a list, or the one message of a text that `role` says.

    Raises:
        RowError: it is neither, or a message has no content.
    """
    if role and not isinstance(value, list):
        return [_message({"role": role, "content": value})]
    if not value:
        raise RowError("no messages")
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise RowError("not a list of messages with role and content")
    return [_message(turn) for turn in value]


def _message(turn: dict[str, Any]) -> Message:
    """A message by the names of the `messages` layout, whichever its own are."""
    kept = _without_nulls(turn)
    role, content = kept.pop("role", kept.pop("from", None)), kept.pop("content", kept.pop("value", None))
    role = SHAREGPT_ROLES.get(role, role)
    if role not in ROLES:
        raise RowError(f"unknown role {role!r}, expected one of {', '.join(ROLES)}")
    if not (content.strip() if isinstance(content, str) else content) and not kept.get("tool_calls"):
        raise RowError(f"a message of {role} has no content")
    if content is None:
        return {"role": role, **kept}
    return {"role": role, "content": content if isinstance(content, list) else _text(content), **kept}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"{type(value).__name__} where a text is expected")
    return value


def _without_nulls(value: Any) -> Any:
    """The value without the nulls that Arrow fills in for keys other rows have, at any depth."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


LAYOUTS = {
    "messages": Layout(("messages",), _messages, ("system", "tools")),
    "sharegpt": Layout(("conversations",), _sharegpt, ("system", "tools")),
    "alpaca": Layout(("instruction", "output"), _alpaca, ("input", "system", "history", "tools")),
    "prompt_completion": Layout(("prompt", "completion"), _prompt_completion, ("system", "history", "tools")),
    "text": Layout(("text",), _completion_only),
}
ASKED = {role for layout in LAYOUTS.values() for role in layout.needs} - {*ANSWERS}
"""Roles of columns without which nothing is asked."""


def detect(names: Sequence[str], columns: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The layout of rows with these columns, and role to column.

    Args:
        names: the columns there are.
        columns: role to column as the user named them, all of one layout; other roles are columns of the same name.
    Raises:
        UserError: a named column is not there, or no layout fits.
    """
    check(columns, names)
    named = {name: name for name in names} | columns
    for name, layout in LAYOUTS.items():
        roles = (*layout.needs, *layout.optional)
        if set(layout.needs) <= set(named) and set(columns) <= set(roles):
            return name, {role: named[role] for role in roles if role in named}
    known = "; ".join(f"{name}: {', '.join(layout.needs)}" for name, layout in LAYOUTS.items())
    written = f" with dataset.columns {', '.join(columns)}" if columns else ""
    raise UserError(
        f"no chat layout fits the columns {', '.join(names)}{written}. Layouts and the columns they need: {known}. "
        "Name yours, for example dataset.columns.prompt=question dataset.columns.completion=answer"
    )


def read(row: dict[str, Any], layout: str, columns: dict[str, str]) -> list[Message]:
    """The messages of a row.

    Raises:
        RowError: the row is not what its layout says.
    """
    said = LAYOUTS[layout].read(row, columns)
    first = sum(1 for _ in takewhile(lambda message: message["role"] in SYSTEM, said))
    said[first:first] = _history(row[columns["history"]]) if "history" in columns else []
    return under_system(row[columns["system"]], said) if "system" in columns else said


def _history(value: Any) -> list[Message]:
    """The turns before the one that a row asks."""
    pairs = value or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowError("history is not a list of pairs, each a question and its answer")
    return [message for asked, answer in pairs for message in (*turns("user", asked), *turns("assistant", answer))]


def under_system(value: Any, messages: list[Message]) -> list[Message]:
    """The messages below what the column `system` says, unless they say it themselves.

    Raises:
        RowError: they say something else.
    """
    if value is None or not _text(value).strip():
        return messages
    own = [message.get("content") for message in messages if message["role"] in SYSTEM]
    if own and own != [value]:
        raise RowError("the column of system and the system message of the row differ")
    return messages if own else [{"role": "system", "content": value}, *messages]


def tools(row: dict[str, Any], columns: dict[str, str]) -> list[Any] | None:
    """The tools of a row, a list of their JSON schemas or its text; None where it has none.

    Raises:
        RowError: they are something else.
    """
    value = row.get(columns.get("tools", "tools"))
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"tools are not JSON: {error}") from None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError("tools are not a list of JSON schemas")
    found: list[Any] = _without_nulls(value)
    return found


def first_answer(row: dict[str, Any], layout: str, columns: dict[str, str]) -> int:
    """The index of the first message of what a row answers, where a column holds the answer alone."""
    answer = next(role for role in ANSWERS if role in LAYOUTS[layout].needs)
    return len(read(row, layout, columns)) - len(turns("assistant", row[columns[answer]]))


def question(row: dict[str, Any], columns: dict[str, str]) -> list[Message]:
    """What a row asks: its messages before the answer they end with, which the row may lack.

    Args:
        columns: role to column, as trained; where the row has none of them, its columns are named by their roles.
    Raises:
        UserError: the row fits no layout.
        RowError: the row is not what its layout says, or asks nothing.
    """
    known = {role: column for role, column in columns.items() if column in row or role in ANSWERS}
    known = known if set(known) & ASKED else {}
    answered = {known.get(role, role): "answer" for role in ANSWERS} | row
    messages = read(answered, *detect(list(answered), known))
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise RowError("nothing is asked")
    return messages


def text(row: dict[str, Any], columns: dict[str, str]) -> str:
    """The text of a row of layout `text`.

    Raises:
        RowError: there is none.
    """
    value = row[columns["text"]]
    if not isinstance(value, str) or not value.strip():
        raise RowError("no text")
    return value


def example(columns: dict[str, str]) -> list[dict[str, Any]]:
    """Made-up rows in the first layout that takes the named columns.

    Args:
        columns: role to column; other roles are columns of the same name.
    Raises:
        UserError: no layout has these roles.
    """
    said = {"user": "What is it?", "assistant": "It is a cat."}
    turns = [{"role": role, "content": content} for role, content in said.items()]
    values = {"messages": turns, "conversations": turns, **dict.fromkeys(ANSWERS, said["assistant"])}
    values |= {"history": [[said["user"], said["assistant"]]], "tools": []}
    for layout in LAYOUTS.values():
        if set(columns) <= {*layout.needs, *layout.optional}:
            roles = (*layout.needs, *(role for role in layout.optional if role in columns))
            return [{columns.get(role, role): values.get(role, said["user"]) for role in roles}]
    raise UserError(f"dataset.columns: no chat layout has the roles {', '.join(columns)} together")
