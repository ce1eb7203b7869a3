"""A checkpoint that is written, on its way to the disk: a thread flushes it while the next steps are taken.

Only what is on the disk gets its name, so a crash on the way leaves the checkpoint before. Knows nothing of ranks.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from finetune.training import checkpoint
from finetune.training.checkpoint import Files, Manifest


class Sealing:
    """One checkpoint between its last byte written and its name."""

    def __init__(
        self, staging: Path, target: Path, manifest: Manifest, keep: list[str], own: list[Path], started: float
    ) -> None:
        """Begin to flush the files of this rank.

        Args:
            manifest: what it will say of itself, but for its files.
            keep: names of checkpoints that stay when it has come.
            own: the files of this rank.
            started: when the first of them was begun, in `time.monotonic()`.
        """
        self.staging, self.target, self.manifest, self.keep = staging, target, manifest, keep
        self.seconds = time.monotonic() - started
        """Steps waited for it until now."""
        pool = ThreadPoolExecutor(1, "flushing")
        self.flushing: Future[Files] = pool.submit(checkpoint.flushed, own, staging)
        pool.shutdown(wait=False)
