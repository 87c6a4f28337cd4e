"""What SIGINT and SIGTERM do to a worker, and not to the processes that its commands fork."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable


def ignore_interrupts() -> None:
    # Ctrl-C in a terminal reaches the agent too, and it decides. A handler, for SIG_IGN would be inherited by children.
    signal.signal(signal.SIGINT, lambda *_: None)


def on_terminate(stop: Callable[[], object]) -> None:
    """Calls ``stop`` in a thread of its own with each SIGTERM."""
    # The kernel may give the signal to any thread, and Python then does not wake a main thread that waits for a lock to
    # run the handler there. What it writes to this descriptor it writes in whichever thread that is.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, stop), name="pitwarden-signals", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _instead_of_watching(writer, stop))
    # A forked process, as multiprocessing makes them, is to die of a SIGTERM: its parent waits for that. One that comes
    # before the child has its own way back would be lost, so it is held off meanwhile.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_die_of_it)


def _watch(reader: int, stop: Callable[[], object]) -> None:
    # Not when the application has closed all descriptors, or this one: the handler sees to SIGTERM then.
    with contextlib.suppress(OSError):
        while True:
            # A byte is the number of a signal that came: of any that Python handles.
            for number in os.read(reader, 64):
                if number == signal.SIGTERM:
                    stop()


def _instead_of_watching(writer: int, stop: Callable[[], object]) -> None:
    # What is raised here would be raised in whatever command runs in this thread.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if not _is_watched(writer):
            # The handler may interrupt this thread while it holds any lock, so it must not wait for one itself.
            _thread.start_new_thread(stop, ())


def _is_watched(writer: int) -> bool:
    try:
        now_theirs = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # The application has closed it.
    except (OSError, ValueError):
        return False
    if now_theirs != writer:
        # The application has taken it for itself, as asyncio does for signal handlers in the main thread.
        signal.set_wakeup_fd(now_theirs, warn_on_full_buffer=False)
    return now_theirs == writer


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _die_of_it() -> None:
    # What it writes there would be read in the parent.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()
