"""Says what keeps a worker from ending, when all of its own is done."""

from __future__ import annotations

import contextlib
import os
import threading
import time

PATIENCE_S = 1.0
NAMES_MAX = 10


def say_what_delays_the_end() -> None:
    """To be called last: Python then waits for the application's threads, and runs its exit handlers."""
    # There may be no thread for it.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=_wait, name="pitwarden-end", daemon=True).start()


def _wait() -> None:
    time.sleep(PATIENCE_S)
    # Not by sys.stderr: Python aborts when it ends while a thread holds the lock of that.
    with contextlib.suppress(OSError):
        os.write(2, f"pitwarden: the end waits for {_what()}\n".encode(errors="replace"))


def _what() -> str:
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]
    if not names:
        return "exit handlers (atexit)"
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return f"threads that are no daemons: {', '.join(names[:NAMES_MAX])}{more}"
