"""The plan as a person reads it: tables on a terminal, plain columns in a log."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from finetune.plan.plan import Plan


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in lines(plan):
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)


def lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """What to know before the first step, a line each."""
    yield "task", f"{plan.config.task.name} ({plan.facts.get('problem_type') or plan.facts.get('layout', '')})"
    revision = f" at {plan.source.revision[:8]}" if plan.source.revision else ""
    yield "model", f"{plan.model.architecture} from {plan.source.path}{revision}"
    yield "trained", _trained(plan)
    yield "columns", ", ".join(f"{role}={column}" for role, column in plan.facts.get("columns", {}).items())
    for split, account in plan.report.items():
        yield split, account_of(account)
    b = plan.batches
    yield (
        "batch",
        f"{b.ranks} × {b.per_device} per device × {b.accumulation} accumulated = {b.global_batch} rows a step",
    )
    yield "steps", f"{b.total_steps} ({b.steps_per_epoch} an epoch), {b.warmup_steps} of them warm-up"
    yield "precision", f"{plan.precision.compute}, {plan.precision.reason}; trained weights {plan.precision.trainable}"
    yield "device", plan.environment["device"]
    for check in plan.checks:
        yield "✓ " + check.name, check.detail


def _trained(plan: Plan) -> str:
    share = plan.model.trainable / plan.model.parameters
    where = ", ".join(f"{name} × {count}" for name, count in plan.model.adapted.items())
    counts = f"{plan.model.trainable:,} of {plan.model.parameters:,} weights ({share:.2%})"
    return f"{counts} by {plan.config.adapter['method']}{' on ' + where if where else ''}"


def account_of(account: dict) -> str:
    """What became of the rows of a split, in one line."""
    dropped = "".join(f", {e['rows']} dropped: {reason}" for reason, e in account["dropped"].items())
    notes = "".join(f", {count:,} {what}" for what, count in account["notes"].items())
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
