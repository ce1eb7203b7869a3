"""YAML and overrides to plain values, composed by Hydra once; Hydra's errors in our words.

The only module that knows Hydra. It loads no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import groups, hydra_errors, inheritance, options, origin, provenance, recipes, written
from finetune.config.inheritance import Lineage
from finetune.config.installed import tasks
from finetune.config.interpolation import resolve, veiled
from finetune.config.origin import COMMAND_LINE
from finetune.config.provenance import Setting, Settings
from finetune.errors import ConfigError, Problem, UserError

BASE = "config"


@dataclass(frozen=True)
class Composed:
    """What Hydra made, where each part of it was written, and what was left out because it cannot be read."""

    values: dict[str, Any]
    settings: Settings
    """Dotted key to everything that set it, the last one wins."""
    problems: tuple[Problem, ...] = ()
    recipe: str | None = None
    notes: tuple[str, ...] = ()
    """What was written and is idle, because something written later decides."""

    @cached_property
    def origins(self) -> dict[str, str]:
        """Dotted key to the `file:line` or `command line` that its value is from."""
        return {key: settings[-1].where for key, settings in self.settings.items()}


@dataclass
class CommandLine:
    """The overrides, sorted: the recipe, a choice for each group, and values."""

    recipe: str | None = None
    choices: dict[str, str] = field(default_factory=dict)
    values: list[Override] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is written twice: the last one counts."""


def compose(arguments: Sequence[str]) -> Composed:
    """Compose the config that a command line asks for.

    Args:
        arguments: Hydra overrides; `recipe=NAME` or `recipe=FILE.yaml` chooses a recipe.
    Raises:
        UserError: a recipe cannot be found or read.
        ConfigError: Hydra cannot compose what is left when everything unreadable is left out.
    """
    command = _read(arguments)
    lineage = inheritance.read(command.recipe) if command.recipe else Lineage()
    problems = [*lineage.problems, *command.problems]
    config, defaults = _hydra(_store(lineage), command, problems)
    composed = Composed({}, _settings(defaults, lineage, command), recipe=command.recipe)
    values = resolve(config, composed.origins, problems)
    task = values.get("task")
    if "name" not in values:
        rule = "rule: the recipe's name" if command.recipe else "rule: the task's name"
        values["name"] = Path(command.recipe).stem if command.recipe else _name(task)
        composed.settings["name"] = [Setting(rule, values["name"])]
    return Composed(values, composed.settings, tuple(problems), command.recipe, tuple(command.notes))


def _name(task: Any) -> str:
    return str(task.get("name")) if isinstance(task, dict) else str(task)


def _read(arguments: Sequence[str]) -> CommandLine:
    """Sort the overrides; one that cannot be read becomes a problem."""
    command, parser = CommandLine(), OverridesParser.create()
    for text in arguments:
        match = re.match(r"\+{0,2}recipe=(.*)", text, re.DOTALL)
        if match and command.recipe is not None:
            raise UserError("recipe= is given twice; a recipe inherits others by its defaults list")
        if match:
            command.recipe = match[1].strip("'\"")
        else:
            _sort(text, parser, command)
    if command.recipe == "":
        raise UserError(f"recipe= names nothing. {recipes.FURTHER}")
    return command


def _sort(text: str, parser: OverridesParser, command: CommandLine) -> None:
    if reason := written.oversized(text):
        costly = Problem(written.key_of(text), COMMAND_LINE, f"is refused: {reason}.", "Write it into a file.")
        command.problems.append(costly)
        return
    try:
        override = parser.parse_override(text)
    except HydraException as error:
        command.problems.append(_unreadable(text, error))
        return
    key = override.key_or_group
    if problem := _misused(override, command):
        command.problems.append(problem)
    elif key in groups.names() and not override.is_delete():
        command.choices[key] = str(override.value())
    else:
        before = [str(each.input_line) for each in command.values if each.key_or_group == key]
        if before and not before[-1].endswith("}"):  # mappings join each other
            command.notes.append(f"{written.override(before[-1])} is idle: {written.override(text)} comes after it")
        command.values.append(override)


def _unreadable(text: str, error: HydraException) -> Problem:
    key, equals, _ = text.partition("=")
    if not equals:
        recipe = f" A recipe is chosen with recipe={text}" if text in recipes.names() or text.endswith(".yaml") else ""
        return Problem(written.override(text), COMMAND_LINE, "is not of the form key=value.", recipe.strip())
    if not re.fullmatch(r"[~+]{0,2}[\w@:-]+([./][\w@:-]+)*", key):
        what = f"{written.override(text)} is not of the form key=value."
        return Problem(key or "=", COMMAND_LINE, what, "A key is dotted names, such as trainer.learning_rate")
    hint = f"Text with , = {{ }} ( ) ~ or quotes in it is quoted twice: {written.quoted(text)}"
    if written.is_secret(key, text):
        return Problem(key, COMMAND_LINE, "the value cannot be read.", "No credential belongs into a config.")
    return Problem(key, COMMAND_LINE, f"{text} cannot be read: {str(error).splitlines()[0]}.", hint)


