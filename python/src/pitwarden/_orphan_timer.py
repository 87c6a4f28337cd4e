"""Stops a worker that has been without an agent for too long.

The timer starts when the link is lost, and an agent that attaches in time cancels it. When the orphan timeout has
passed it stops the worker, as an agent would; when the drain timeout has passed after that, it ends the process.

The timer has a thread of its own, so commands that sleep or wait cannot delay it. A command that never releases the GIL
can, and so can whoever suspends the process: the agent's guardian kills such workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Optional


class OrphanLimits(NamedTuple):
    # How long the worker may be without an agent before it stops; 0: it stops at once.
    orphan_timeout_s: float
    # How long its running requests may take after that.
    drain_timeout_s: float


class OrphanTimer:
    def __init__(
        self, limits: OrphanLimits, *, stop: Callable[[float], object], end_process: Callable[[], object]
    ) -> None:
        """``stop`` gets the grace period in seconds. Both functions are called from the timer's thread, and neither of
        them after ``cancel``."""
        self.limits = limits
        self._stop = stop
        self._end_process = end_process
        self._cancelled: Optional[threading.Event] = None
        self._started_s = 0.0
        # True once the orphan timeout has passed.
        self.expired = False

    def start(self) -> threading.Event:
        """Starts the timer with the present limits. Returns an event that is set when it is cancelled."""
        self._started_s = time.monotonic()
        self._cancelled = cancelled = threading.Event()
        arguments = (cancelled, self.limits, self._started_s)
        threading.Thread(target=self._wait, args=arguments, name="pitwarden-orphan-timer", daemon=True).start()
        return cancelled

    def cancel(self) -> float:
        """Cancels the timer. Returns the seconds since it was started."""
        if self._cancelled is not None:
            self._cancelled.set()
        return time.monotonic() - self._started_s

    def _wait(self, cancelled: threading.Event, limits: OrphanLimits, started_s: float) -> None:
        if cancelled.wait(limits.orphan_timeout_s):
            return
        self.expired = True
        # Running requests get the first half of the drain timeout to end. They are then cancelled, and get the second.
        self._stop(limits.drain_timeout_s / 2)
        end_s = started_s + limits.orphan_timeout_s + limits.drain_timeout_s
        if not cancelled.wait(max(0.0, end_s - time.monotonic())):
            self._end_process()
