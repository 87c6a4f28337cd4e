"""Reports what keeps the worker's process from exiting once the worker itself has finished."""

from __future__ import annotations

import contextlib
import os
import threading
import time

REPORT_AFTER_S = 1.0
NAMES_MAX = 10


def report_exit_delay() -> None:
    """Writes a line to stderr if the process is still there a second from now.

    To be called last: Python then waits for the application's threads and runs its exit handlers.
    """
    # RuntimeError: no thread can be started, so nothing is reported.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=_report, name="pitwarden-exit-delay", daemon=True).start()


def _report() -> None:
    time.sleep(REPORT_AFTER_S)
    # Bypasses sys.stderr: Python aborts if it finalizes while a thread holds the lock of sys.stderr.
    with contextlib.suppress(OSError):
        os.write(2, f"pitwarden: the end waits for {_causes()}\n".encode(errors="replace"))


def _causes() -> str:
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]
    if not names:
        return "exit handlers (atexit)"
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return f"threads that are no daemons: {', '.join(names[:NAMES_MAX])}{more}"
