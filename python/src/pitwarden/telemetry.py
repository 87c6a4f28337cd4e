"""What an application measures about itself: numbers with ``emit``, durations with ``span``.

The worker adds the measurements up, and its agent adds up those of all workers of the pool, as ``pitwarden_app_…`` in
/metrics. docs/metrics.md has the bounds, and what is dropped beyond them.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError
from typing import Literal, Optional

from ._measurements import HISTOGRAM, EndedSpan, check_name, checked, measurements
from .context import current_request_id
from .errors import Cancelled, bounded

# Less than link.proto allows, because a cut text ends in an ellipsis.
ERROR_TYPE_MAX_BYTES = 125

_CANCELLATIONS = (asyncio.CancelledError, CancelledError, Cancelled, GeneratorExit)


def emit(
    name: str, value: float, /, *, kind: Literal["counter", "gauge", "histogram"] = "histogram", **labels: object
) -> None:
    """Records one measurement.

    ``kind`` decides what /metrics shows for ``name``, each with the label ``pool`` and yours:

    - ``"histogram"`` (default): how many values there were, their sum, and how they are distributed, as
      ``pitwarden_app_NAME_count``, ``…_sum`` and ``…_bucket``.
    - ``"counter"``: the sum of the values, none of which may be negative, as ``pitwarden_app_NAME_total``.
    - ``"gauge"``: the last value, for each slot of the pool (label ``slot``), as ``pitwarden_app_NAME``.

    Names have at most 100 letters, digits and underscores. At most 8 labels, whose values are texts, numbers or
    booleans, and are cut to 128 bytes. Every combination of values is a series of its own, so labels must
    not take values without end, such as ids.

    Raises ValueError for a name, kind or label that is not allowed, TypeError for a value that is no number. Never
    waits, and never raises because there is too much: measurements beyond the bounds, NaN, infinities and negative
    values of counters are dropped, and counted in ``pitwarden_telemetry_dropped_total``.

    Outside a worker, and in a process that a worker forked, it only checks its arguments.
    """
    measurements.add(name, value, kind, labels)


class Span:
    """Measures how long a ``with`` block takes. Made by ``span``; for one block."""

    __slots__ = ("_began_s", "_labels", "_name")

    def __init__(self, name: str, labels: dict[str, object]) -> None:
        self._name = name
        self._labels = labels
        self._began_s: Optional[float] = None

    def __enter__(self) -> Span:
        if self._began_s is not None:
            raise RuntimeError("a span measures one block: call pitwarden.span() for each")
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, _: object, error: Optional[BaseException], __: object) -> None:
        ended_s = time.perf_counter()
        if self._began_s is None:
            raise RuntimeError("the span has not begun: use it in a `with` statement")
        outcome = "ok" if error is None else "cancelled" if isinstance(error, _CANCELLATIONS) else "error"
        duration_s = ended_s - self._began_s
        labels = {**self._labels, "outcome": outcome}
        measurements.add(self._name, duration_s, HISTOGRAM, labels)
        if measurements.wants_span():
            error_type = "" if error is None else bounded(type(error).__name__, ERROR_TYPE_MAX_BYTES)
            began_at_s = time.time() - duration_s
            measurements.add_span(
                EndedSpan(self._name, labels, current_request_id(), began_at_s, duration_s, error_type)
            )


def span(name: str, /, **labels: object) -> Span:
    """Measures how long a block takes: ``with pitwarden.span("tokenize"):``.

    Recorded like ``emit(f"{name}_seconds", …)`` when the block ends, with the label ``outcome``: ``ok``, ``error`` if
    the block raised, or ``cancelled`` if it was cancelled, or is a generator's that its consumer closed. Works in
    commands of all kinds, in threads and across ``await`` and ``yield``. Spans may be nested.

    Raises as ``emit`` does, and ValueError for a label named ``outcome``.
    """
    if "outcome" in labels:
        raise ValueError("label: expected another name than outcome, which the span sets")
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    measured = name if name.endswith("_seconds") else f"{name}_seconds"
    # Before the block, and not after it has run.
    if labels:
        checked(measured, HISTOGRAM, {**labels, "outcome": "cancelled"})
    else:
        check_name(measured)
    return Span(measured, labels)
