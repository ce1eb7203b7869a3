"""What prepared rows and estimates decide before the first step: each check passes with a detail, or raises."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from finetune.config import options
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.data.prepare import Prepared
from finetune.errors import UserError
from finetune.plan.batches import Batches
from finetune.plan.catalogue import Check, looked_at
from finetune.plan.checks import WAIVABLE
from finetune.plan.costs import NODE, PROCESSOR, Costs

GIB = 2**30
ANOTHER = "plan.device=h200 plans for an accelerator"
NOTHING_FITS = "No change of batch, optimizer or adapter makes it fit: a smaller model, or a larger device"


def late(config: Config, prepared: Prepared, batches: Batches, costs: Costs) -> list[Check]:
    """What the prepared rows and the estimates decide."""
    found = Found(config, prepared, batches, costs)
    of_splits = [(f"rows-{split}", partial(_rows, prepared, split)) for split in prepared.report]
    of_splits += [(f"ends-{split}", partial(_ends, prepared, split)) for split in prepared.report]
    looks = [*of_splits, *((name, partial(look, found)) for name, look in LATE.items())]
    return list(looked_at(looks, config.plan.waive, WAIVABLE))


@dataclass(frozen=True)
class Found:
    """What late checks look at."""

    config: Config
    prepared: Prepared
    batches: Batches
    costs: Costs


def _rows(prepared: Prepared, split: str) -> str:
    account = prepared.report[split]
    return f"{account['read']} read, {account['kept']} kept"


def _task(found: Found) -> str:
    """What the task itself looks at."""
    task, notes = found.config.task, found.prepared.report["train"]["notes"]
    given = {name: option.default for name, option in options.of(task.arguments_class).items()} | found.config.trainer
    return task.check(notes, given, found.config.adapter)


def _trained_tokens(found: Found) -> str:
    notes = found.prepared.report["train"]["notes"]
    trained = notes.get("trained tokens")
    if targets := found.prepared.report["train"]["audit"].get("targets"):
        return f"{targets['tokens']} of targets"
    if trained is None:
        return "one label a row"
    return f"{trained} of {notes['tokens']} ({trained / notes['tokens']:.0%})"


def _ends(prepared: Prepared, split: str) -> str:
    """Every row but one that was cut must hold a token in its loss that ends a turn."""
    account, numbers = prepared.report[split], prepared.report[split]["audit"]
    if "rows with a trained end" not in numbers:
        return "rows end no turn that is trained"
    without = numbers["rows"] - numbers["rows with a trained end"]
    # A row that was cut has lost its end, and of the parts of one that was split only the last has it.
    if without > account["notes"].get("truncated", 0) + numbers["rows"] - account["kept"]:
        raise UserError(
            f"{split}: {without} rows have no trained token that ends a turn (first of those kept: "
            f"{numbers['rows without']}), so the model would not learn to stop. Where that is meant, write "
            "task.eos=none"
        )
    return f"{numbers['rows with a trained end']} of {numbers['rows']} rows train a token that ends a turn"


def _repeated(found: Found) -> str:
    copied = found.prepared.report["train"]["audit"]["duplicates"]
    near = "near copies not looked for" if copied["near"] is None else f"{copied['near']} near copies"
    return f"{copied['exact']} copies in train, {near}"


def _overlap(found: Found) -> str:
    both = found.prepared.report["train"]["audit"]["duplicates"]["evaluated"]
    return f"{both} rows of train are evaluated on as well"


def _best_model(found: Found) -> str:
    """The metric that names the best model must be one that the evaluation gives."""
    name = str(found.config.trainer.get("metric_for_best_model") or "loss").removeprefix("eval_")
    wanted = found.config.evaluation.metrics
    known = ["loss", *(found.config.task.metrics(found.prepared.facts) if wanted is None else wanted)]
    known = list(found.config.task.summarize(dict.fromkeys(known, 0.0)))
    if name not in known:
        hint = did_you_mean(name, known) or f"Metrics: {', '.join(known)}"
        if name in found.config.task.answer_metrics(found.prepared.facts):
            hint = f"Answers are scored after training; while training, these are: {', '.join(known)}"
        raise UserError(f"trainer.metric_for_best_model={name} is not measured. {hint}")
    return name if found.config.trainer.get("load_best_model_at_end") else "the last model is kept"


def _answers(found: Found) -> str:
    """What scores the answers, where rows are answered, must be installed before anything is trained."""
    from finetune.evaluation import generation, metrics

    config, facts = found.config, found.prepared.facts
    if config.answer_rows == 0:
        return "no row is answered"
    names = generation.names(config.task, facts, config.evaluation.generation)
    for name in names:
        metrics.check(name)
    rows = "every validation row" if config.answer_rows is None else f"{config.answer_rows} validation rows"
    return f"{', '.join(names) or 'the exact ones'} of {rows}"


def _step(found: Found) -> str:
    batches = found.batches
    if batches.rows < batches.global_batch:
        return f"it takes {batches.global_batch} rows and there are {batches.rows}: each one sees all of them"
    left = batches.rows % batches.global_batch
    return f"the last of an epoch has {left} rows" if left else "every one is full"


def _memory(found: Found) -> str:
    """The estimate against what the device has; where it does not fit, the cheapest changes that make it."""
    costs = found.costs
    needed = f"{costs.needed / GIB:.1f} GiB needed"
    if costs.available is None:
        return f"{needed}; {ANOTHER}"
    each = " for each process" if costs.device in (NODE, PROCESSOR) else ""
    has = f"{costs.device} has {costs.available / GIB:.1f}{each}"
    if costs.needed <= costs.available:
        return f"{needed}, {has}"
    ways = "".join(
        f"\n    {' '.join(change['overrides'])}  ({change['needed'] / GIB:.1f} GiB; {change['cost']})"
        for change in costs.changes
    )
    fits = f"What fits:{ways}" if ways else NOTHING_FITS
    hint = f" ({ANOTHER})" if costs.device == PROCESSOR else ""
    raise UserError(f"{needed} at the {costs.peak_moment}, {has}{hint}. {fits}")


def _disk(found: Found) -> str:
    disk = found.costs.disk
    needed = disk["checkpoint"] * disk["kept"] + disk["model"]
    has = f"{disk['free'] / GIB:.1f} GiB are free in {found.config.output_dir}"
    if needed > disk["free"]:
        raise UserError(
            f"{needed / GIB:.1f} GiB needed, {has}. Write a smaller trainer.save_total_limit, or another output_dir"
        )
    return f"{needed / GIB:.2f} GiB needed, {has}"


LATE: dict[str, Callable[[Found], str]] = {
    "task": _task,
    "trained-tokens": _trained_tokens,
    "repeated-rows": _repeated,
    "overlap": _overlap,
    "best-model": _best_model,
    "answers": _answers,
    "step": _step,
    "memory": _memory,
    "disk": _disk,
}
