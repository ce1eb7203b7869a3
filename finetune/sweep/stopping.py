"""A request to stop a whole sweep: noted whenever it comes, followed between two looks at the trials."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Request:
    """Whether the sweep was asked to stop, and by what."""

    def __init__(self) -> None:
        self.by: str | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """The handler; a second Ctrl-C leaves at once, and the trials to themselves."""
        if self.by and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = signal.Signals(number).name


@contextmanager
def heard() -> Iterator[Request]:
    """Listen while a sweep is worked on; only a main thread can."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
