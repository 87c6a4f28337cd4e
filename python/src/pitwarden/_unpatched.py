"""Functions that gevent and eventlet replace, as they were before. The worker imports this before its application.

The SDK needs real threads, and queues and selectors on which a real thread can wait.
"""

from __future__ import annotations

import _thread
import asyncio
import selectors
from queue import SimpleQueue
from selectors import DefaultSelector

__all__ = ["SimpleQueue", "new_event_loop", "thread_patcher"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of the application's event loop policy, with a selector that waits in its thread and not in gevent's
    hub."""
    if selectors.DefaultSelector is DefaultSelector:
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(DefaultSelector())


def thread_patcher() -> str:
    """The package that has replaced threads by greenlets in this process; empty: none has."""
    # Debuggers also replace this function, but start real threads.
    package = (getattr(_thread.start_new_thread, "__module__", "") or "").partition(".")[0]
    return package if package in ("gevent", "eventlet") else ""
