"""Prints how many microseconds of CPU time each call of the SDK's telemetry takes in a worker, as JSON."""

from __future__ import annotations

import json
import time
import timeit

import pitwarden
from pitwarden._measurements import measurements

CALLS = 100_000


def span() -> None:
    with pitwarden.span("work"):
        pass


CASES = {
    'emit("tokens", 17, kind="counter")': lambda: pitwarden.emit("tokens", 17, kind="counter"),
    'emit("tokens", 17)': lambda: pitwarden.emit("tokens", 17),
    'emit("tokens", 17, model="small")': lambda: pitwarden.emit("tokens", 17, model="small"),
    'with span("work")': span,
}

measurements.start()
# CPU time: other processes on the machine do not count.
best = {name: min(timeit.repeat(call, timer=time.thread_time, number=CALLS)) for name, call in CASES.items()}
print(json.dumps({name: seconds / CALLS * 1e6 for name, seconds in best.items()}))
