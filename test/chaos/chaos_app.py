"""What `npm run chaos` calls: each run of a command is written down, so that one that ran twice is seen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pitwarden

sys.path.append(os.path.join(os.path.dirname(__file__), "../../examples"))
import faults

app = pitwarden.App()

_leaked: list[bytearray] = []
_runs = os.open(os.path.join(os.environ["CHAOS_RUNS"], str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@app.command
def work(ms: float) -> str:
    """Waits so long, unless it is cancelled; its request's id comes back."""
    ctx, until = pitwarden.context(), time.monotonic() + ms / 1000
    _note(ctx.request_id)
    while (left := until - time.monotonic()) > 0:
        ctx.raise_if_cancelled()
        time.sleep(min(0.02, left))
    return ctx.request_id


@app.command
def count(items: int) -> Iterator[int]:
    """Streams 0, 1, 2, …"""
    _note(pitwarden.context().request_id)
    for item in range(items):
        time.sleep(0.001)
        yield item


@app.command
def raise_error() -> None:
    """An ordinary exception."""
    _note(pitwarden.context().request_id)
    raise RuntimeError("as asked")


@app.command
def leak(mb: float, seconds: float) -> str:
    """Keeps so many MiB for good, and stays so long before it answers."""
    _note(pitwarden.context().request_id)
    block = bytearray(int(mb * 2**20))
    # A page that was never written to is not there yet.
    block[::4096] = b"\x01" * len(block[::4096])
    _leaked.append(block)
    time.sleep(seconds)
    return pitwarden.context().request_id


@app.command
def hold_gil(seconds: float) -> str:
    """Burns cpu in C without letting any other Python thread run."""
    _note(pitwarden.context().request_id)
    faults.hold_gil(seconds)
    return pitwarden.context().request_id


def _note(request_id: str) -> None:
    # One write: a kill leaves all of it or nothing.
    os.write(_runs, f"{request_id}\n".encode())
