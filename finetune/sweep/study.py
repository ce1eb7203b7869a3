"""The study: which point comes next, and what the ones before were worth. The only module that knows Optuna.

Everything is in the journal before anything is done of it, so that a sweep that is killed goes on as it would have.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.space import Choices, Dimension, Space, Value, every
from finetune.config.sweep import GRID, SweepConfig
from finetune.errors import MissingExtra, UserError

try:
    import optuna
    from optuna import pruners, samplers
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial, TrialState
except ModuleNotFoundError as missing:
    raise MissingExtra(missing.name or "optuna", "sweep") from None

State = TrialState
RUNNING, COMPLETE, PRUNED, FAILED, WAITING = (
    TrialState.RUNNING,
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.WAITING,
)
COUNTED = 10_000
"""Points of a space that are told apart one by one."""
TELLING = 10
"""Finished trials from which it is said how much each key decides."""
SEVERAL = ("tpe", "random", "nsga2", "gp", GRID)
"""Samplers that take more than one objective."""


class Study:
    """The trials of a sweep."""

    def __init__(self, journal: Path, name: str, config: SweepConfig, space: Space, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _mend(journal)
        self.config, self.space, self.seed = config, space, seed
        self.objectives = list(config.objectives)
        self._keys = [each.key for each in space.dimensions]
        self.study = optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            directions=list(config.objectives.values()),
            pruner=_pruner(config.pruner),
            load_if_exists=True,
        )
        self.known: dict[int, Trial] = {}

    def trials(self, *states: State) -> list[FrozenTrial]:
        """The trials in some states; all without any."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def of(self, number: int) -> FrozenTrial:
        """A trial as it is now."""
        return self.study.get_trials(deepcopy=False)[number]

    def queue(self, points: Sequence[Mapping[str, Value]]) -> None:
        """Points that are next, in this order; those that stand there already are not added again."""
        there = self._drawn()
        for point in points:
            if tuple(point.values()) not in there:
                self.study.enqueue_trial(dict(point))

    def ask(self) -> int:
        """The number of a new trial."""
        self.study.sampler = _sampler(self.config.sampler, self._seed(len(self.trials())))
        trial = self.study.ask()
        self.known[trial.number] = trial
        return trial.number

    def point(self, number: int) -> dict[str, Value]:
        """The point of a trial; what a sweep that was killed had not yet drawn of it is drawn."""
        trial = self._trial(number)
        return {each.key: _suggested(trial, each) for each in self.space.dimensions}

    def untried(self) -> dict[str, Value] | None:
        """A point of a space that can be counted, of those that no trial has; None where there is none."""
        tried = self._drawn()
        left = [point for point in every(self.space) if tuple(point.values()) not in tried]
        return random.Random(self._seed(len(self.trials()))).choice(left) if left else None

    def is_used_up(self) -> bool:
        """Whether every point of a space that can be counted has a trial that was begun."""
        return not self.trials(WAITING) and len(self._drawn()) >= self.space.size

    def note(self, number: int, **facts: Any) -> None:
        """Keep facts of a trial that is not over."""
        for name, value in facts.items():
            self._trial(number).set_user_attr(name, value)

    def report(self, number: int, values: Sequence[float]) -> bool:
        """Tell the evaluations of a trial so far; whether it is to be ended."""
        trial, known = self._trial(number), self.of(number).intermediate_values
        for at, value in enumerate(values, 1):
            if at not in known:
                trial.report(value, at)
                if trial.should_prune():
                    return True
        return False

    def tell(self, number: int, state: State, values: Sequence[float] | None = None) -> None:
        """The end of a trial."""
        self.study.tell(number, list(values) if state == COMPLETE and values is not None else None, state=state)
        self.known.pop(number, None)

    def best(self) -> list[FrozenTrial]:
        """The best trial, or those of several objectives that none is better than in all; a repeated one once."""
        if not self.trials(COMPLETE):
            return []
        found = [self.study.best_trial] if len(self.objectives) == 1 else self.study.best_trials
        return [trial for trial in found if "same_as" not in trial.user_attrs]

    def importances(self, objective: int) -> dict[str, float]:
        """How much each key decides about an objective; empty where too little is known."""
        if len(self.trials(COMPLETE)) < TELLING:
            return {}
        # It explains low values.
        sign = -1 if self.config.objectives[self.objectives[objective]] == "maximize" else 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return optuna.importance.get_param_importances(
                    self.study, target=lambda trial: sign * trial.values[objective]
                )
        except (ValueError, RuntimeError, ZeroDivisionError):  # all trials are worth the same
            return {}

    def _drawn(self) -> set[tuple[Value, ...]]:
        """The points of all trials, those that wait among them."""
        found = (trial.params or trial.system_attrs.get("fixed_params", {}) for trial in self.trials())
        return {tuple(params[key] for key in self._keys) for params in found if params.keys() >= set(self._keys)}

    def _trial(self, number: int) -> Trial:
        if number not in self.known:
            self.study.sampler = _sampler(self.config.sampler, self._seed(number))
            self.known[number] = Trial(self.study, self.of(number)._trial_id)
        return self.known[number]

    def _seed(self, trials: int) -> int:
        """Of the sampler that chooses after so many trials: a sweep that goes on draws what it would have drawn."""
        return random.Random(f"{self.seed}/{trials}").getrandbits(32)


