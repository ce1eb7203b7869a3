"""The books of a sweep: which trial comes next, what each came to, and how many more are wanted. Starts nothing."""

import logging
import sys
import time
from statistics import fmean

from finetune.config.sweep import GRID
from finetune.errors import UserError
from finetune.sweep import outcome, points, report, trials
from finetune.sweep.beginning import Sweep
from finetune.sweep.study import COMPLETE, FAILED, PRUNED, RUNNING, State, Study
from finetune.sweep.trials import KEPT, Trial

log = logging.getLogger("finetune.sweep")

TRIES = 100
"""Points drawn in a row that are known already, after which there are taken to be no others."""


class Ledger:
    """What is known of every trial; each change is in the study before anything follows from it."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.settings = sweep, sweep.settings
        self.space, journal = sweep.source.space, sweep.folder / "journal.log"
        self.study = Study(journal, sweep.first.name, sweep.settings, self.space, sweep.first.seed)
        self.began, self.is_exhausted, self.is_shown = time.monotonic(), False, False
        found = [trial for trial in self.study.trials() if KEPT in trial.user_attrs]
        self.by_point = {trial.user_attrs[KEPT]["point"]: trial.number for trial in found}
        if self.settings.sampler == GRID:
            self.study.queue(points.grid(self.space))

    def begun(self) -> list[Trial]:
        """Trials that are not over, as a parent before this one left them."""
        left = [trial for trial in self.study.trials(RUNNING) if "same_as" not in trial.user_attrs]
        kept = [
            Trial(**trial.user_attrs[KEPT]) if KEPT in trial.user_attrs else self._with_point(trial.number)
            for trial in left
        ]
        return [trial for trial in kept if trial]

    def next(self, begun: int) -> Trial | None:
        """A trial of a point that none has had; None where no more are wanted, or there are no others.

        Args:
            begun: trials that are not over.
        """
        for _ in range(TRIES):
            if not self._wants_more(begun) or self._is_used_up():
                return None
            if trial := self._with_point(self.study.ask()):
                return trial
        self.is_exhausted = True
        return None

    def keep(self, trial: Trial) -> None:
        """Remember a trial as it is now."""
        self.study.note(trial.number, **{KEPT: trial.plain()})

    def say(self, trial: Trial, what: str) -> None:
        """Tell what became of a trial."""
        # On a terminal the table shows it.
        log.info("trial %d %s", trial.number, what, extra={"is_on_bar": sys.stdout.isatty()})

    def scored(self, trial: Trial, values: list[float]) -> bool:
        """The end of one run; whether the next seed is to be trained."""
        trial.values.append(values)
        if len(trial.values) < self.settings.seeds_per_trial:
            trial.seed, trial.lost, trial.handle = trial.seed + 1, [], None
            self.keep(trial)
            return True
        means = [fmean(each) for each in zip(*trial.values, strict=True)]
        self._end(trial, COMPLETE, means)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in zip(self.study.objectives, means, strict=True))
        is_best = trial.number in [each.number for each in self.study.best()]
        self.say(trial, f"finished: {shown}{'  (best)' if is_best else ''}")
        return False

    def pruned(self, trial: Trial) -> None:
        """A trial that was asked to end has ended."""
        self._end(trial, PRUNED)

    def failed(self, trial: Trial, reason: str) -> None:
        """Remember a failure.

        Raises:
            UserError: there are more than are put up with.
        """
        self.study.note(trial.number, reason=reason)
        self._end(trial, FAILED)
        self.say(trial, f"failed: {reason}")
        there = [each for each in self.study.trials(FAILED) if "same_as" not in each.user_attrs]
        most = self.settings.max_failures
        if len(there) > most:
            lines = [f"  trial {each.number}: {each.user_attrs['reason']}" for each in there]
            way_on = f"  Go on with: finetune sweep resume {self.sweep.folder.path} sweep.max_failures=N"
            raise UserError("\n".join([f"{len(there)} trials failed, and sweep.max_failures={most}", *lines, way_on]))

    def follow(self) -> None:
        """Trials of a point that another has take what that one came to."""
        for trial in self.study.trials(RUNNING):
            other = trial.user_attrs.get("same_as")
            if other is not None and (known := self.study.of(other)).state in (COMPLETE, PRUNED, FAILED):
                self.study.tell(trial.number, known.state, known.values)

    def _wants_more(self, begun: int) -> bool:
        ended = [trial for trial in self.study.trials(COMPLETE, PRUNED) if "same_as" not in trial.user_attrs]
        late = self.settings.timeout is not None and time.monotonic() - self.began > self.settings.timeout
        return not late and not self.is_exhausted and len(ended) + begun < (self.settings.n_trials or 0)

    def _is_used_up(self) -> bool:
        """Whether every point of a space that can be counted has a trial."""
        return self.space.size <= points.COUNTED and self.study.is_used_up()

    def _with_point(self, number: int) -> Trial | None:
        """A new trial with its point frozen; None where the point cannot be trained, or is another trial's."""
        point = self.study.point(number)
        words = " ".join(self.space.words(point))
        try:
            config = points.on_sweep(points.config_of(self.sweep.source, point), self.settings)
        except UserError as error:
            self.failed(Trial(number, "", words), str(error))
            return None
        digest = points.freeze(config, self.sweep.folder / points.FOLDER)
        other = self.by_point.setdefault(digest, number)
        if other != number:
            self.study.note(number, same_as=other)
            self._draw_another()
            return None
        trial = Trial(number, digest, words)
        self.keep(trial)
        return trial

    def _draw_another(self) -> None:
        """What was drawn is known already: of a space that can be counted, a point is taken that is not."""
        self.follow()
        if self.space.size <= points.COUNTED:
            untried = self.study.untried()
            self.study.queue([untried] if untried else [])

    def _end(self, trial: Trial, state: State, values: list[float] | None = None) -> None:
        """Tell the study how a trial ended."""
        self.keep(trial)
        self.study.note(trial.number, steps=outcome.step(trials.folder_of(trial, self.sweep)))
        self.study.tell(trial.number, state, values)
        self.follow()
        self.is_shown = False

    def show(self) -> None:
        """Write what is known now, where anything has ended since."""
        if not self.is_shown:
            report.write(self.sweep, self.study)
            self.is_shown = True
