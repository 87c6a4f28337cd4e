"""When the session sends what the application measured: along with a frame that goes anyway, once a second at most."""

from __future__ import annotations

from ._measurements import Measurements

# A report goes with results, or with the answer to a ping, if the one before is as old as this.
INTERVAL_S = 1.0


class TelemetryReports:
    def __init__(self, measured: Measurements) -> None:
        self._measured = measured
        # 0: the agent takes no telemetry.
        self._max_bytes = 0
        self._due_s = 0.0
        # True: a report is sent also without anything else.
        self.urgent = False

    def limit(self, bytes_per_s: int) -> None:
        """How many bytes the agent takes in a second; 0: it takes no telemetry."""
        self._max_bytes = bytes_per_s
        if bytes_per_s:
            self._measured.start()
        else:
            self._measured.stop()

    def flush(self) -> None:
        """The worker is about to end: the next frame takes what was measured until now."""
        self.urgent = self._max_bytes > 0 and not self._measured.empty

    def due(self, now_s: float) -> bool:
        return (now_s >= self._due_s or self.urgent) and self._max_bytes > 0 and not self._measured.empty

    def take(self, now_s: float) -> bytes:
        """The next report, a serialized Telemetry."""
        self.urgent = False
        self._due_s = now_s + INTERVAL_S
        return self._measured.take(self._max_bytes)
