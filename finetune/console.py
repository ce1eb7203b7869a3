"""What a person sees: plans, rows, scores, the end of a run. Formats; decides nothing; loads late what it shows."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from finetune.errors import MachineError, UserError
from finetune.plan.run_folder import RunFolder

if TYPE_CHECKING:
    from finetune.artifacts.predict import Answer
    from finetune.data.prepare import Prepared
    from finetune.data.preview import Choice
    from finetune.doctor import Finding
    from finetune.plan.plan import Plan
    from finetune.rehearse.rehearse import Stage
    from finetune.rehearse.shrink import Replaced
    from finetune.sweep.beginning import Sweep

# Markup is off: user data and paths may hold square brackets.
console = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=not sys.stdout.isatty())
log = logging.getLogger("finetune")
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "true"}


@contextmanager
def session(stream: TextIO | None = None) -> Iterator[None]:
    """Our own log lines on the console, or on another stream; the libraries' advice off."""
    _quieten()
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.addFilter(lambda record: not getattr(record, "is_on_bar", False))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            log.removeHandler(handler)


def _quieten() -> None:
    """Quieten libraries that may be imported later, or never; a terminal keeps the bars of downloads."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stdout.isatty():
        disable_progress_bars()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if loaded := sys.modules.get("transformers"):
        loaded.logging.set_verbosity_error()


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    from finetune.plan.show import show

    show(plan, console)


def show_scores(scores: dict[str, float], baseline: dict[str, float]) -> None:
    """Print scores, beside the untouched model's where they are known."""
    table = Table(box=None, padding=(0, 3, 0, 0))
    for heading in ("metric", "fine-tuned", *(["untouched"] if baseline else [])):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, value in scores.items():
        table.add_row(
            name, f"{value:.4f}", *([f"{baseline[name]:.4f}" if name in baseline else "—"] if baseline else [])
        )
    console.print(table)


def conclude(folder: RunFolder) -> None:
    """The end of a run: its scores, where it lies, what to do next."""
    outcome = folder.read("evaluation.json")
    console.print(f"\ntrained in {outcome['training_seconds']:.0f} s, scored on {outcome['rows']} validation rows\n")
    show_scores(outcome["scores"], outcome["baseline"] or {})
    name, greater = outcome["score"]
    if outcome["baseline"] and not _better(outcome["scores"][name], outcome["baseline"][name], greater):
        console.print(f"\n{name} is no better than the untouched model's")
    findings = folder.read("verification.json")
    console.print(f"\nverified in a fresh process: {', '.join(finding['name'] for finding in findings)}")
    console.print(f"run folder: {folder.path}", markup=False)
    _next(f'predict {folder.path} "…"', f"evaluate {folder.path}", f"publish {folder.path} --repo-id me/name")


def say(text: str) -> None:
    """What a job says, as it says it."""
    console.out(text, end="", highlight=False)


def show_queued(folder: RunFolder) -> None:
    """A run that is left to a job: where it lies, what to do next."""
    job = folder.read("job.json")["number"]
    console.print(f"run folder: {folder.path}", markup=False)
    _next(f"jobs follow {folder.path}", f"jobs cancel {job}", f"publish {folder.path} --repo-id me/name")


def _next(*commands: str) -> None:
    console.print(
        "\nnext:", *(f"  finetune {command}" for command in commands), sep="\n", markup=False, highlight=False
    )


def _better(score: float, baseline: float, greater: bool) -> bool:
    return score > baseline if greater else score < baseline


def show_sweep(sweep: Sweep) -> None:
    """Run a sweep, its trials on the screen as they go, and say what came of it."""
    from finetune.sweep import summary, table
    from finetune.sweep.sweep import run

    with table.shown(console) as watch:
        work = run(sweep, watch)
    say("\n".join([*summary.lines(work), ""]))


def show_rehearsal(stages: Iterable[Replaced | Stage]) -> None:
    """Print what is replaced and each stage that worked, as they come."""
    seconds = 0.0
    for stage in stages:
        console.print(str(stage), markup=False, highlight=False)
        seconds += getattr(stage, "seconds", 0.0)
    console.print(f"rehearsed in {seconds:.0f} s", markup=False, highlight=False)


