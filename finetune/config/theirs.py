"""The options that are the libraries' own against the installed versions."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from finetune.config import bounds, nested, options, written
from finetune.config.compose import Composed
from finetune.config.origin import nearest_origin
from finetune.config.places import RENAMED, Chosen, instead
from finetune.config.suggest import did_you_mean, nearest
from finetune.errors import Problem

NOTHING = {"adapter": "full", "quantization": "none"}
"""The method that uses nothing, of each group that has methods."""
GENERATION = "evaluation.generation.generation_config"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Read where answers are drawn, which `do_sample` decides."""
WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys",
    "null": "null",
}
MANY = 40
"""More options than this are not listed in a message."""


def method_class(group: str, node: Any) -> str | None:
    """The path of the class behind a group's method, or None."""
    return options.methods(group).get(str(node.get("method"))) if isinstance(node, dict) else None


def problems(composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """Everything wrong with what is the libraries'."""
    for group in ("trainer", *NOTHING):
        node = composed.values.get(group)
        if isinstance(node, dict):
            yield from _group(group, node, composed, chosen)
    yield from _generation(composed)


def _generation(composed: Composed) -> Iterator[Problem]:
    """How answers are decoded, in transformers' own words."""
    node: Any = composed.values
    for part in GENERATION.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    for name in node if isinstance(node, dict) else ():
        if name not in nested.generation():
            key = f"{GENERATION}.{name}"
            hint = did_you_mean(str(name), nested.generation())
            what = "is not an option of transformers.GenerationConfig that is decided here."
            yield Problem(key, nearest_origin(key, composed.origins), what, hint)
        elif name in SAMPLING and not node.get("do_sample"):
            key = f"{GENERATION}.{name}"
            what = "is set, and nothing reads it: greedy decoding draws nothing."
            yield Problem(
                key, nearest_origin(key, composed.origins), what, f"Write {GENERATION}.do_sample=true as well"
            )


def _group(group: str, node: dict[Any, Any], composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    if group in NOTHING and group not in chosen.classes and node.get("method") != NOTHING[group]:
        yield from _no_method(group, node, composed)
        return  # what else is set belongs to the method that was meant
    accepted = chosen.accepted(group)
    for name, value in node.items():
        key = f"{group}.{name}"
        where = nearest_origin(key, composed.origins)
        if name == "method" and group in NOTHING:
            continue
        if name in chosen.owned(group):
            yield Problem(key, where, "is decided elsewhere.", f"Write {chosen.owned(group)[name]}.")
        elif name not in accepted:
            yield Problem(key, where, _unknown(group, chosen), _instead(group, str(name), chosen))
        elif error := next(Draft202012Validator(accepted[name].schema).iter_errors(value), None):
            yield Problem(key, where, *_wrong(key, value, error, accepted[name].schema))
        elif group == "trainer":
            yield from _inside(name, value, node, composed, chosen)


def _inside(name: str, value: Any, node: dict[Any, Any], composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """What is wrong with the options inside an option."""
    accepted = chosen.accepted("trainer")
    whole = {each: option.default for each, option in accepted.items()} | node
    decider = nested.DECIDED_BY.get(name)
    if decider and whole[decider] not in choices_of(accepted[decider].schema):
        return
    known = nested.options_in(name, whole)
    if known is None:
        return
    for inner, part in nested.pairs(name, value).items():
        key = f"trainer.{name}.{inner}"
        where = nearest_origin(key, composed.origins)
        if inner not in known:
            who = f"trainer.{decider}={whole[decider]}" if decider else "it"
            hint = did_you_mean(str(inner), known) or f"Options: {', '.join(known) or 'none'}"
            yield Problem(key, where, f"{who} takes no such option.", hint)
        elif error := next(Draft202012Validator(known[inner].schema).iter_errors(part), None):
            yield Problem(key, where, *_wrong(key, part, error, known[inner].schema))


def _no_method(group: str, node: dict[Any, Any], composed: Composed) -> Iterator[Problem]:
    key, method, known = f"{group}.method", node.get("method"), options.methods(group)
    where = nearest_origin(key, composed.origins)
    if method is not None:
        hint = did_you_mean(str(method), known) or f"Methods: {', '.join(known)}"
        yield Problem(key, where, f"{method} is not a method of the installed library.", hint)
        return
    yield Problem(key, where, "must be set.", f"Write {group}=METHOD")
    if written_so := nearest("method", map(str, node)):
        wrong = f"{group}.{written_so}"
        yield Problem(wrong, nearest_origin(wrong, composed.origins), "there is no such key.", f"Did you mean {key}?")


def _unknown(group: str, chosen: Chosen) -> str:
    if group in chosen.classes:
        return f"is not an option of {chosen.classes[group]}."
    return f"is set, and {group}={NOTHING[group]} uses nothing of it."


def _instead(group: str, name: str, chosen: Chosen) -> str:
    known = [*(["method"] if group in NOTHING else []), *chosen.accepted(group)]
    close = nearest(name, [*known, *chosen.owned(group)])
    if name in RENAMED:
        return f"Write {RENAMED[name]}."
    if close:
        return f"Did you mean {group}.{close}?"
    if group not in chosen.classes:
        return f"Choose a method first: {group}=METHOD"
    return instead(name, chosen) or (f"Options: {', '.join(known)}" if len(known) <= MANY else "")


def _wrong(key: str, value: Any, error: ValidationError, schema: dict[str, Any]) -> tuple[str, str]:
    """What was written and expected, and what to write."""
    if unknown := _unknown_inside(value, error):
        name, known = unknown
        return f"takes no {name}.", did_you_mean(name, known) or f"Keys here: {', '.join(known)}"
    choices = choices_of(schema)
    types = sorted(types_of(error.schema) or types_of(schema))
    expected = f"one of: {', '.join(choices)}" if choices else " or ".join(WORDS.get(kind, kind) for kind in types)
    return f"wrote {written.short(key, value)}, expected {_limit(error) or expected}.", _hint(
        key, value, choices, types
    )


def _limit(error: ValidationError) -> str:
    """The limit that a number of the right type exceeds, in words; empty where the type is wrong."""
    broken = next((each for each in (error, *(error.context or ())) if each.validator in bounds.WORDS), None)
    return bounds.WORDS[str(broken.validator)].format(broken.validator_value) if broken else ""


def _unknown_inside(value: Any, error: ValidationError) -> tuple[str, list[str]] | None:
    """The first key of a nested mapping that its class does not have, and the keys that it has."""
    closed = (each for each in (error, *(error.context or ())) if each.validator == "additionalProperties")
    for each in closed:
        known = each.schema.get("properties", {})
        if strays := [str(name) for name in value if name not in known]:
            return strays[0], list(known)
    return None


def _hint(key: str, value: Any, choices: list[str], types: list[str]) -> str:
    if value is False and "no" in choices:
        return f'A bare no is false in YAML; write "no" in quotes, or {key}=no on the command line'
    if isinstance(value, str) and {"number", "integer"} & {*types} and value.replace(".", "", 1).isdigit():
        return "Write it without quotes."
    return did_you_mean(str(value), choices)


def choices_of(schema: dict[str, Any]) -> list[str]:
    """The words a schema admits, wherever in it they stand."""
    own = [str(choice) for choice in schema.get("enum", [])]
    nested = [*schema.get("anyOf", []), *schema.get("$defs", {}).values()]
    return [*own, *(choice for part in nested for choice in choices_of(part))]


def types_of(schema: dict[str, Any]) -> set[str]:
    """The JSON types a schema admits."""
    own = {str(schema["type"])} if "type" in schema else set()
    return own.union(*(types_of(part) for part in schema.get("anyOf", [])))
