"""The worker's output when it goes to a file: on a full disk, and while there is no agent to read and shorten it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any, Optional

# What a file may take of the disk, and what is left of it beyond that: the newest.
FILE_MAX_BYTES = 8 * 1024 * 1024
FILE_KEPT_BYTES = 1024 * 1024

LOOK_EVERY_S = 0.1

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

# fallocate(2)
_KEEP_SIZE = 1
_PUNCH_HOLE = 2


class Lossy(io.FileIO):
    """Drops what a full disk does not take, for a line that is lost is no reason to fail in whatever printed it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return memoryview(data).nbytes


def survive_full_disk() -> None:
    """To be called before anybody has taken hold of sys.stdout or sys.stderr. Both are written line by line."""
    for name in ("stdout", "stderr"):
        stream = _lossy(getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def say(line: str) -> None:
    """A line for who reads the worker's stderr, from a thread that must not end of it: stderr may be closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"pitwarden: {line}", file=sys.stderr, flush=True)


def shorten_until(over: threading.Event) -> None:
    """Keeps the files at stdout and stderr short, in a thread, until the event is set."""
    threading.Thread(target=_shorten, args=(over,), name="pitwarden-output", daemon=True).start()


def _lossy(stream: Any) -> Any:
    # None when it was closed before Python began; another class when somebody has replaced it.
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = Lossy(stream.fileno(), "w", closefd=False)
    # FileIO has the descriptor for a name; what was there says "<stdout>".
    raw.name = stream.name
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    lossy: Any = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        # A log line is worth most while the process still lives.
        line_buffering=True,
        write_through=stream.write_through,
    )
    lossy.mode = "w"
    return lossy


def _shorten(over: threading.Event) -> None:
    punch = _puncher()
    while punch is not None and not over.wait(LOOK_EVERY_S):
        for fd in (1, 2):
            shorten(fd, punch)


def shorten(fd: int, punch: Callable[[int, int], object]) -> None:
    """Gives the blocks of a file that takes too many back to the disk. Its size stays, and offsets in it mean what
    they meant: where the older part was there is a hole."""
    try:
        status = os.fstat(fd)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 > FILE_MAX_BYTES:
        punch(fd, status.st_size - FILE_KEPT_BYTES)


def _puncher() -> Optional[Callable[[int, int], object]]:
    """Punches out what is before an offset; None where the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    # Here and not above: most workers never need it.
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        # Where offsets have 32 bits without it.
        fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    except (OSError, AttributeError):
        return None
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    # A file system that cannot do it says so, and the file grows on.
    return lambda fd, end: fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, end) if end > 0 else 0
