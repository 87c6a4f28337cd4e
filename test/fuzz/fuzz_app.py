"""What `npm run fuzz` calls: the pools of the attacked agent run it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pitwarden

app = pitwarden.App()


@app.command
def echo(value: object = None) -> object:
    """Returns its argument."""
    return value


@app.command
def wait(ms: float = 50.0) -> str:
    """Sleeps for at most a second, unless it is cancelled."""
    ctx, until = pitwarden.context(), time.monotonic() + min(ms, 1000.0) / 1000
    while (left := until - time.monotonic()) > 0:
        ctx.raise_if_cancelled()
        time.sleep(min(0.02, left))
    return ctx.request_id


@app.command
def count(items: int = 3) -> Iterator[int]:
    """Streams 0, 1, 2, …"""
    yield from range(min(items, 1000))
