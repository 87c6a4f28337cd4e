"""Ends processes that user code forked before they can run the SDK's code.

A child of os.fork() has a copy of the worker's stack. When user code returns or raises in the child, the child would go
on as a second worker: it would answer the request again and take others. So the SDK compares ``fork_depth`` before and
after each call of user code, and ends a process in which it has changed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn, Optional

# How many forks lie between the first process and this one. Reading a counter that each fork increments costs a request
# a tenth of what os.getpid() would, and is as good.
fork_depth = 0


def _count_fork() -> None:
    global fork_depth
    fork_depth += 1


os.register_at_fork(after_in_child=_count_fork)


def end_child(exception: Optional[BaseException], where: str) -> NoReturn:
    """Ends this process as a script would end: with the status of a SystemExit, or a traceback and status 1.

    ``exception`` is what user code raised; None: it returned, and the status is 0. Exit handlers do not run: they were
    registered by the parent, and the parent's threads, on which they may depend, do not exist in the child.
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
def ending_children(where: str) -> Iterator[None]:
    """Ends every process that was forked inside the ``with`` block when it leaves the block."""
    before = fork_depth
    try:
        yield
    except BaseException as exception:
        if fork_depth != before:
            end_child(exception, where)
        raise
    if fork_depth != before:
        end_child(None, where)
