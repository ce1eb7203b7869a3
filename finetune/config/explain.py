"""One key, or all of them, with where its value is from: what `finetune show` prints beside values.

Knows what is accepted and what was written; checks nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from finetune.config import written
from finetune.config.bounds import WORDS
from finetune.config.check import chosen_by
from finetune.config.compose import Composed
from finetune.config.docs import field_docs
from finetune.config.origin import nearest_origin
from finetune.config.places import Chosen
from finetune.config.provenance import flat
from finetune.config.reading import Loader
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.config.theirs import choices_of, types_of
from finetune.errors import UserError

DEFAULT = "default"
UNWRAPPED = 1_000_000
"""No value is wrapped: a comment behind the first line of a wrapped one would be part of it."""


@dataclass(frozen=True)
class Known:
    """What is accepted under a key, and who says so."""

    owner: str
    schema: dict[str, Any]
    help: str
    default: Any


def explained(key: str, values: dict[str, Any], composed: Composed) -> Iterator[tuple[str, str]]:
    """All that is known of one key, a heading and a text each.

    Args:
        values: the resolved config.
    Raises:
        UserError: there is no such key.
    """
    known, found = _known(key, chosen_by(composed)[0]), dict(flat(values))
    if known is None and key not in found:
        raise UserError(f"show {key}: there is no such key. {did_you_mean(key, found)}".rstrip())
    yield key, _shown(key, found.get(key, known.default if known else None))
    yield "set by", origin_of(key, composed)
    for earlier in reversed(composed.settings.get(key, [])[:-1]):
        yield "over", f"{_shown(key, earlier.value)}, {earlier.where}"
    if known:
        yield from _accepted(key, known, is_set=key in composed.settings)


def _accepted(key: str, known: Known, is_set: bool) -> Iterator[tuple[str, str]]:
    if is_set and known.default is not None:
        yield "over", f"{_shown(key, known.default)}, default of {known.owner}"
    if choices := choices_of(known.schema):
        yield "choices", ", ".join(choices)
    else:
        yield "type", ", ".join([" or ".join(sorted(types_of(known.schema))) or "any", *_limits(known.schema)])
    yield "of", known.owner
    if known.help:
        yield "help", " ".join(known.help.split())


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    yield from (text.format(schema[name]) for name, text in WORDS.items() if name in schema)
    for branch in schema.get("anyOf", []):
        yield from _limits(branch)


def _shown(key: str, value: Any) -> str:
    return "a secret" if written.is_secret(key, value) else json.dumps(value, ensure_ascii=False, default=str)


def _known(key: str, chosen: Chosen) -> Known | None:
    """What is accepted under a key, ours or a library's; None for one inside a free mapping."""
    group, _, name = key.partition(".")
    if group in chosen.classes and name in chosen.accepted(group):
        option = chosen.accepted(group)[name]
        return Known(chosen.classes[group], option.schema, option.help, option.default)
    cls: Any = Config
    *above, last = key.split(".")
    for part in above:
        cls = chosen.task if part == "task" else get_type_hints(cls).get(part)
        if not is_dataclass(cls):
            return None
    return _of_field(cls, last)


def _of_field(cls: Any, name: str) -> Known | None:
    field = next((each for each in fields(cls) if each.name == name), None)
    hint: Any = get_type_hints(cls, include_extras=True).get(name)
    if field is None or is_dataclass(hint):
        return None
    default = None if field.default is MISSING else field.default
    schema = TypeAdapter(hint).json_schema()
    return Known("finetune", schema, field_docs(cls).get(name, ""), default)


def annotated(values: dict[str, Any], composed: Composed) -> str:
    """The resolved config as YAML that says behind each value where it is from."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=UNWRAPPED)
    ends = dict(_ends(yaml.compose(text, Loader=Loader)))
    lines = text.splitlines()
    width = max(len(line) for line in lines if len(line) < 60)
    for key, at in ends.items():
        lines[at] = f"{lines[at]:<{width}}  # {origin_of(key, composed)}"
    return "\n".join(lines) + "\n"


def origin_of(key: str, composed: Composed) -> str:
    """Where the value of a key is from: what wrote it, or what wrote the list or mapping it is part of."""
    written = [prefix for prefix in _prefixes(key) if prefix in composed.settings]
    whole = [prefix for prefix in written if not isinstance(composed.settings[prefix][-1].value, dict | None)]
    return nearest_origin(key, composed.origins) if key in composed.settings or whole else DEFAULT


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _ends(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The dotted key of each leaf and the line its value ends on; a mapping has leaves, a list is one."""
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _ends(value, f"{path}.")
        else:
            at_list = isinstance(value, yaml.SequenceNode) and value.value
            yield path, key.start_mark.line if at_list else value.end_mark.line
