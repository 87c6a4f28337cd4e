"""Lets the agent see what a worker is doing that hangs, and what it was doing when it crashed."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys

# Linux's SIGRTMIN + 10: the agent's os/stacks.ts sends it.
SIGNAL = 44


def write_stacks(path: str) -> bool:
    """Has the stacks of all threads written to ``path`` at each SIGNAL and at a crash; False where that cannot be.

    The handlers are C code that needs no GIL, so they work while an extension holds it.
    """
    if not path or not sys.platform.startswith("linux"):
        return False
    try:
        # Kept open for as long as the process lives: the handlers only have the descriptor.
        file = open(path, "w")  # noqa: SIM115
        faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
        # PYTHONFAULTHANDLER and -X faulthandler ask for the stacks of a crash on stderr: the agent reads that too.
        if not faulthandler.is_enabled():
            faulthandler.enable(file=file, all_threads=True)
        descriptor, identity = file.fileno(), _identity(file.fileno())
    except (OSError, ValueError, RuntimeError):
        return False
    os.register_at_fork(after_in_child=lambda: _leave_to_parent(descriptor, identity))
    return True


def _leave_to_parent(descriptor: int, identity: tuple[int, int]) -> None:
    """A forked child's stacks are not the worker's: they go nowhere."""
    with contextlib.suppress(OSError):
        # The application may have closed the file, and opened another one that got its number.
        if _identity(descriptor) == identity:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor, inheritable=False)
            os.close(nowhere)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
