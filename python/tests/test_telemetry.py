"""emit and span: what is added up, what is refused, what is dropped, and what reaches the agent."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from fake_agent import PATIENCE_S, FakeAgent, FakeLink

import pitwarden
from pitwarden import _measurements, telemetry
from pitwarden._measurements import COUNTER, GAUGE, HISTOGRAM, Measurements
from pitwarden._pb.link_pb2 import (
    AgentFrame,
    Limits,
    Telemetry,
    TelemetrySeries,
    TelemetrySpan,
    TelemetrySpans,
    WorkerFrame,
)

BYTES_PER_S = 64 * 1024
WHOLE_BYTES = 1024 * 1024


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measurements:
    """Takes what emit and span measure, as in a worker."""
    measurements = Measurements()
    measurements.start()
    monkeypatch.setattr(telemetry, "measurements", measurements)
    return measurements


def taken(measurements: Measurements, max_bytes: int = WHOLE_BYTES) -> Telemetry:
    return Telemetry.FromString(measurements.take(max_bytes))


def text(series: TelemetrySeries) -> str:
    labels = ",".join(f"{label.name}={label.value}" for label in series.labels)
    return f"{series.kind} {series.name}{{{labels}}} {series.count} {series.value:g}"


def test_measurements_of_equal_names_and_labels_are_added_up(measured: Measurements) -> None:
    for value in (1, 2.5, Fraction(1, 2)):
        pitwarden.emit("rows", value, kind="counter", table="a", fast=True)
    pitwarden.emit("rows", 1, kind="counter", fast=True, table="a")
    pitwarden.emit("rows", 1, kind="counter", fast=1, table="a")
    for value in (7, 5):
        pitwarden.emit("depth", value, kind="gauge")
    assert [text(series) for series in taken(measured).series] == [
        "counter rows{fast=true,table=a} 4 5",
        "counter rows{fast=1,table=a} 1 1",
        "gauge depth{} 2 5",
    ]
    assert measured.empty
    assert measured.take(WHOLE_BYTES) == b""


@pytest.mark.parametrize(
    ("name", "values", "filled"),
    [
        ("size", [0.0005, 0.001, 0.002, 1e9, 1e10], {0: 2, 1: 1, 24: 1, 25: 1}),
        ("size", [-5], {0: 1}),
        ("wait_seconds", [0.00025, 0.3, 400], {0: 1, 10: 1, 18: 1}),
    ],
)
def test_a_histogram_counts_a_value_in_the_bucket_with_the_next_higher_bound(
    measured: Measurements, name: str, values: list[float], filled: dict[int, int]
) -> None:
    for value in values:
        pitwarden.emit(name, value)
    (series,) = taken(measured).series
    assert {index: count for index, count in enumerate(series.buckets) if count} == filled
    assert (series.kind, series.count) == (HISTOGRAM, len(values))
    assert series.value == pytest.approx(sum(values))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pitwarden.emit("", 1), ValueError, "no digit first, got ''"),
        (lambda: pitwarden.emit("a.b", 1), ValueError, "got 'a.b'"),
        (lambda: pitwarden.emit("1a", 1), ValueError, "got '1a'"),
        (lambda: pitwarden.emit("a\n", 1), ValueError, r"got 'a\n'"),
        (lambda: pitwarden.emit("ä", 1), ValueError, "got 'ä'"),
        (lambda: pitwarden.emit("a" * 101, 1), ValueError, "expected at most 100 letters"),
        (lambda: pitwarden.emit("a_total", 1), ValueError, "expected another ending than _total"),
        (lambda: pitwarden.emit("a_bucket", 1), ValueError, "expected another ending than _bucket"),
        (lambda: pitwarden.emit(5, 1), TypeError, "name: expected a str, got int"),
        (lambda: pitwarden.emit("a", "1"), TypeError, "value: expected a number, got str"),
        (lambda: pitwarden.emit("a", None), TypeError, "value: expected a number, got NoneType"),
        (lambda: pitwarden.emit("a", 1, kind="summary"), ValueError, "one of counter, gauge, histogram, got 'summary'"),
        (lambda: pitwarden.emit("a", 1, pool="x"), ValueError, "expected another name than pool"),
        (lambda: pitwarden.emit("a", 1, le="x"), ValueError, "expected another name than le"),
        (lambda: pitwarden.emit("a", 1, __a="x"), ValueError, "no digit or __ first"),
        (lambda: pitwarden.emit("a", 1, **{"b-c": "x"}), ValueError, "got 'b-c'"),
        (
            lambda: pitwarden.emit("a", 1, b=None),
            TypeError,
            "label b: expected a str, int, float or bool, got NoneType",
        ),
        (lambda: pitwarden.emit("a", 1, b=[1]), TypeError, "got list"),
        (lambda: pitwarden.emit("a", 1, **{f"l{n}": "" for n in range(9)}), ValueError, "at most 8 labels, got 9"),
        (lambda: pitwarden.emit("a", 1, **{f"l{n}": "x" * 100 for n in range(6)}), ValueError, "512 bytes together"),
        (lambda: pitwarden.span("a b"), ValueError, "got 'a b_seconds'"),
        (lambda: pitwarden.span("a", outcome="x"), ValueError, "expected another name than outcome"),
        (lambda: pitwarden.span(3), TypeError, "name: expected a str, got int"),
    ],
)
def test_a_call_that_is_wrong_says_so_in_a_worker_and_outside(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], error: type[Exception], message: str
) -> None:
    for starts in (False, True):
        measurements = Measurements()
        if starts:
            measurements.start()
        monkeypatch.setattr(telemetry, "measurements", measurements)
        with pytest.raises(error, match=re.escape(message)):
            call()
        assert measurements.empty


def test_values_that_cannot_be_added_up_are_dropped_and_counted(measured: Measurements) -> None:
    pitwarden.emit("rows", 1, kind="counter")
    for value in (math.nan, math.inf, -math.inf, -1, 10**400):
        pitwarden.emit("rows", value, kind="counter")
    pitwarden.emit("huge", 1e308)
    pitwarden.emit("huge", 1e308)
    message = taken(measured)
    assert [text(series) for series in message.series] == ["counter rows{} 1 1", "histogram huge{} 1 1e+308"]
    assert [(drop.reason, drop.count) for drop in message.drops] == [("value", 6)]


def test_a_long_label_is_cut_and_one_that_is_no_text_becomes_one(measured: Measurements) -> None:
    pitwarden.emit("a", 1, kind="gauge", error="é" * 100, number=1.5, surrogate="\ud800")
    (series,) = taken(measured).series
    values = {label.name: label.value for label in series.labels}
    assert values == {"error": "é" * 62 + "…", "number": "1.5", "surrogate": "\\ud800"}
    assert len(values["error"].encode()) <= 128


def test_labels_without_end_do_not_make_a_worker_grow(measured: Measurements) -> None:
    for number in range(50_000):
        pitwarden.emit("flood", 1, kind="counter", id=str(number))
    size = sum(sys.getsizeof(held) for held in (measured._series, measured._by_call))
    assert size < 200_000
    message = taken(measured, 10**9)
    assert len(message.series) == _measurements.SERIES_MAX
    assert [(drop.reason, drop.count) for drop in message.drops] == [("worker_series", 49_000)]
    # What was known before goes on being counted.
    pitwarden.emit("flood", 1, kind="counter", id="0")
    assert len(taken(measured).series) == 1


def test_what_does_not_fit_into_one_report_follows_in_the_next_ones(measured: Measurements) -> None:
    for number in range(500):
        pitwarden.emit("size", number, table="x" * 100, number=number)
    seen: list[str] = []
    reports = 0
    while not measured.empty:
        report = measured.take(16 * 1024)
        assert 0 < len(report) <= 16 * 1024
        seen += [series.labels[0].value for series in Telemetry.FromString(report).series]
        reports += 1
        if reports == 1:
            pitwarden.emit("size", 1, table="x" * 100, number=499)
    assert seen == [str(number) for number in range(500)]
    assert reports > 2


def test_spans_say_how_their_block_ended(measured: Measurements) -> None:
    class Broken(BaseException):
        pass

    def run(error: BaseException | None) -> None:
        with pitwarden.span("step"):
            if error is not None:
                raise error

    errors = (None, ValueError(), Broken(), asyncio.CancelledError(), pitwarden.Cancelled("x"))
    for error in errors:
        if error is None:
            run(error)
            continue
        with pytest.raises(type(error)):
            run(error)
    counts = {series.labels[0].value: series.count for series in taken(measured).series}
    assert counts == {"ok": 1, "error": 2, "cancelled": 2}


def test_a_span_across_yields_ends_with_its_generator(measured: Measurements) -> None:
    def values():
        with pitwarden.span("stream_seconds"):
            yield 1
            yield 2

    assert list(values()) == [1, 2]
    left = values()
    next(left)
    left.close()
    series = taken(measured).series
    assert {each.labels[0].value for each in series} == {"ok", "cancelled"}
    assert {each.name for each in series} == {"stream_seconds"}


def test_a_span_object_measures_one_block(measured: Measurements) -> None:
    span = pitwarden.span("once")
    with pytest.raises(RuntimeError, match="has not begun"):
        span.__exit__(None, None, None)
    with span:
        pass
    with pytest.raises(RuntimeError, match="one block"), span:
        pass
    assert [series.count for series in taken(measured).series] == [1]


def test_a_report_tells_of_the_first_spans_one_by_one(measured: Measurements) -> None:
    for number in range(40):
        with pitwarden.span("step", number=number):
            pass
    with pytest.raises(KeyError), pitwarden.span("late"):
        raise KeyError("x")
    before_s = time.time()
    report = taken(measured)
    spans = TelemetrySpans.FromString(report.spans)
    assert [span.labels[0].value for span in spans.spans] == [str(number) for number in range(32)]
    assert spans.left_out == 9
    assert len(report.series) == 41
    assert abs(spans.spans[0].began_at_ms / 1000 - before_s) < 60
    assert not taken(measured).spans


def test_the_bytes_of_spans_are_bounded(measured: Measurements) -> None:
    for _ in range(32):
        with pitwarden.span("step", **{f"label_{n}": "é" * 60 for n in range(3)}):
            pass
    report = measured.take(BYTES_PER_S)
    spans = TelemetrySpans.FromString(Telemetry.FromString(report).spans)
    assert 0 < len(spans.spans) < 32
    assert len(spans.spans) + spans.left_out == 32
    assert spans.ByteSize() <= _measurements.SPANS_MAX_BYTES


def test_no_measurement_of_many_threads_is_lost(measured: Measurements) -> None:
    reports: list[Telemetry] = []
    done = threading.Event()

    def measure() -> None:
        for number in range(5_000):
            pitwarden.emit("rows", 1, kind="counter", part=str(number % 7))

    def report() -> None:
        while not done.is_set():
            reports.append(taken(measured))

    reporter = threading.Thread(target=report)
    reporter.start()
    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reporter.join()
    reports.append(taken(measured))
    assert sum(series.count for report in reports for series in report.series) == 20_000


def test_a_measurement_within_a_measurement_does_not_wait_for_itself(measured: Measurements) -> None:
    class Number(float):
        def __float__(self) -> float:
            pitwarden.emit("inner", 1, kind="counter")
            return 1.0

    with measured._lock:
        pitwarden.emit("outer", Number(), kind="counter")
    assert {series.name for series in taken(measured).series} == {"inner", "outer"}


def test_outside_a_worker_nothing_is_held() -> None:
    measurements = Measurements()
    measurements.add("rows", 1, COUNTER, {})
    assert measurements.empty
    measurements.start()
    measurements.add("rows", 1, GAUGE, {})
    measurements.forked()
    measurements.add("rows", 1, GAUGE, {})
    assert measurements.empty


def spans_of(frame: WorkerFrame) -> list[TelemetrySpan]:
    return list(TelemetrySpans.FromString(Telemetry.FromString(frame.telemetry).spans).spans)


def sums(link: FakeLink) -> dict[str, float]:
    """What the link has brought so far: values of counters, counts of histograms."""
    found: dict[str, float] = {}
    for frame in list(link.frames):
        for series in Telemetry.FromString(frame.telemetry).series:
            labels = "".join(f" {label.value}" for label in series.labels)
            value = series.count if series.kind == HISTOGRAM else series.value
            found[series.name + labels] = found.get(series.name + labels, 0) + value
    return found


def reported(link: FakeLink, expected: dict[str, float]) -> None:
    """Pings until the link has brought this: the answer to a ping brings what was measured, at most once a second."""
    ends_s = time.monotonic() + PATIENCE_S
    for sequence in itertools.count(1):
        if sums(link) == expected:
            return
        assert time.monotonic() < ends_s, f"expected {expected}, got {sums(link)}"
        link.ping(sequence)
        time.sleep(0.05)


def attached(agent: FakeAgent, **fields: int) -> tuple[Any, FakeLink]:
    worker = agent.spawn("measuring:app")
    return worker, worker.attach(**{"telemetry_bytes_per_s": BYTES_PER_S, **fields})


def test_a_worker_reports_what_its_application_measures(agent: FakeAgent) -> None:
    _, link = attached(agent, concurrency=4)
    reported(link, {"imported": 1})
    link.value("measure", times=3, table="a")
    link.value("spans")
    link.value("spans_of_tasks", count=20)
    link.value("in_threads", threads=4, times=100)
    expected = {
        **{"imported": 1, "rows a": 6, "rows": 800, "task_seconds ok": 20, "outer_seconds ok": 1},
        **{"inner_seconds ok first": 1, "inner_seconds error second": 1},
    }
    reported(link, expected)


def test_a_cancelled_command_ends_its_span(agent: FakeAgent) -> None:
    _, link = attached(agent)
    id = link.request("wait_in_span")
    link.progress(id)
    link.cancel(id)
    link.result(id)
    reported(link, {"imported": 1, "wait_seconds cancelled": 1})
    spans = [span for frame in link.frames for span in spans_of(frame)]
    assert [(span.request_id, span.error_type) for span in spans] == [(f"r-{id}", "CancelledError")]


def test_a_wrong_call_fails_its_request_alone(agent: FakeAgent) -> None:
    _, link = attached(agent)
    error = link.call("wrong").error
    assert error.type == "builtins.ValueError"
    assert "got 'rows total'" in error.message
    assert link.value("measure") is None


def test_a_stop_reports_what_was_measured_until_then(agent: FakeAgent) -> None:
    worker, link = attached(agent)
    for _ in range(3):
        link.value("measure")
    link.stop()
    assert worker.exit()[0] == 0
    assert sums(link) == {"imported": 1, "rows": 6}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reports_nothing_and_leaves_its_parent_alone(agent: FakeAgent) -> None:
    worker, link = attached(agent)
    link.value("in_child")
    link.stop()
    assert worker.exit()[0] == 0
    assert sums(link) == {"imported": 1, "rows": 5, "forking_seconds ok": 1}


def test_an_agent_that_takes_no_telemetry_gets_none(agent: FakeAgent) -> None:
    worker, link = attached(agent, telemetry_bytes_per_s=0)
    link.value("measure")
    link.ping(10**9)
    link.send(AgentFrame(limits=Limits(telemetry_bytes_per_s=BYTES_PER_S)))
    link.value("measure", times=2)
    link.stop()
    assert worker.exit()[0] == 0
    # Only what was measured since the agent takes it.
    assert sums(link) == {"rows": 4}


def test_measurements_wait_for_the_next_agent(agent: FakeAgent) -> None:
    worker, link = attached(agent)
    reported(link, {"imported": 1})
    link.value("measure")
    before = sums(link)
    link.cut()
    link = agent.next_link()
    link.welcome(telemetry_bytes_per_s=BYTES_PER_S)
    link.value("measure")
    link.stop()
    assert worker.exit()[0] == 0
    assert sums(link)["rows"] == 4 - before.get("rows", 0)


def test_a_flood_is_bounded_and_said(agent: FakeAgent) -> None:
    worker, link = attached(agent)
    link.value("flood", labels=30_000)
    link.value("measure")
    link.stop()
    assert worker.exit()[0] == 0
    reports = [Telemetry.FromString(frame.telemetry) for frame in link.frames]
    assert max(len(frame.telemetry) for frame in link.frames) <= BYTES_PER_S
    drops = sum(drop.count for report in reports for drop in report.drops)
    assert drops + sum(series.count for report in reports for series in report.series) == 30_002