def show_rows(prepared: Prepared, choice: Choice, html: Path | None) -> None:
    """Rows as they are trained: what carries a label is marked; on a page as well, where a file is named."""
    from finetune.data import preview, report
    from finetune.plan.show import account_of

    rows = preview.shown(prepared, choice)
    for name, account in prepared.report.items():
        said = account_of(account, prepared.config.task.unit)
        console.print(f"{name}: {said}", markup=False, highlight=False)
    for name, text in report.lines(prepared, choice.split):
        console.print(f"  {name}: {text}", markup=False, highlight=False)
    for row in rows:
        console.print(f"\n── {choice.split} row {row.index}, {row.tokens} {row.unit}", markup=False)
        for (is_trained, label), units in groupby(row.units, key=lambda unit: (unit.is_trained, unit.label)):
            text = "".join(f"\n── {u.begins}\n{u.text}" if u.begins else u.text for u in units)
            said, style = f"{text}/{label}" if label else text, "green" if is_trained else "dim"
            console.print(_marked(said, is_trained), style=style, end="", markup=False, highlight=False)
        console.print("" if row.label is None else f"\nlabel: {row.label}", markup=False)
    if html:
        report.write(prepared, choice, rows, html)
        console.print(f"\nwritten: {html}", markup=False)


def _marked(text: str, trained: bool) -> str:
    """Without colours, trained text stands in brackets."""
    return text if console.is_terminal or not trained else f"⟦{text}⟧"


def answer(folder: RunFolder, options: argparse.Namespace) -> None:
    """Print or write one JSON line for each input; on a terminal without inputs, answer line by line."""
    from finetune.artifacts.predict import answering, read_inputs

    inputs: list[Any] = read_inputs(options.input) if options.input else options.text
    talking = not inputs and not options.input and sys.stdin.isatty()
    inputs = inputs or ([] if talking else _lines(sys.stdin))
    if not inputs and not talking:
        raise UserError('nothing to answer: finetune predict RUN "a text", or --input FILE')
    answers = answering(folder, {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens})
    if talking:
        _talk(answers)
    elif options.output:
        _write_lines(options.output, answers(inputs))
    else:
        for item in answers(inputs):
            print(_line(item), flush=True)


def _lines(stream: Iterable[str]) -> list[str]:
    return [line.rstrip("\n") for line in stream if line.strip()]


def _talk(answers: Answer) -> None:
    console.print("one input a line; an empty line or Ctrl-D ends", style="dim")
    while text := _asked():
        print(_line(next(answers([text]))), flush=True)


def _asked() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _line(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False)


def _write_lines(file: Path, items: Iterable[Any]) -> None:
    """Write JSON lines, whole or not at all; where they cannot be written, nothing is answered first."""
    staged = file.with_name(f".{file.name}")
    try:
        with staged.open("w", encoding="utf-8") as stream:
            stream.writelines(_line(item) + "\n" for item in items)
        staged.replace(file)
    except OSError as error:
        raise UserError(f"--output {file}: {error.strerror}") from None


def publish(folder: RunFolder, options: argparse.Namespace) -> None:
    """Upload a run, or list what would be uploaded."""
    from finetune.artifacts import publish as publishing
    from finetune.plan import frozen

    plan = frozen.read(folder)
    given = plan.config.publish
    config = replace(given, repo_id=options.repo_id or given.repo_id, private=given.private and not options.public)
    if options.dry_run:
        for upload in publishing.dry_run(folder, plan, config):
            console.print(f"{upload.size:>12,}  {upload.name}", markup=False, highlight=False)
        target = f"to {config.repo_id or 'a repository'}, {'private' if config.private else 'public'}"
        console.print(f"{target}; nothing was uploaded", markup=False, highlight=False)
        return
    console.print(f"published: {publishing.publish(folder, config)}", markup=False)


def show_diagnosis(findings: list[Finding]) -> None:
    """Print what the machine can do.

    Raises:
        MachineError: something that every run needs is missing.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row("✓" if finding.ok else "✗" if finding.needed else "–", finding.name, finding.detail)
    console.print(table)
    if missing := [finding.name for finding in findings if finding.needed and not finding.ok]:
        raise MachineError(f"this machine cannot train yet: {', '.join(missing)}")
