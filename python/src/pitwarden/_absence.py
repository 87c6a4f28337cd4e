"""How long a worker may be without an agent, and that it is gone after that whatever it is at.

An agent that comes back in time changes nothing. When the time is over the worker stops as an agent would have asked it
to. What does not stop even so is ended by a thread, which a command that sleeps or waits cannot keep from it; one that
never lets go of the GIL can, and a process that somebody stopped: those are left to the agent's guardian.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Optional


class Limits(NamedTuple):
    # Without an agent, until it stops.
    orphan_s: float
    # What still runs then may take so long.
    drain_s: float


class Absence:
    def __init__(self, limits: Limits, stop: Callable[[float], object], end: Callable[[], object]) -> None:
        """``stop`` is called with the grace in seconds when `orphan_s` are over, ``end`` `drain_s` later: both from a
        thread, and not when an agent came back before."""
        self.limits = limits
        self._stop = stop
        self._end = end
        self._over: Optional[threading.Event] = None
        self._since_s = 0.0
        # An agent was too long in coming.
        self.orphaned = False

    def begin(self) -> threading.Event:
        """The event is set when it is over."""
        self._since_s = time.monotonic()
        self._over = over = threading.Event()
        counting = (over, self.limits, self._since_s)
        threading.Thread(target=self._count, args=counting, name="pitwarden-absence", daemon=True).start()
        return over

    def end(self) -> float:
        """An agent is there; returns how many seconds there was none."""
        if self._over is not None:
            self._over.set()
        return time.monotonic() - self._since_s

    def _count(self, over: threading.Event, limits: Limits, since_s: float) -> None:
        if over.wait(limits.orphan_s):
            return
        self.orphaned = True
        # Half of it for what runs to end, as an agent has it, and half for what was cancelled.
        self._stop(limits.drain_s / 2)
        if not over.wait(max(0.0, since_s + limits.orphan_s + limits.drain_s - time.monotonic())):
            self._end()
