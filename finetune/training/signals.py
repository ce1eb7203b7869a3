"""A request to stop: noted whenever it comes. Loads no library: whoever starts ranks listens as well.

SIGTERM and SIGUSR1 are what schedulers send before they take a machine away, SIGINT is Ctrl-C. While steps are taken a
signal waits for the end of one; elsewhere there is nothing that a checkpoint does not hold, and the process ends at
once. A second Ctrl-C ends it at once wherever it is.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from finetune.errors import Stopped

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Request:
    """Whether this process was asked to stop, and by what."""

    def __init__(self) -> None:
        self.by: str | None = None
        self.in_steps = False
        self.is_leaving = False
        self.process = os.getpid()
        self.pass_on: Callable[[str], None] | None = None
        """Whom the work is left to, where it is not done in this process."""

    def note(self, number: int, _: FrameType | None) -> None:
        """The handler: nothing is done here but to remember, or to leave where nothing would be lost."""
        if os.getpid() != self.process:
            self._note_in_worker(number)
            return
        if self.by and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = signal.Signals(number).name
        if self.pass_on:
            self.pass_on(self.by)
        elif not self.in_steps and not self.is_leaving:
            self.is_leaving = True
            raise Stopped(f"stopped by {self.by}")

    def _note_in_worker(self, number: int) -> None:
        """A process forked from this one: it is needed until the step is over, and told to end otherwise."""
        if number == signal.SIGTERM and not self.in_steps:
            os._exit(128 + number)


@contextmanager
def heard() -> Iterator[Request]:
    """Listen while a run is worked on. Threads other than the main one cannot, and do not."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in ASKING}
    try:
        yield request
    except Stopped:
        # Schedulers ask more than once; the exit code must not depend on when.
        before |= dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
