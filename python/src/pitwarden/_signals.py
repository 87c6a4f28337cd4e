"""What SIGINT and SIGTERM do to a worker, and not to the processes that its commands fork."""

from __future__ import annotations

import _thread
import os
import signal
from typing import Callable


def ignore_interrupts() -> None:
    # Ctrl-C in a terminal reaches the agent too, and it decides. A handler, for SIG_IGN would be inherited by children.
    signal.signal(signal.SIGINT, lambda *_: None)


def on_terminate(stop: Callable[[], object]) -> None:
    """Calls ``stop`` in a thread of its own with each SIGTERM."""
    # The handler may interrupt this thread while it holds any lock, so it must not wait for one itself.
    signal.signal(signal.SIGTERM, lambda *_: _thread.start_new_thread(stop, ()))
    # A forked process, as multiprocessing makes them, is to die of a SIGTERM: its parent waits for that. One that comes
    # before the child has its own way back would be lost, so it is held off meanwhile.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_die_of_it)


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _die_of_it() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()
