"""The SDK's own lines on the worker's stderr. They begin with "pitwarden: "."""

from __future__ import annotations

import contextlib
import sys
import threading

# Writing may block: on a pipe that nobody reads, or on the lock of a thread that is printing.
NOTICE_TIMEOUT_S = 1.0


def notify(text: str) -> None:
    """Writes one line. Ignores a stderr that is closed or fails; may block."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"pitwarden: {text}", file=sys.stderr, flush=True)


def notify_with_timeout(text: str) -> None:
    """Writes one line in a thread, flushes stdout and stderr, and waits a second at most.

    Raises RuntimeError if no thread can be started.
    """
    writer = threading.Thread(target=_write, args=(text,), daemon=True)
    writer.start()
    writer.join(NOTICE_TIMEOUT_S)


def flush_output() -> None:
    """Flushes stdout and stderr, if they are there and not closed; may block."""
    for stream in (sys.stdout, sys.stderr):
        # AttributeError: a stream that was closed before Python started is None.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _write(text: str) -> None:
    # The reader of stderr may have died with the agent.
    with contextlib.suppress(OSError, ValueError):
        print(f"pitwarden: {text}", file=sys.stderr)
    flush_output()
