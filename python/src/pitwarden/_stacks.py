"""Writes the worker's stacks to a file for the agent: on a signal, if the worker hangs, and when it crashes."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys

# Linux's SIGRTMIN + 10. The agent sends it (src/os/process/stacks.ts).
STACKS_SIGNAL = 44


def write_stacks(path: str) -> bool:
    """Has the stacks of all threads written to ``path`` at each STACKS_SIGNAL and at a crash.

    Returns False if that is not possible. The handlers are C code that needs no GIL, so they work while an extension
    holds it.
    """
    if not path or not sys.platform.startswith("linux"):
        return False
    try:
        # Stays open for as long as the process lives: the handlers only know the descriptor.
        file = open(path, "w")  # noqa: SIM115
        faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True, chain=False)
        # Already enabled by PYTHONFAULTHANDLER or -X faulthandler: a crash writes to stderr, which the agent reads too.
        if not faulthandler.is_enabled():
            faulthandler.enable(file=file, all_threads=True)
        descriptor, identity = file.fileno(), _identity(file.fileno())
    except (OSError, ValueError, RuntimeError):
        return False
    os.register_at_fork(after_in_child=lambda: _discard_in_child(descriptor, identity))
    return True


def _discard_in_child(descriptor: int, identity: tuple[int, int]) -> None:
    """Points a forked child's descriptor at /dev/null: its stacks are not the worker's."""
    with contextlib.suppress(OSError):
        # The application may have closed the file and opened another one, which got the same number.
        if _identity(descriptor) == identity:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor, inheritable=False)
            os.close(null)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
