"""How a worker handles SIGINT and SIGTERM, and how processes that its commands fork do."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable


def ignore_interrupts() -> None:
    # Ctrl-C in a terminal also reaches the agent, which decides. A handler that does nothing, because child processes
    # would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)


def on_terminate(stop: Callable[[], object]) -> None:
    """Calls ``stop`` at each SIGTERM, in a thread of its own."""
    # The kernel may deliver the signal to any thread, and Python then does not interrupt a main thread that waits for a
    # lock to run the handler there. But whichever thread gets the signal, Python writes its number to the wakeup pipe.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, stop), name="pitwarden-signals", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _stop_unless_watched(writer, stop))
    # A forked process, such as multiprocessing makes, must die of a SIGTERM: its parent waits for that. Blocked during
    # the fork, for one that arrived before the child has reset its handler would be lost.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_reset_signals_in_child)


def _watch(reader: int, stop: Callable[[], object]) -> None:
    # OSError: the application has closed this descriptor. The handler calls ``stop`` from then on.
    with contextlib.suppress(OSError):
        while True:
            # One byte for each signal that Python handles: its number.
            for number in os.read(reader, 64):
                if number == signal.SIGTERM:
                    stop()


def _stop_unless_watched(writer: int, stop: Callable[[], object]) -> None:
    # An exception would come up in whatever command runs in this thread.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if not _is_watched(writer):
            # In a new thread: the handler may have interrupted this one while it holds a lock that ``stop`` needs.
            _thread.start_new_thread(stop, ())


def _is_watched(writer: int) -> bool:
    try:
        wakeup_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # The application has closed the pipe.
    except (OSError, ValueError):
        return False
    if wakeup_fd != writer:
        # The application has set a wakeup descriptor of its own, as asyncio does for handlers in the main thread.
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    return wakeup_fd == writer


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _reset_signals_in_child() -> None:
    # The parent reads the other end of the wakeup pipe, so the child must not write to it.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()
