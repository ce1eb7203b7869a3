"""Answers from a finished run: texts or rows in, one JSON object each out."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.artifacts.save import load, load_tokenizer
from finetune.errors import UserError
from finetune.models.precision import autocast
from finetune.plan import frozen
from finetune.plan.run_folder import RunFolder

Answer = Callable[[Sequence[Any]], Iterator[dict[str, Any]]]


def answering(folder: RunFolder, options: dict[str, Any]) -> Answer:
    """What answers inputs, one JSON-able object each and in order: the trained model, its tokenizer and template.

    Raises:
        UserError: the run has no finished model.
    """
    plan = frozen.read(folder)
    check_finished(folder)
    model = load(plan, folder.model).eval()
    tokenizer = load_tokenizer(plan, folder.model)
    given = {"facts": plan.facts, "columns": plan.facts.get("columns", {}), "max_length": plan.max_length, **options}

    def answer(inputs: Sequence[Any]) -> Iterator[dict[str, Any]]:
        with autocast(plan.precision.compute):
            yield from plan.config.task.predict(model, tokenizer, inputs, given)

    return answer


def check_finished(folder: RunFolder) -> None:
    """Refuse a run without a model.

    Raises:
        UserError: training did not finish.
    """
    if not folder.model.is_dir():
        reached = (folder.read("status.json") or {}).get("stage", "planned")
        raise UserError(f"{folder.path} has no trained model: the run stopped after the stage `{reached}`")


def read_inputs(file: Path) -> list[Any]:
    """Rows of a JSONL or CSV file, or the lines of a text file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--input {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--input {file} is not UTF-8: {error}") from None
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if file.suffix not in (".jsonl", ".txt", ""):
        raise UserError(f"--input {file}: rows are read from .jsonl and .csv files, texts from .txt files")
    # Not splitlines: a text may hold the separators of Unicode.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_json(file, *line) for line in lines] if file.suffix == ".jsonl" else [line.strip() for _, line in lines]


def _json(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}:{number} is not JSON: {error}") from None
