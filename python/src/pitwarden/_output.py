"""The worker's stdout and stderr where they are files: on a full disk, and while no agent reads and shortens them."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any, Optional

# A file that takes more of the disk than the first is cut down to its newest part, of the second size.
FILE_MAX_BYTES = 8 * 1024 * 1024
FILE_KEPT_BYTES = 1024 * 1024

CHECK_INTERVAL_S = 0.1

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

# Flags of fallocate(2).
_KEEP_SIZE = 1
_PUNCH_HOLE = 2


class LossyFile(io.FileIO):
    """Drops what a full disk does not accept: a line that is lost is no reason for print() to fail."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            return memoryview(data).nbytes


def survive_full_disk() -> None:
    """Makes sys.stdout and sys.stderr lossy and line-buffered. To be called before anything refers to them."""
    for name in ("stdout", "stderr"):
        stream = _lossy(getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def keep_short_until(done: threading.Event) -> None:
    """Starts a thread that keeps the files at stdout and stderr short until the event is set."""
    threading.Thread(target=_keep_short, args=(done,), name="pitwarden-output", daemon=True).start()


def _lossy(stream: Any) -> Any:
    # None if the stream was closed before Python started; another class if somebody has replaced it.
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = LossyFile(stream.fileno(), "w", closefd=False)
    # FileIO takes the descriptor's number as its name; the name so far was "<stdout>".
    raw.name = stream.name
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    lossy: Any = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        # Lines in a buffer would be lost when the process is killed.
        line_buffering=True,
        write_through=stream.write_through,
    )
    lossy.mode = "w"
    return lossy


def _keep_short(done: threading.Event) -> None:
    punch_hole = _hole_puncher()
    while punch_hole is not None and not done.wait(CHECK_INTERVAL_S):
        for fd in (1, 2):
            shorten(fd, punch_hole)


def shorten(fd: int, punch_hole: Callable[[int, int], object]) -> None:
    """Gives the disk blocks of the older part of a file back if the file takes too many. Ignores what is no file.

    The file keeps its size and its offsets: the older part becomes a hole. ``punch_hole`` gets the descriptor and the
    offset at which the hole ends.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 > FILE_MAX_BYTES:
        punch_hole(fd, status.st_size - FILE_KEPT_BYTES)


def _hole_puncher() -> Optional[Callable[[int, int], object]]:
    """Returns a function for ``shorten``, or None if the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    # Imported here because most workers never need it.
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        # In some C libraries fallocate takes offsets of 32 bits, and fallocate64 those of 64.
        fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    except (OSError, AttributeError):
        return None
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    # On a file system without holes the call fails, and the file keeps growing.
    return lambda fd, end: fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, end) if end > 0 else 0
