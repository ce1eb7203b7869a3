"""A sweep at work: trials started as there is room, watched, pruned, told; no one waits for another.

Everything that happens is in the study before it is acted upon. Whoever goes on with a sweep that was killed finds the
trials that still run, and starts those again that do not.
"""

import logging
import time
from collections.abc import Callable
from statistics import fmean

from finetune.errors import Stopped, UserError
from finetune.sweep import outcome, points, results, trials
from finetune.sweep.beginning import Sweep
from finetune.sweep.processes import Launcher, Local
from finetune.sweep.stopping import Request, heard
from finetune.sweep.study import COMPLETE, FAILED, PRUNED, RUNNING, Study
from finetune.sweep.trials import KEPT, Trial

log = logging.getLogger("finetune.sweep")

POLL = 0.5
TRIES = 100
"""Points drawn in a row that are known already, after which there are taken to be no others."""
Watch = Callable[["Work"], None]


def run(sweep: Sweep, watch: Watch = lambda _: None, launcher: Launcher | None = None) -> "Work":
    """Train until the budget is spent.

    Args:
        watch: shown the work after every look at it.
    Raises:
        Stopped: a signal asked for it; the trials have saved what they had.
        UserError: an objective that no run scores, or more failures than are put up with.
    """
    work = Work(sweep, launcher or Local())
    with heard() as request:
        try:
            work.attach()
            work.until_done(request, watch)
        except UserError:
            work.stop(watch)
            raise
        if request.by:
            work.stop(watch)
            raise Stopped(f"stopped by {request.by}. Go on with: finetune sweep resume {sweep.folder.path}")
    return work


