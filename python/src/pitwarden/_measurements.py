"""Adds up what the application measures, until the next frame to the agent takes it along.

A measurement costs a lookup and an addition under a lock, and never waits for the agent. Every bound is kept here, so
that neither ever new labels nor the absence of an agent makes the worker grow: what is beyond is counted as dropped.
"""

from __future__ import annotations

import math
import os
import re
import threading
from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple, Optional

from ._pb.link_pb2 import Telemetry, TelemetrySpans
from .errors import bounded

# link.proto has the rules for names and labels, and the bounds of the buckets.
NAME_MAX_LENGTH = 100
LABELS_MAX = 8
LABEL_NAME_MAX_LENGTH = 64
LABEL_VALUE_MAX_BYTES = 128
LABELS_MAX_BYTES = 512
RESERVED_LABELS = frozenset({"pool", "worker", "slot", "le", "quantile"})

SECONDS_BOUNDS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
OTHER_BOUNDS = (
    *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5),
    *(1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9),
)

# How many series wait for the next frame at most. A series has at most some 2 KiB.
SERIES_MAX = 1000
COUNT_MAX = 2**32 - 1
MAX_EXACT = 2**53

# Of how many spans a report tells one by one, and with how many bytes together.
SPANS_MAX = 32
SPANS_MAX_BYTES = 8 * 1024

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
_KINDS = (COUNTER, GAUGE, HISTOGRAM)

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_RESERVED_ENDING = re.compile(r"_(total|bucket|sum|count|created|info)$")

Labels = tuple[tuple[str, str], ...]


class EndedSpan(NamedTuple):
    name: str
    labels: dict[str, object]
    request_id: str
    began_at_s: float
    duration_s: float
    error_type: str


class Series:
    """The measurements of one name with one set of labels."""

    __slots__ = ("bounds", "buckets", "count", "kind", "labels", "name", "value")

    def __init__(self, name: str, kind: str, labels: Labels) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self.count = 0
        # Of a gauge the last measurement, else the sum.
        self.value = 0.0
        self.bounds = () if kind != HISTOGRAM else SECONDS_BOUNDS if name.endswith("_seconds") else OTHER_BOUNDS
        self.buckets = [0] * (len(self.bounds) + 1) if self.bounds else None

    @property
    def bytes_at_most(self) -> int:
        """The most bytes of its message."""
        labels = sum(len(name) + len(value.encode()) + 8 for name, value in self.labels)
        return 40 + len(self.name) + labels + 5 * (len(self.bounds) + 1)


class Measurements:
    """Those of this process. Takes none before ``start``, nor in a process that was forked from it."""

    def __init__(self) -> None:
        # Reentrant, because a signal handler or a finalizer may measure while this thread does.
        self._lock = threading.RLock()
        self._started = False
        # What the next frame takes along, oldest first; and the same series by the arguments of the calls.
        self._series: dict[tuple[str, str, Labels], Series] = {}
        self._by_call: dict[tuple[object, ...], Series] = {}
        self._drops: dict[str, int] = {}
        # The first spans that ended since the last report, and how many others there were.
        self._spans: list[EndedSpan] = []
        self._spans_left_out = 0

    def start(self) -> None:
        self._started = True

    def stop(self) -> None:
        """The agent takes no telemetry."""
        with self._lock:
            self._started = False
            self._clear()

    @property
    def empty(self) -> bool:
        return not self._series and not self._drops

    def add(self, name: str, value: float, kind: str, labels: dict[str, object]) -> None:
        """Adds one measurement. Raises ValueError or TypeError for what no call may say."""
        if type(value) is not float:
            value = _number(value)
        call: Optional[tuple[object, ...]] = (name, kind, *labels.items()) if labels else (name, kind)
        for label in labels.values():
            # 1 and True are equal as keys, and other values may not be hashable.
            if type(label) is not str:
                call = None
                break
        if call is not None:
            with self._lock:
                series = self._by_call.get(call)
                if series is not None:
                    self._measure(series, value)
                    return
        # Outside the lock: it may call code of the application.
        identity = checked(name, kind, labels)
        if not self._started:
            return
        with self._lock:
            series = self._find(identity)
            if series is None:
                self._drop("worker_series")
                return
            if call is not None and len(self._by_call) < 2 * SERIES_MAX:
                self._by_call[call] = series
            self._measure(series, value)

    def wants_span(self) -> bool:
        """True: ``add_span`` should get the span that has ended. False: it is counted as left out."""
        if len(self._spans) < SPANS_MAX:
            return self._started
        with self._lock:
            self._spans_left_out += 1
        return False

    def add_span(self, span: EndedSpan) -> None:
        """Keeps a span that ``add`` was told of to report it by itself."""
        with self._lock:
            if self._started and len(self._spans) < SPANS_MAX:
                self._spans.append(span)

    def take(self, max_bytes: int) -> bytes:
        """Takes what fits into so many bytes, as a serialized Telemetry. What does not fit waits for the next frame."""
        message = Telemetry()
        with self._lock:
            # Drops have at most 64 bytes.
            room = max_bytes - 64 - (SPANS_MAX_BYTES if self._spans else 0)
            taken: list[Series] = []
            for series in self._series.values():
                room -= series.bytes_at_most
                if room < 0:
                    break
                taken.append(series)
            for series in taken:
                del self._series[(series.name, series.kind, series.labels)]
            self._by_call.clear()
            drops, self._drops = self._drops, {}
            spans, self._spans = self._spans, []
            left_out, self._spans_left_out = self._spans_left_out, 0
        for reason, count in drops.items():
            message.drops.add(reason=reason, count=min(count, COUNT_MAX))
        for series in taken:
            _write(message, series)
        if spans:
            message.spans = _spans_message(spans, left_out).SerializeToString()
        return message.SerializeToString()

    def _find(self, identity: tuple[str, str, Labels]) -> Optional[Series]:
        series = self._series.get(identity)
        if series is None and len(self._series) < SERIES_MAX:
            series = self._series[identity] = Series(*identity)
        return series

    def _measure(self, series: Series, value: float) -> None:
        kind = series.kind
        total = value if kind == GAUGE else series.value + value
        if not math.isfinite(total) or (kind == COUNTER and value < 0) or series.count >= COUNT_MAX:
            self._drop("value")
            return
        series.value = total
        series.count += 1
        if series.buckets is not None:
            series.buckets[bisect_left(series.bounds, value)] += 1

    def _drop(self, reason: str) -> None:
        self._drops[reason] = self._drops.get(reason, 0) + 1

    def _clear(self) -> None:
        self._series, self._by_call, self._drops = {}, {}, {}
        self._spans, self._spans_left_out = [], 0

    def forked(self) -> None:
        """Call it in the child of a fork: it has no link of its own, and must not use that of its parent."""
        # Another thread of the parent may have held the lock.
        self._lock = threading.RLock()
        self._started = False
        self._clear()


