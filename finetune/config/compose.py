"""YAML and overrides to one typed Config, composed by Hydra once; Hydra's errors in our words.

The only module that knows Hydra. It loads no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import options, origin, recipes
from finetune.config.suggest import did_you_mean, nearest
from finetune.config.task import tasks
from finetune.errors import UserError

PRESET_GROUPS = {"model": "path", "dataset": "path", "tokenizer": "path"}
"""Groups users may mistake for a key: group to the key that takes a path."""


@dataclass(frozen=True)
class Composed:
    """What Hydra made, and where each part of it was written."""

    values: dict[str, Any]
    origins: dict[str, str]
    """Dotted key to `file:line` or `command line`."""


def compose(arguments: Sequence[str]) -> Composed:
    """Compose the config that a command line asks for.

    Args:
        arguments: Hydra overrides; `recipe=NAME` or `recipe=FILE.yaml` chooses a recipe.
    Raises:
        UserError: a recipe, group, option or override that does not exist or cannot be read.
    """
    recipe, overrides = _split(arguments)
    chain = inheritance(recipe) if recipe else []
    _store_methods()
    for name, file in chain:
        _store(f"recipe/{name}", _mapping(file))
    values, choices = _hydra([*([f"recipe={chain[-1][0]}"] if chain else []), *(_line(o) for o in overrides)])
    values.setdefault("name", Path(recipe).stem if recipe else values["task"]["name"])
    return Composed(values, _origins(choices, [file for _, file in chain], overrides))


def inheritance(recipe: str) -> list[tuple[str, Path]]:
    """A recipe and the recipes it inherits, the oldest ancestor first: group name and file."""
    file = recipes.find(recipe)
    node = _mapping(file)
    parents = [entry for entry in node.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    ancestors = [pair for parent in parents for pair in inheritance(parent)]
    return [*ancestors, (re.sub(r"\.ya?ml$", "", recipe).strip("./") or file.stem, file)]


def _split(arguments: Sequence[str]) -> tuple[str | None, list[Override]]:
    """The recipe, and the other overrides parsed."""
    chosen = [argument.removeprefix("recipe=") for argument in arguments if argument.startswith("recipe=")]
    if len(chosen) > 1:
        raise UserError(f"recipe= is given {len(chosen)} times; a recipe inherits others by its defaults list")
    parser = OverridesParser.create()
    return (chosen or [None])[0], [_parse(parser, text) for text in arguments if not text.startswith("recipe=")]


def _parse(parser: OverridesParser, text: str) -> Override:
    try:
        override = parser.parse_override(text)
    except HydraException as error:
        quoted = f"'{text.partition('=')[0]}=\"{text.partition('=')[2]}\"'"
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{text} cannot be read as key=value: {reason}. A value with , = {{ }} ( ) or spaces is quoted: {quoted}"
        ) from None
    if override.is_sweep_override():
        raise UserError(f"{text} names several values; a sweep runs them: finetune train -m {text}")
    return override


def _line(override: Override) -> str:
    """Values are forced in, so that an unknown key meets our validator, which reports all problems at once."""
    text: str = override.input_line
    is_group = override.key_or_group in recipes.groups() or override.key_or_group == "task"
    if is_group or override.is_delete() or text.startswith("hydra."):
        return text
    return "++" + text.lstrip("+")


def _mapping(file: Path) -> dict[str, Any]:
    origin.parse(file)
    node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    if not isinstance(node, dict):
        raise UserError(f"{origin.shown(file)} is not a mapping of keys to values")
    return node


def _store(path: str, node: dict[str, Any]) -> None:
    group, _, name = path.rpartition("/")
    package = "_global_" if path.startswith("recipe/") else None
    ConfigStore.instance().store(group=group, name=name, node=OmegaConf.create(node), package=package)


def _store_methods() -> None:
    """Every task, PEFT method and quantizer is an option of its group by its own name; a file of ours wins."""
    for name in tasks():
        _store(f"task/{name}", {"name": name})
    for group in ("adapter", "quantization"):
        for method in options.methods(group):
            if method not in recipes.groups()[group]:
                _store(f"{group}/{method}", {"method": method})


def _hydra(lines: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The composed values, resolved, and the option chosen in each group."""
    try:
        with initialize_config_dir(str(recipes.CONF), version_base="1.3"):
            config = hydra_compose("config", lines, return_hydra_config=True)
            choices = dict(config.hydra.runtime.choices)
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(_in_our_words(error)) from None
    return values, choices  # type: ignore[return-value]


def _in_our_words(error: Exception) -> str:
    """What Hydra means, and what to write."""
    text = str(error)
    if missing := re.search(r"Could not find '([\w-]+)/([^']+)'", text):
        return _no_option(missing[1], missing[2])
    if stray := re.search(r"Could not override '([^']+)'", text):
        group = stray[1].split("@")[0]
        groups = [*recipes.groups(), "task"]
        return f"{group} is not a config group. Groups: {', '.join(sorted(groups))}. {did_you_mean(group, groups)}"
    return text.splitlines()[0]


def _no_option(group: str, option: str) -> str:
    available = sorted({*_options(group)})
    if group in PRESET_GROUPS:
        return f"{group}={option}: no preset of that name ({', '.join(available)}). A path is written {group}.path={option}"
    close = nearest(option, available)
    hint = f"Did you mean {group}={close}?" if close else f"Options: {', '.join(available)}"
    return f"{group}={option} is not an option of {group}. {hint}"


def _options(group: str) -> list[str]:
    own = recipes.groups().get(group, [])
    return [*own, *tasks()] if group == "task" else [*own, *options.methods(group)]


def _origins(choices: dict[str, str], chain: list[Path], overrides: list[Override]) -> dict[str, str]:
    """Later ones win: the base, the chosen files of the groups, the recipes from the oldest, the command line."""
    found = origin.lines(recipes.CONF / "config.yaml")
    for group, option in choices.items():
        file = recipes.CONF / group / f"{option}.yaml"
        if option and file.is_file():
            found |= {group: origin.shown(file)} | origin.lines(file, f"{group}.")
    for file in chain:
        found |= origin.lines(file)
    return found | {o.key_or_group: f"command line: {o.input_line}" for o in overrides}