def check(config: SweepConfig, space: Space) -> None:
    """Refuse what cannot work together.

    Raises:
        UserError: naming it.
    """
    if not space.dimensions:
        raise UserError(
            "nothing is varied. Name several values of a key, trainer.learning_rate='tag(log,interval(1e-5,1e-3))' or "
            "adapter.r=choice(8,16), here or under sweep.space in the recipe"
        )
    if config.sampler == GRID and (endless := [each.key for each in space.dimensions if each.values is None]):
        raise UserError(f"{endless[0]}: a grid takes every point, and an interval has no end of them. Write choice(…)")
    if config.sampler == GRID and space.size > COUNTED:
        raise UserError(f"a grid of {space.size:,} points is more than {COUNTED:,}. Write sweep.sampler=random")
    if len(config.objectives) > 1 and config.pruner != "none":
        raise UserError(f"sweep.pruner={config.pruner} compares one value, and there are several objectives")
    if len(config.objectives) > 1 and config.sampler not in SEVERAL:
        raise UserError(f"sweep.sampler={config.sampler} takes one objective. Write one of: {', '.join(SEVERAL)}")
    if config.sampler == "cmaes" and all(isinstance(each, Choices) for each in space.dimensions):
        raise UserError(
            "sweep.sampler=cmaes varies numbers, and the space holds choices alone. Write sweep.sampler=tpe"
        )


def _mend(journal: Path) -> None:
    """What a killed sweep left: half a line, which no reader would get past, and the lock of a writer that is gone."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        text = journal.read_bytes()
        if not text.endswith(b"\n"):
            with journal.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)


def _suggested(trial: Trial, dimension: Dimension) -> Value:
    key = dimension.key
    if isinstance(dimension, Choices):
        chosen: Any = trial.suggest_categorical(key, dimension.values)
        return chosen
    if dimension.is_whole:
        low, high = int(dimension.low), int(dimension.high)
        return trial.suggest_int(key, low, high, step=dimension.step, log=dimension.is_log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.is_log)


def _sampler(name: str, seed: int) -> samplers.BaseSampler:
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed)
    return samplers.RandomSampler(seed=seed)


def _pruner(name: str) -> pruners.BasePruner:
    """Resources are evaluations: the first of one trial is compared with the first of another."""
    if name == "median":
        return pruners.MedianPruner()
    if name == "hyperband":
        return pruners.HyperbandPruner()
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1)
    return pruners.NopPruner()
