"""The verbs that train nothing: options in, outcomes printed. Each imports late, so that `--help` loads nothing."""

import argparse
import os
import re
from pathlib import Path

from finetune.errors import UserError


def plan(options: argparse.Namespace) -> None:
    """Check everything and say what a run would do."""
    from finetune.config.check import load_config

    config, composed = load_config(options.overrides)
    from finetune import console
    from finetune.plan import planned
    from finetune.plan.catalogue import refuse_failed

    folder = options.output or Path(config.output_dir).expanduser() / config.name / "plan"
    with console.session():
        made, _ = planned.planned(config, composed.notes)
        console.show_plan(made)
        planned.write(made, folder)
        print(f"\nplan: {folder / 'plan.md'}")
        refuse_failed(made.checks)


def rehearse(options: argparse.Namespace) -> None:
    """Run the whole recipe shrunk."""
    from finetune.config.check import load_config

    config, _ = load_config(options.overrides)
    # Read when torch is imported: a rehearsal computes on the processor, which every machine has.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    from finetune import console
    from finetune.rehearse.rehearse import in_folder

    with console.session():
        console.show_rehearsal(in_folder(config, options.keep, options.model_type))


def show(options: argparse.Namespace) -> None:
    """The resolved config, or all that is known of the keys named."""
    import yaml

    from finetune.config import explain
    from finetune.config.check import dump, load_config

    keys = [word for word in options.overrides if re.fullmatch(r"[\w.]+", word)]
    config, composed = load_config([word for word in options.overrides if word not in keys])
    values = dump(config)
    for key in keys:
        for heading, text in explain.explained(key, values, composed):
            print(f"{heading}: {text}" if heading == key else f"  {heading:<8} {text}")
    if not keys and options.origin:
        print(explain.annotated(values, composed), end="")
    elif not keys:
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def diff(options: argparse.Namespace) -> None:
    """How two recipes or two runs differ."""
    from finetune.plan.compare import differences

    for key, left, right in differences(options.left, options.right):
        print(f"{key}\n  - {left}\n  + {right}")


def data(options: argparse.Namespace) -> None:
    """Rows as they would be trained."""
    from finetune.config.check import load_config

    config, _ = load_config(options.overrides)
    from finetune import console
    from finetune.data.prepare import prepare
    from finetune.data.preview import Choice

    with console.session():
        choice = Choice(options.split, options.rows, options.row, options.worst, options.source)
        console.show_rows(prepare(config), choice, options.html)


def evaluate(options: argparse.Namespace) -> None:
    """Score the model of a run."""
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console
    from finetune.artifacts.evaluate import evaluate

    with console.session():
        console.show_scores(evaluate(folder, options.split), {})


def predict(options: argparse.Namespace) -> None:
    """Answer with the model of a run."""
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console

    with console.session():
        console.answer(folder, options)


def publish(options: argparse.Namespace) -> None:
    """Upload the model of a run, or list what would be."""
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console

    with console.session():
        console.publish(folder, options)


def recipes(options: argparse.Namespace) -> None:
    """List, show and copy recipes."""
    from finetune.config import recipes

    if options.action == "list" and options.name:
        raise UserError(f"finetune recipes list takes no name; finetune recipes show {options.name} prints one")
    if options.action == "list":
        width = max(map(len, recipes.names()))
        for name in recipes.names():
            print(f"{name:<{width}}  {recipes.first_comment(recipes.find(name))}")
        return
    if not options.name:
        raise UserError(f"finetune recipes {options.action} needs the name of a recipe; `finetune recipes` lists them")
    if options.action == "show":
        print(recipes.find(options.name).read_text(encoding="utf-8"), end="")
    else:
        print(recipes.copy(options.name, options.target))


def store(options: argparse.Namespace) -> None:
    """List and clean what was prepared."""
    from finetune.data import cleaning

    clean = options.action == "clean"
    listed = cleaning.clean(cleaning.size(options.keep)) if clean else cleaning.entries()
    print("\n".join(cleaning.lines(listed, "removed" if clean else "in the store")))


def schema(options: argparse.Namespace) -> None:
    """Print or write the JSON Schema of recipes or groups."""
    from finetune.config import json_schema

    print(json_schema.told(options.name, options.output), end="")


def doctor(_: argparse.Namespace) -> None:
    """What this machine can do."""
    from finetune import console
    from finetune.doctor import diagnose

    console.show_diagnosis(diagnose())
