"""The begun mark: the id of the newest request that has begun, in a file that survives the death of this process.

The agent reads it to learn which requests a dead worker had not begun (src/os/process/begun-mark.ts).
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from typing import Optional


def open_begun_mark(path: str) -> Optional[Callable[[int], None]]:
    """Returns a function that writes a request's id to the agent's file, or None if the file cannot be used.

    The id goes into the file's first four bytes through a shared mapping. The write takes a tenth of a microsecond, and
    stays in the file however this process ends.
    """
    try:
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 4)
    except (OSError, ValueError):
        return None
    return functools.partial(memoryview(mapped).cast("I").__setitem__, 0)