class Work:
    """The trials of a sweep, those that run among them."""

    def __init__(self, sweep: Sweep, launcher: Launcher) -> None:
        self.sweep, self.launcher, self.pool = sweep, launcher, sweep.pool
        self.study = Study(sweep.folder / "journal.log", sweep.first.name, sweep.settings, sweep.source.space,
                           sweep.first.seed)  # fmt: skip
        self.running: list[Trial] = []
        self.waiting: list[Trial] = []
        """Begun, and without a process."""
        self.began, self.is_exhausted = time.monotonic(), False
        self.by_point = {
            trial.user_attrs[KEPT]["point"]: trial.number for trial in self.study.trials() if KEPT in trial.user_attrs
        }

    def until_done(self, request: Request, watch: Watch) -> None:
        """Look and start, until all is done or a signal comes."""
        if self.sweep.settings.sampler == "grid":
            self.study.queue(points.grid(self.sweep.source.space))
        while not request.by:
            self.look()
            self.fill()
            watch(self)
            if not self.running and not self.waiting:
                return
            time.sleep(POLL)

    def attach(self) -> None:
        """Take up what a parent before this one has left."""
        for found in self.study.trials(RUNNING):
            if "same_as" in found.user_attrs:
                continue
            kept = found.user_attrs.get(KEPT)
            trial = Trial(**kept) if kept else self._with_point(found.number)
            if trial is None:
                continue
            if trial.handle and self.launcher.is_running(trial.handle):
                self.pool.lend_again(trial.devices)
                self.running.append(trial)
                self._say(trial, "is still running")
            elif trial.handle is None or self._is_to_go_on(trial):
                self.waiting.append(trial)

    def look(self) -> None:
        """See to every trial that runs."""
        for trial in list(self.running):
            self._watch(trial)
            if not self.launcher.is_running(trial.handle or {}):
                self.running.remove(trial)
                self.pool.take_back(trial.devices)
                if self._is_to_go_on(trial):
                    self.waiting.append(trial)
        self._follow()

    def fill(self) -> None:
        """Start trials while there is room: those that had begun first."""
        while self.pool.has_room and (trial := self.waiting.pop(0) if self.waiting else self._next()):
            self._start(trial)

    def stop(self, watch: Watch) -> None:
        """Ask all trials to save what they have, and wait for them."""
        for trial in self.running:
            self.launcher.stop(trial.handle or {})
        if self.running:
            log.info("waiting for %d trials to save what they have", len(self.running))
        while self.running:
            self.running = [trial for trial in self.running if self.launcher.is_running(trial.handle or {})]
            watch(self)
            time.sleep(POLL)

    def _next(self) -> Trial | None:
        """A trial of a point that none has had; None where no more are wanted, or there are no others."""
        for _ in range(TRIES):
            if not self._wants_more():
                return None
            number, _ = self.study.ask()
            if trial := self._with_point(number):
                return trial
        self.is_exhausted = True
        return None

    def _wants_more(self) -> bool:
        settings = self.sweep.settings
        ended = [trial for trial in self.study.trials(COMPLETE, PRUNED) if "same_as" not in trial.user_attrs]
        late = settings.timeout is not None and time.monotonic() - self.began > settings.timeout
        there = len(ended) + len(self.running) + len(self.waiting)
        return not late and not self.is_exhausted and there < (settings.n_trials or 0)

    def _with_point(self, number: int) -> Trial | None:
        """A new trial with its point frozen; None where the point cannot be trained, or is another trial's."""
        source = self.sweep.source
        point = self.study.point(number)
        words = " ".join(source.space.words(point))
        try:
            config = points.on_sweep(points.config_of(source, point), self.sweep.settings)
        except UserError as error:
            self._fail(Trial(number, "", words), str(error))
            return None
        digest = points.freeze(config, self.sweep.folder / points.FOLDER)
        if (other := self.by_point.get(digest)) is not None and other != number:
            self.study.note(number, same_as=other)
            self._replace(number)
            return None
        trial = Trial(number, digest, words)
        self.study.note(number, **{KEPT: trial.plain()})
        self.by_point[digest] = number
        return trial

    def _replace(self, number: int) -> None:
        """What was drawn is known already: of a space that can be counted, another point is taken."""
        if self.sweep.source.space.size <= points.COUNTED:
            untried = self.study.untried()
            self.is_exhausted = untried is None
            if untried:
                self.study.queue([untried])

    def _start(self, trial: Trial) -> None:
        """Start a trial's processes; they begin when the study knows them."""
        trial.devices = self.pool.lend()
        file = trials.log_of(trial, self.sweep)
        file.parent.mkdir(exist_ok=True)
        trial.log_from = file.stat().st_size if file.exists() else 0
        trial.handle, gate = self.launcher.start(
            trials.command(trial, self.sweep), file, trials.variables(trial, self.sweep)
        )
        self._keep(trial)
        self.launcher.begin(gate)
        self.running.append(trial)
        self._say(trial, "goes on" if trials.folder_of(trial, self.sweep).stage else f"started: {trial.words}")

    def _watch(self, trial: Trial) -> None:
        """Tell the study of new evaluations, and end the trial where they are too bad."""
        folder, names = trials.folder_of(trial, self.sweep), self.study.objectives
        outcome.check_first_scores(folder, names, bool(self.sweep.first.evaluation.generation.rows))
        if len(names) > 1 or trial.seed or trial.pruning is not None:
            return
        found = outcome.evaluations(folder, names[0])
        if found and self.study.report(trial.number, [value for _, value in found]):
            trial.pruning = found[-1][0]
            self._keep(trial)
            self.launcher.stop(trial.handle or {})
            self._say(trial, f"is pruned after step {trial.pruning}: {names[0]} {found[-1][1]:.4g}")

    def _is_to_go_on(self, trial: Trial) -> bool:
        """Settle a trial whose processes are gone; whether there is more of it to run."""
        self.launcher.end(trial.handle or {})
        folder = trials.folder_of(trial, self.sweep)
        found = outcome.of(folder, trials.log_of(trial, self.sweep), trial.log_from)
        if found.kind == "done":
            return self._scored(trial, outcome.values(folder, self.study.objectives))
        if trial.pruning is not None:
            return self._end(trial, PRUNED)
        if found.kind == "failed":
            return self._fail(trial, found.reason)
        trial.lost.append(outcome.step(folder))
        if trial.is_hopeless:
            return self._fail(trial, f"gone without a word {trials.AT_ONE_STEP} times after step {trial.lost[-1]}")
        self._keep(trial)
        self._say(trial, f"was {found.kind} after step {trial.lost[-1]}")
        return True

    def _scored(self, trial: Trial, values: list[float]) -> bool:
        """The end of one run; whether the next seed is to be trained."""
        trial.values.append(values)
        if len(trial.values) < self.sweep.settings.seeds_per_trial:
            trial.seed, trial.lost, trial.handle = trial.seed + 1, [], None
            self._keep(trial)
            return True
        return self._end(trial, COMPLETE)

    def _fail(self, trial: Trial, reason: str) -> bool:
        """Remember a failure.

        Raises:
            UserError: there are more than are put up with.
        """
        self.study.note(trial.number, reason=reason)
        self._end(trial, FAILED)
        self._say(trial, f"failed: {reason}")
        failed = [each for each in self.study.trials(FAILED) if "same_as" not in each.user_attrs]
        if len(failed) > self.sweep.settings.max_failures:
            lines = [f"  trial {each.number}: {each.user_attrs['reason']}" for each in failed]
            raise UserError(
                f"{len(failed)} trials failed, and sweep.max_failures={self.sweep.settings.max_failures}\n"
                + "\n".join(lines)
                + f"\n  Go on with: finetune sweep resume {self.sweep.folder.path} sweep.max_failures=N"
            )
        return False

    def _end(self, trial: Trial, state: object) -> bool:
        """Tell the study how a trial ended, and write what is known now."""
        self._keep(trial)
        self.study.note(trial.number, steps=outcome.step(trials.folder_of(trial, self.sweep)))
        values = [fmean(each) for each in zip(*trial.values, strict=True)] if state == COMPLETE else None
        self.study.tell(trial.number, state, values)
        if state == COMPLETE and values:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in zip(self.study.objectives, values, strict=True))
            self._say(trial, f"finished: {shown}{'  (best)' if self._is_best(trial) else ''}")
        self._follow()
        results.write(self.sweep, self.study)
        return False

    def _is_best(self, trial: Trial) -> bool:
        return trial.number in [each.number for each in self.study.best()]

    def _follow(self) -> None:
        """Trials of a point that another has take what that one came to."""
        for trial in self.study.trials(RUNNING):
            other = trial.user_attrs.get("same_as")
            if other is not None and (known := self.study.of(other)).state in (COMPLETE, PRUNED, FAILED):
                self.study.tell(trial.number, known.state, known.values)

    def _keep(self, trial: Trial) -> None:
        self.study.note(trial.number, **{KEPT: trial.plain()})

    def _say(self, trial: Trial, what: str) -> None:
        log.info("trial %d %s", trial.number, what, extra={"is_of_sweep": True})
