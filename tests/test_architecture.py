"""The floors of the house: an import goes down or stays on its floor, never up, and there are no circles."""

import ast
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import finetune

PACKAGE = Path(finetune.__file__).parent
FLOORS = (
    ("errors",),
    ("config",),
    ("models",),
    ("data",),
    ("tasks",),
    ("evaluation",),
    ("estimate",),
    ("plan",),
    ("training",),
    ("artifacts",),
    ("worker",),
    ("launch",),
    ("run", "rehearse", "sweep"),
    ("console", "doctor"),
    ("verbs", "training_verbs"),
    ("cli",),
)
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
HEIGHT |= {"__init__": 0, "__main__": len(FLOORS)}
HEAVY = {"torch", "transformers", "datasets", "peft", "trl", "accelerate"}
MOST_LINES = 250
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "constants", "manager", "managers", "common", "misc"}


def name_of(file):
    """The dotted name of a module below the package; a package's is that of its folder."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def statements(node, inside_functions):
    """Every node that runs: all of them, or only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_for_types(child) and (inside_functions or not is_function):
            yield child
            yield from statements(child, inside_functions)


@cache
def imported(name, inside_functions=True):
    """The dotted names that a module imports."""
    found = set()
    for node in statements(tree(name), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name, inside_functions=True):
    """The modules of the package that a module imports."""
    below = {
        each.removeprefix("finetune.") for each in imported(name, inside_functions) if each.startswith("finetune.")
    }
    return {module for each in below for module in (each, each.rpartition(".")[0]) if module in FILES} - {name}


def height(name):
    return HEIGHT[name.partition(".")[0]]


def test_every_module_has_a_floor():
    assert {name.partition(".")[0] for name in FILES} == HEIGHT.keys()


@pytest.mark.parametrize("name", FILES)
def test_an_import_never_goes_up(name):
    up = {
        module for module in ours(name, inside_functions=not name.endswith("verbs")) if height(module) > height(name)
    }
    assert not up, f"{name} imports {', '.join(sorted(up))} from a floor above"


def test_no_circles():
    finished = set()

    def visit(name, path):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in finished:
            for module in sorted(ours(name)):
                visit(module, [*path, name])
            finished.add(name)

    for name in FILES:
        visit(name, [])


@pytest.mark.parametrize(
    "name", [name for name in FILES if name.startswith(("config", "errors", "cli", "verbs", "training_verbs"))]
)
def test_the_front_door_loads_no_heavy_library_when_imported(name):
    assert not {each.partition(".")[0] for each in imported(name, inside_functions=False)} & HEAVY


def those_that_import(library):
    return [name for name in FILES if any(each.partition(".")[0] == library for each in imported(name))]


def test_hydra_is_known_where_configs_are_composed_and_where_its_grammar_names_a_space():
    assert those_that_import("hydra") == ["config.compose", "config.space"]


def test_one_module_knows_optuna():
    assert those_that_import("optuna") == ["sweep.study"]


def test_no_module_imports_a_task_by_name():
    tasks = {point.module.removeprefix("finetune.") for point in entry_points(group="finetune.tasks")}
    assert tasks <= FILES.keys()
    assert not {name for name in FILES if ours(name) & tasks}


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_short(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", FILES)
def test_a_module_says_what_it_knows(name):
    assert not set(name.split(".")) & FORBIDDEN_NAMES
    assert ast.get_docstring(tree(name))
