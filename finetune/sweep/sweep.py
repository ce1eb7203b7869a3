"""A sweep at work: trials started as there is room, watched, pruned, settled; none waits for another.

Whoever goes on with a sweep that was killed finds the trials that still run, and starts those again that do not.
"""

import logging
import time
from collections.abc import Callable

from finetune.errors import Stopped, UserError
from finetune.plan.run_folder import RunFolder
from finetune.sweep import launchers, outcome, trials
from finetune.sweep.beginning import Sweep
from finetune.sweep.ledger import Ledger
from finetune.sweep.processes import Launcher
from finetune.sweep.stopping import Request, heard
from finetune.sweep.trials import Trial

log = logging.getLogger("finetune.sweep")

POLL = 0.5
Watch = Callable[["Work"], None]


def run(sweep: Sweep, watch: Watch = lambda _: None, launcher: Launcher | None = None) -> "Work":
    """Train until the budget is spent.

    Args:
        watch: shown the work after every look at it.
    Raises:
        Stopped: a signal asked for it; the trials have saved what they had.
        UserError: an objective that no run scores, or more failures than are put up with.
    """
    with heard() as request:
        work = Work(sweep, launcher or launchers.of(sweep.first.launch, sweep.first.name, sweep.folder.arrays))
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
    """The trials of a sweep that are not over."""

    def __init__(self, sweep: Sweep, launcher: Launcher) -> None:
        self.sweep, self.launcher, self.pool = sweep, launcher, sweep.pool
        self.ledger = Ledger(sweep)
        self.running: list[Trial] = []
        self.waiting: list[Trial] = []
        """Begun, and without a process."""

    def attach(self) -> None:
        """Take up what a parent before this one has left."""
        for trial in self.ledger.begun():
            if trial.handle and self.launcher.is_running(trial.handle):
                self.pool.lend_again(trial.devices)
                self.running.append(trial)
                self.ledger.say(trial, "is still running")
            elif trial.handle is None or self._is_to_go_on(trial):
                self.waiting.append(trial)

    def until_done(self, request: Request, watch: Watch) -> None:
        """Look and start, until all is done or a signal comes."""
        while not request.by:
            self._look()
            self._fill()
            self.ledger.show()
            watch(self)
            if not self.running and not self.waiting:
                return
            time.sleep(POLL)

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

    def folder(self, trial: Trial) -> RunFolder:
        """The folder of the run that a trial is at."""
        return trials.folder_of(trial, self.sweep)

    def _look(self) -> None:
        """See to every trial that runs."""
        for trial in list(self.running):
            self._watch(trial)
            if not self.launcher.is_running(trial.handle or {}):
                self.running.remove(trial)
                self.pool.take_back(trial.devices)
                if self._is_to_go_on(trial):
                    self.waiting.append(trial)
        self.ledger.follow()

    def _fill(self) -> None:
        """Start trials while there is room."""
        while found := self._next():
            self._start(found)

    def _next(self) -> list[Trial]:
        """Those that start now, first what had begun: one, or all there is room for, where they are one array."""
        found: list[Trial] = []
        while self.pool.has_room and (self.launcher.starts_several or not found):
            trial = self.waiting.pop(0) if self.waiting else self.ledger.next(len(self.running) + len(found))
            if trial is None:
                break
            trial.devices = self.pool.lend()
            found.append(trial)
        return found

    def _start(self, found: list[Trial]) -> None:
        """Start the processes of trials; they begin when the study knows them."""
        handles, gate = self.launcher.start([trials.start(trial, self.sweep) for trial in found])
        for trial, handle in zip(found, handles, strict=True):
            trial.handle = handle
            self.ledger.keep(trial)
        self.launcher.begin(gate)
        self.running += found
        for trial in found:
            self._say_started(trial)

    def _say_started(self, trial: Trial) -> None:
        again = f", seed {trial.seed + 1} of {self.sweep.settings.seeds_per_trial}" if trial.seed else ""
        self.ledger.say(trial, "goes on" if self.folder(trial).stage else f"started{again}: {trial.words}")

    def _watch(self, trial: Trial) -> None:
        """Tell the study of new evaluations, and end the trial where they are too bad."""
        study, folder = self.ledger.study, self.folder(trial)
        outcome.check_first_scores(folder, study.objectives, bool(self.sweep.first.evaluation.generation.rows))
        if len(study.objectives) > 1 or trial.seed or trial.pruning is not None:
            return
        found = outcome.evaluations(folder, study.objectives[0])
        if found and study.report(trial.number, [value for _, value in found]):
            trial.pruning = found[-1][0]
            self.ledger.keep(trial)
            self.launcher.stop(trial.handle or {})
            self.ledger.say(trial, f"is pruned after step {trial.pruning}: {study.objectives[0]} {found[-1][1]:.4g}")

    def _is_to_go_on(self, trial: Trial) -> bool:
        """Settle a trial whose processes are gone; whether there is more of it to run."""
        self.launcher.end(trial.handle or {})
        folder = self.folder(trial)
        found = outcome.of(folder, trials.log_of(trial, self.sweep), trial.log_from)
        if found.kind == "done":
            return self.ledger.scored(trial, outcome.values(folder, self.ledger.study.objectives))
        if trial.pruning is not None:
            self.ledger.pruned(trial)
        elif found.kind == "failed":
            self.ledger.failed(trial, found.reason)
        else:
            return self._is_lost_for_now(trial, outcome.step(folder), found.kind)
        return False

    def _is_lost_for_now(self, trial: Trial, step: int, how: str) -> bool:
        """Whether a trial that ended without a result is tried again."""
        trial.lost.append(step)
        if trial.is_hopeless:
            self.ledger.failed(trial, f"gone without a word {trials.AT_ONE_STEP} times after step {step}")
            return False
        self.ledger.keep(trial)
        self.ledger.say(trial, f"was {how} after step {step}")
        return True
