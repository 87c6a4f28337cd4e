"""Lets the agent see what a stuck worker is at, before it is killed."""

from __future__ import annotations

import faulthandler
import sys

# Linux's SIGRTMIN + 10: the agent's os/evidence.ts sends it.
SIGNAL = 44


def write_stacks_on_signal(path: str) -> bool:
    """Has the stacks of all threads written to ``path`` at each SIGNAL; False where that cannot be.

    The handler is C code that needs no GIL, so it works while an extension holds it.
    """
    if not path or not sys.platform.startswith("linux"):
        return False
    try:
        # Kept open for as long as the process lives: the handler only has the descriptor.
        file = open(path, "w")  # noqa: SIM115
        faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
    except (OSError, ValueError, RuntimeError):
        return False
    return True
