"""The verbs that train: one run, one that goes on, many points, jobs of a cluster. Imports late, as `verbs` does."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.config.schema import Config
    from finetune.sweep.beginning import Sweep
    from finetune.sweep.folder import SweepFolder


def train(options: argparse.Namespace) -> None:
    """Train, evaluate, verify, and publish where asked."""
    if options.multirun:
        _sweep([*options.overrides, "sweep.sampler=grid"])
        return
    if options.follow:
        options.overrides.append("launch.follow=true")
    if options.dry_run:
        _show_script(options.overrides)
    else:
        _run(lambda: _loaded(options.overrides))


def _show_script(overrides: list[str]) -> None:
    config, notes = _loaded(overrides)
    from finetune import console, run

    # What is printed is for another program's input, so what is said goes elsewhere.
    with console.session(sys.stderr):
        script, said = run.script_of(config, notes)
        print(f"{script}\n# {said}")


def _loaded(overrides: list[str]) -> "tuple[Config, Sequence[str]]":
    from finetune.config.check import load_config

    config, composed = load_config(overrides)
    idle = ["sweep.space is idle: finetune sweep trains its points"] if config.sweep.space else []
    return config, [*composed.notes, *idle]


def _run(load: "Callable[[], tuple[Config, Sequence[str]]]") -> None:
    """Alone, or as one of several processes, of which the first composes."""
    from finetune.launch import typed

    here = typed.place()
    # A config that is wrong is told before anything heavy is loaded; where there are ranks, by the first alone.
    loaded = load() if here is None else ()
    from finetune import console, run
    from finetune.plan.run_folder import DONE

    with console.session():
        folder = run.run_as_rank(here, load) if here else run.run(*loaded)
        if folder.stage in DONE or run.followed(folder, console.say):
            console.conclude(folder)
        else:
            console.show_queued(folder)


def resume(options: argparse.Namespace) -> None:
    """Go on with a run that was stopped, or extend one that is finished."""
    if options.follow:
        options.overrides.append("launch.follow=true")

    def load() -> "tuple[Config, Sequence[str]]":
        from finetune.run import of_folder

        return of_folder(options.run, options.overrides, options.back_to)

    _run(load)


def sweep(options: argparse.Namespace) -> None:
    """Train many points, or go on with a sweep."""
    if options.overrides[:1] != ["resume"]:
        _sweep(options.overrides)
        return
    if len(options.overrides) < 2:
        raise UserError("finetune sweep resume needs the folder of a sweep")
    from finetune.sweep import going_on
    from finetune.sweep.folder import find

    folder = find(options.overrides[1])
    _swept(folder, lambda: going_on.resumed(folder, options.overrides[2:]))


def _sweep(words: list[str]) -> None:
    from finetune.sweep import beginning, going_on

    wanted = beginning.asked(words)
    folder = beginning.place(wanted)
    _swept(folder, lambda: going_on.opened(wanted, folder))


def _swept(folder: "SweepFolder", opened: "Callable[[], Sweep]") -> None:
    from finetune import console

    with console.session(), folder.locked(), folder.logged():
        console.show_sweep(opened())


def jobs(options: argparse.Namespace) -> None:
    """List the jobs of the runs in a folder, cancel one, or follow one."""
    from finetune.launch import jobs

    if options.action == "list":
        print("\n".join(jobs.lines(jobs.listed(Path(options.name or "runs")))))
        return
    if not options.name:
        raise UserError(f"finetune jobs {options.action} needs a run's folder or the number of a job")
    if options.action == "cancel":
        print(jobs.cancelled(options.name))
        return
    from finetune import console
    from finetune.launch import following
    from finetune.plan.run_folder import find

    following.follow(find(options.name), console.say)