def checked(name: str, kind: str, labels: dict[str, object]) -> tuple[str, str, Labels]:
    """The identity of a series. Raises ValueError or TypeError that says what is wrong."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    check_name(name)
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    if len(labels) > LABELS_MAX:
        raise ValueError(f"{name}: expected at most {LABELS_MAX} labels, got {len(labels)}")
    texts = tuple(sorted((_checked_label(label), _label_value(label, value)) for label, value in labels.items()))
    size = sum(len(label) + len(value.encode()) for label, value in texts)
    if size > LABELS_MAX_BYTES:
        raise ValueError(f"{name}: expected labels of at most {LABELS_MAX_BYTES} bytes together, got {size}")
    return name, kind, texts


@lru_cache(maxsize=1024)
def check_name(name: str) -> None:
    """Raises ValueError if measurements may not have this name."""
    if len(name) > NAME_MAX_LENGTH or _NAME.fullmatch(name) is None:
        expected = f"expected at most {NAME_MAX_LENGTH} letters, digits and underscores, and no digit first"
        raise ValueError(f"name: {expected}, got {name[: NAME_MAX_LENGTH + 1]!r}")
    ending = _RESERVED_ENDING.search(name)
    if ending is not None:
        raise ValueError(
            f"name: expected another ending than {ending[0]}, which Prometheus gives a meaning, got {name!r}"
        )


@lru_cache(maxsize=1024)
def _checked_label(label: str) -> str:
    if len(label) > LABEL_NAME_MAX_LENGTH or _NAME.fullmatch(label) is None or label.startswith("__"):
        expected = f"expected at most {LABEL_NAME_MAX_LENGTH} letters, digits and underscores, and no digit or __ first"
        raise ValueError(f"label: {expected}, got {label[: LABEL_NAME_MAX_LENGTH + 1]!r}")
    if label in RESERVED_LABELS:
        raise ValueError(f"label: expected another name than {label}, which the agent or Prometheus sets")
    return label


def _label_value(label: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"label {label}: expected a str, int, float or bool, got {type(value).__name__}")
    # Three bytes less: a cut text ends in an ellipsis.
    return bounded(str(value), LABEL_VALUE_MAX_BYTES - 3)


def _number(value: object) -> float:
    if type(value) is int and -MAX_EXACT < value < MAX_EXACT:
        return float(value)
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__float__"):
        raise TypeError(f"value: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        # A larger int than a float can hold: dropped as a value that is not finite.
        return math.inf


def _write(message: Telemetry, series: Series) -> None:
    written = message.series.add(
        name=series.name, kind=series.kind, count=series.count, value=series.value, buckets=series.buckets
    )
    for name, value in series.labels:
        written.labels.add(name=name, value=value)


def _spans_message(spans: list[EndedSpan], left_out: int) -> TelemetrySpans:
    message = TelemetrySpans()
    size = 0
    for span in spans:
        written = message.spans.add(
            name=span.name,
            request_id=span.request_id,
            began_at_ms=int(span.began_at_s * 1000),
            duration_us=max(0, int(span.duration_s * 1_000_000)),
            error_type=span.error_type,
        )
        for name, value in checked(span.name, HISTOGRAM, span.labels)[2]:
            written.labels.add(name=name, value=value)
        size += written.ByteSize() + 4
        if size > SPANS_MAX_BYTES - 8:
            left_out += len(spans) - len(message.spans) + 1
            del message.spans[-1]
            break
    message.left_out = min(left_out, COUNT_MAX)
    return message


measurements = Measurements()
os.register_at_fork(after_in_child=measurements.forked)
