"""How this process keeps memory."""

import ctypes

from finetune.models.precision import device

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """On a processor, let glibc keep what a step frees for the next step.

    It gives large blocks back to the kernel, and every step then pays to have the same pages mapped and zeroed again:
    0.91 s against 0.56 s a step for the first four layers of SmolLM2 on 880 tokens. Other C libraries are left alone.
    """
    libc = ctypes.CDLL(None)
    if device().type == "cpu" and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
