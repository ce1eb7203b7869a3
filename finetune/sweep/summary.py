"""The end of a sweep in lines: what it came to, where it lies, what to do next."""

from collections import Counter
from collections.abc import Iterator

from finetune.sweep.report import BEST
from finetune.sweep.results import of
from finetune.sweep.sweep import Work
from finetune.sweep.trials import KEPT


def lines(work: Work) -> Iterator[str]:
    """What is printed at the end."""
    results = of(work.ledger.study)
    counts = Counter(each.state for each in results if each.same_as is None)
    repeated = sum(each.same_as is not None for each in results)
    told = [f"{number} {state}" for state, number in counts.items()]
    yield f"\n{', '.join(told)}{f', {repeated} drawn again and not trained again' if repeated else ''}"
    yield from _best(work)
    folder = work.sweep.folder.path
    yield f"\nsweep folder: {folder}"
    yield "\nnext:"
    if (folder / BEST).is_file():
        yield f"  finetune train recipe={folder / BEST}"
    yield f"  look at {folder / 'sweep.html'}, or at {folder / 'sweep.csv'}"
    yield f"  optuna-dashboard {folder / 'journal.log'}"


def _best(work: Work) -> Iterator[str]:
    names = work.ledger.study.objectives
    for at, name in enumerate(names):
        shares = work.ledger.study.importances(at)
        if shares:
            yield f"what decides {name}: {', '.join(f'{key} {share:.0%}' for key, share in shares.items())}"
    for trial in work.ledger.study.best():
        values = "  ".join(f"{name} {value:.4g}" for name, value in zip(names, trial.values, strict=True))
        yield f"best: trial {trial.number}  {values}  {trial.user_attrs[KEPT]['words']}"
