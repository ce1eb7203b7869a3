"""The plan as a person reads it: sections of names and texts, on a terminal and as Markdown."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from finetune.data.lengths import UNLIMITED
from finetune.plan.catalogue import MARKS
from finetune.plan.plan import Plan

Rows = Iterator[tuple[str, str]]


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    for title, rows in sections(plan):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title, title_justify="left",
                      title_style="bold")  # fmt: skip
        table.add_column(min_width=16)
        for name, text in rows:
            table.add_row(f"  {name}", text)
        console.print(table)


def markdown(plan: Plan) -> str:
    """The same as a document."""
    lines = [f"# Plan of {plan.config.name}", ""]
    for title, rows in sections(plan):
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(text)} |" for name, text in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def sections(plan: Plan) -> list[tuple[str, list[tuple[str, str]]]]:
    """Title, and names with their texts; a section without any is left out."""
    found = {
        "model": _model, "rows": _rows, "steps": _steps, "costs": _costs, "environment": _environment,
        "checks": _checks, "idle": _idle,
    }  # fmt: skip
    return [(title, rows) for title, of in found.items() if (rows := list(of(plan)))]


def _model(plan: Plan) -> Rows:
    revision = f" at {plan.source.revision[:8]}" if plan.source.revision else ""
    kind = plan.facts.get("problem_type") or plan.facts.get("layout", "")
    yield "task", plan.config.task.name + (f" ({kind})" if kind else "")
    random = ", its weights at random" if plan.config.model.from_config else ""
    yield "architecture", f"{plan.model.architecture} from {plan.source.path}{revision}{random}"
    yield "weights", f"{plan.model.parameters:,}: {_by_dtype(plan)}"
    yield (
        "trained",
        f"{plan.model.trainable:,} ({plan.model.trainable / plan.model.parameters:.2%}), by {_method(plan)}",
    )
    for name, shapes in plan.model.adapted.items():
        yield f"  {name}", ", ".join(f"{count} × ({shape})" for shape, count in shapes.items())
    yield "new heads", ", ".join(plan.model.fresh) or "none"
    yield "attention", plan.model.attention


def _method(plan: Plan) -> str:
    quantized = plan.config.quantization["method"]
    return plan.config.adapter["method"] + (f" over {quantized}" if quantized != "none" else "")


def _by_dtype(plan: Plan) -> str:
    frozen = plan.model.parameters - plan.model.trainable
    parts = [f"{plan.model.trainable:,} trained in {plan.precision.trainable}"]
    if plan.config.adapter["method"] != "full":
        stored = "the dtype of the checkpoint" if plan.precision.frozen == "auto" else plan.precision.frozen
        parts.append(f"{max(frozen, 0):,} frozen in {stored}")
    return ", ".join(parts)


def _rows(plan: Plan) -> Rows:
    yield "columns", ", ".join(f"{role}={column}" for role, column in plan.facts.get("columns", {}).items())
    for split, account in plan.report.items():
        yield split, account_of(account, plan.config.task.unit)
    if plan.max_length < UNLIMITED:
        yield "max_length", f"{plan.max_length:,} {plan.config.task.unit}"


def _steps(plan: Plan) -> Rows:
    b = plan.batches
    sizes = f"{b.ranks} × {b.per_device} per device × {b.accumulation} accumulated"
    kind = "packed rows" if "packed" in plan.report["train"] else "rows"
    yield "batch", f"{sizes} = {b.global_batch} {kind} a step"
    yield "steps", f"{b.total_steps:,} ({b.steps_per_epoch:,} an epoch), {b.warmup_steps:,} of them warm-up"
    if tokens := plan.report["train"]["tokens"]:
        yield plan.config.task.unit, f"{tokens:,} an epoch, {tokens * b.global_batch // max(b.rows, 1):,} a step"
    yield "while training", f"{b.evaluations} evaluations, {b.checkpoints} checkpoints"


def _costs(plan: Plan) -> Rows:
    costs = plan.costs
    most = costs.moments[costs.peak_moment]
    parts = ", ".join(f"{part} {_gib(size)}" for part, size in most.items() if size)
    yield "memory", f"{_gib(costs.needed)} on {costs.device} at the {costs.peak_moment}"
    yield "  of that", f"{parts}, reserve {_gib(costs.reserve)}"
    for note in costs.notes:
        yield "  not counted", note
    disk = costs.disk
    yield "disk", f"{disk['kept']} checkpoints of {_gib(disk['checkpoint'])} at most, model {_gib(disk['model'])}"
    time = costs.duration
    yield "time", f"{_time(time['low'])} to {_time(time['high'])}: {time['source']}" if time else "not known here"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _environment(plan: Plan) -> Rows:
    found = plan.environment
    yield "device", f"{found['device']}; {_processes(found['ranks'])}, started by {found['launcher']}"
    yield "precision", f"{plan.precision.compute}, {plan.precision.reason}; trained weights {plan.precision.trainable}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield "variables", ", ".join(f"{name}={value}" for name, value in found["variables"].items()) or "none"
    yield "credentials", ", ".join(f"{name}: {state}" for name, state in found["credentials"].items())


def _checks(plan: Plan) -> Rows:
    for check in plan.checks:
        yield (
            f"{MARKS[check.status]} {check.name}",
            f"waived: {check.detail}" if check.status == "waived" else check.detail,
        )


def _idle(plan: Plan) -> Rows:
    for note in plan.notes:
        yield "–", note


def account_of(account: dict, unit: str = "tokens") -> str:
    """What became of the rows of a split, in one line.

    Args:
        unit: what the length of a row counts.
    """
    dropped = "".join(f", {e['rows']} dropped: {reason}" for reason, e in account["dropped"].items())
    notes = "".join(f", {count:,} {unit if what == 'tokens' else what}" for what, count in account["notes"].items())
    packed = ""
    if found := account.get("packed"):
        packed = f", {found['documents']:,} documents packed in {account['rows']:,} rows, {found['fill']:.2%} full"
    return (
        f"{account['kept']:,} of {account['read']:,} rows{dropped}{notes}{packed}{_mixed(account)}; {account['from']}"
    )


def _mixed(account: dict) -> str:
    """What is taken of each source, where there are several."""
    taken = {name: found["taken"] for name, found in account.get("sources", {}).items()}
    shares = [f"{name} {part['rows']:,} rows ({part['share']:.1%} of tokens)" for name, part in taken.items()]
    return f", {' + '.join(shares)}" if shares else ""
