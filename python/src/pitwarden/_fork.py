"""Keeps processes that user code forked out of the SDK.

A child of os.fork() has a copy of the worker's stack. When user code ends in the child, by returning or by raising, the
copy would go on as a second worker: it would answer the request again and take others. So the SDK compares
``generation`` before and after everything that it calls, and ends a process in which it has changed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn, Optional

# Forks between this process and the first one. A counter that each fork moves costs a request a tenth of what a call of
# os.getpid() costs it, and says the same.
generation = 0


def _count() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_count)


def end(exception: Optional[BaseException], where: str) -> NoReturn:
    """Ends this process as a script would end: with the status of a SystemExit, or 1 and a traceback.

    Exit handlers do not run: they are the parent's, whose threads are not here to help them.
    """
    status = 1
    try:
        if exception is None:
            status = 0
            print(f"pitwarden: a process that was forked in {where} returned from it, and ends here", file=sys.stderr)
        elif not isinstance(exception, SystemExit):
            traceback.print_exception(type(exception), exception, exception.__traceback__)
        elif exception.code is None or isinstance(exception.code, int):
            status = (exception.code or 0) & 0xFF
        else:
            print(exception.code, file=sys.stderr)
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
        finally:
            os._exit(status)


@contextlib.contextmanager
def children_end_here(where: str) -> Iterator[None]:
    """Ends processes that the code in the ``with`` block forked, where they come out of it."""
    before = generation
    try:
        yield
    except BaseException as exception:
        if generation != before:
            end(exception, where)
        raise
    if generation != before:
        end(None, where)
