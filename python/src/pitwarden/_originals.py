"""What gevent and eventlet replace, as it was: the worker imports this before its application is loaded.

The SDK needs real threads, and things that threads wait for. Where threads themselves are replaced it says so.
"""

from __future__ import annotations

import _thread
import asyncio
import selectors
from queue import SimpleQueue
from selectors import DefaultSelector

__all__ = ["SimpleQueue", "new_event_loop", "who_replaced_threads"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """As the application's policy has it; with a selector that waits in its thread, and not in gevent's hub."""
    if selectors.DefaultSelector is DefaultSelector:
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(DefaultSelector())


def who_replaced_threads() -> str:
    """The package whose greenlets stand for threads in this process; empty: none does. Debuggers wrap real threads."""
    package = (getattr(_thread.start_new_thread, "__module__", "") or "").partition(".")[0]
    return package if package in ("gevent", "eventlet") else ""