def _misused(override: Override, command: CommandLine) -> Problem | None:
    """What Hydra would take and no run can use."""
    key, text = override.key_or_group, written.override(_text(override))
    if not key:
        return Problem(text, COMMAND_LINE, "is not of the form key=value.")
    if override.package is not None:
        return Problem(text, COMMAND_LINE, "a group is chosen by its name alone.", f"Write {key}=…")
    if key == "recipe":
        return Problem(key, COMMAND_LINE, "holds nothing of its own.", "Write recipe=NAME, or leave it out.")
    if re.match(r"hydra\b", key):
        return Problem(key, COMMAND_LINE, "nothing reads it: Hydra composes the config and does no more.")
    if override.is_sweep_override():
        what = f"{text} names several values, which only finetune sweep takes, or train -m."
        return Problem(key, COMMAND_LINE, what, _one_text(override))
    if key not in groups.names() or override.is_delete():
        return groups.refusal(key, override.value(), COMMAND_LINE) if "/" in key else None
    if key in command.choices:
        return Problem(key, COMMAND_LINE, f"is chosen twice: {command.choices[key]} and {override.value()}.")
    return groups.refusal(key, override.value(), COMMAND_LINE)


def _text(override: Override) -> str:
    return override.input_line or ""


def _one_text(override: Override) -> str:
    if written.is_secret(override.key_or_group, _text(override)):
        return ""
    return f"One text with a comma in it is quoted twice: {written.quoted(_text(override))}"


@cache
def _store_methods() -> None:
    """Every task, PEFT method and quantizer is an option of its group by its own name; a file of ours wins."""
    store = ConfigStore.instance().store
    for name in tasks():
        store(group="task", name=name, node=OmegaConf.create({"name": name}))
    for group in groups.METHODS:
        for method in set(options.methods(group)) - set(recipes.groups()[group]):
            store(group=group, name=method, node=OmegaConf.create({"method": method}))


def _store(lineage: Lineage) -> dict[str, Path]:
    """The layers of a recipe, and one config over them that chooses from the groups; layer to file."""
    _store_methods()
    store, files = ConfigStore.instance().store, {}
    for number, (file, values) in enumerate(lineage.layers):
        store(group="recipe", name=f"layer{number}", node=OmegaConf.create(veiled(values)), package="_global_")
        files[f"recipe/layer{number}"] = file
    overrides = [{f"override /{group}": option} for group, option in lineage.choices.items()]
    defaults = [*(name.removeprefix("recipe/") for name in files), *overrides]
    store(group="recipe", name="all", node=OmegaConf.create({"defaults": defaults}), package="_global_")
    return files


def _hydra(
    layers: dict[str, Path], command: CommandLine, problems: list[Problem]
) -> tuple[DictConfig, list[tuple[Path | None, ResultDefault]]]:
    """The composed config, and each part of it with the file it is from."""
    lines = ["recipe=all", *(f"{group}={option}" for group, option in command.choices.items())]
    # Values are forced in, so that an unknown key meets our validator, which reports all problems at once.
    lines += [f"hydra.searchpath=[{','.join(_quoted(folder) for folder in _own_folders())}]"]
    lines += [_text(each) if each.is_delete() else f"++{_text(each).lstrip('+')}" for each in command.values]
    try:
        with initialize_config_dir(str(recipes.CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration(BASE, lines, RunMode.RUN)
            parts = loader.compute_defaults_list(BASE, lines, RunMode.RUN).defaults
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([*problems, hydra_errors.explain(error, map(_text, command.values))]) from None
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config, [(_file(part, layers), part) for part in parts]


def _own_folders() -> list[Path]:
    """The user's folders of groups, each of whose files can be read."""
    for file in (file for folder in recipes.own_folders for file in folder.glob("*/*.yaml")):
        origin.parse(file)
    return recipes.own_folders


def _quoted(folder: Path) -> str:
    return "'file://" + str(folder).replace("'", "\\'") + "'"


def _file(part: ResultDefault, layers: dict[str, Path]) -> Path | None:
    """The file of a part of the config; what is not a file is of Hydra or a method of a library."""
    return layers.get(part.config_path or "") or recipes.file_of(str(part.config_path))


def _settings(parts: list[tuple[Path | None, ResultDefault]], lineage: Lineage, command: CommandLine) -> Settings:
    """Later ones win: the base, the chosen files of the groups, the recipes from the oldest, the command line."""
    chosen = lineage.origins | dict.fromkeys(command.choices, COMMAND_LINE)
    found: Settings = {}
    for file, part in parts:
        package = part.package or ""
        if file:
            provenance.add(found, {package: Setting(origin.shown(file))} | provenance.of_file(file, package))
        elif package in chosen:
            named = f"{package}.{'name' if package == groups.TASK else 'method'}"
            option = Path(str(part.config_path)).name
            provenance.add(found, {package: Setting(chosen[package], {}), named: Setting(chosen[package], option)})
    typed = [provenance.of_value(each.key_or_group, each.value(), COMMAND_LINE) for each in command.values]
    provenance.add(found, {key: setting for each in typed for key, setting in each.items()})
    return found
