"""Tables of steps for a session: a step is a call of a SessionDriver method, and what it must return."""

from __future__ import annotations

import random
from typing import Any, Optional

import pytest

from pitwarden import _send_queue
from pitwarden._call import Call
from pitwarden._pb.link_pb2 import AgentFrame, Drain, Hello, LinkRequest, Ping, Recall, Stop, Welcome, WorkerFrame
from pitwarden._session import ProtocolError, Received, Session
from pitwarden.errors import Error

WELCOME = AgentFrame(welcome=Welcome(protocol=1, concurrency=4))


class SessionDriver:
    """Drives a session, with calls by id and a clock that stands at `now_s`. Its methods are the steps of tables."""

    def __init__(self) -> None:
        self.marked: list[int] = []
        self.session = Session(Hello(worker_id="w"), self.marked.append)
        self.calls: dict[int, Call] = {}
        self.now_s = 100.0

    def receive(self, frame: AgentFrame) -> Received:
        received = self.session.receive(frame, self.now_s)
        self.calls.update({call.id: call for call in received.starts})
        return received

    def requests(self, *ids: int, timeout_ms: int = 0, cancels: tuple[int, ...] = ()) -> list[int]:
        requests = [LinkRequest(id=id, command="c", timeout_ms=timeout_ms) for id in ids]
        return [call.id for call in self.receive(AgentFrame(requests=requests, cancels=cancels)).starts]

    def cancels(self, *ids: int) -> list[int]:
        return [call.id for call in self.receive(AgentFrame(cancels=ids)).cancelled]

    def ping(self, sequence: int) -> None:
        self.receive(AgentFrame(ping=Ping(sequence=sequence)))

    def later(self, seconds: float) -> None:
        self.now_s += seconds

    def begin(self, id: int) -> bool:
        return self.session.begin(self.calls[id], self.now_s)

    def chunk(self, id: int, payload: bytes = b"c") -> bool:
        self.session.add_chunk(self.calls[id], payload, "")
        return self.session.has_room

    def report(self, id: int, fraction: float) -> None:
        self.session.report(self.calls[id], fraction, "")

    def finish(self, id: int, payload: bytes = b"r") -> None:
        self.session.finish(self.calls[id], payload, "", self.now_s)

    def fail(self, id: int) -> None:
        self.session.fail(self.calls[id], Error("no"), self.now_s)

    def recall(self) -> bool:
        return self.receive(AgentFrame(recall=Recall())).recalled

    def give_back(self, *ids: int) -> None:
        self.session.return_calls([self.calls[id] for id in ids])

    def leave(self) -> None:
        self.session.leave()

    def marks(self) -> list[int]:
        return self.marked

    def ran_us(self) -> list[int]:
        frame = self.session.next_frame(self.now_s)
        return [] if frame is None else [result.ran_us for result in frame.results]

    def take(self) -> Optional[dict[str, Any]]:
        return frame_fields(self.session.next_frame(self.now_s, loop_lag_ms=7))

    def cancelled(self, id: int) -> bool:
        return self.calls[id].cancelled

    def idle(self) -> bool:
        return self.session.idle


def frame_fields(frame: Optional[WorkerFrame]) -> Optional[dict[str, Any]]:
    """The fields of a frame that are set, as plain data."""
    if frame is None:
        return None
    fields: dict[str, Any] = {}
    if frame.HasField("hello"):
        fields["hello"] = frame.hello.worker_id
    if frame.HasField("pong"):
        pong = frame.pong
        fields["pong"] = (pong.sequence, pong.in_flight, pong.requests_started, pong.requests_finished)
        fields["pong_ms"] = (pong.oldest_request_ms, pong.loop_lag_ms)
    if frame.returned:
        fields["returned"] = list(frame.returned)
    if frame.leaving:
        fields["leaving"] = True
    if frame.replayed:
        fields["replayed"] = list(frame.replayed)
    if frame.chunks:
        fields["chunks"] = [(chunk.id, chunk.payload) for chunk in frame.chunks]
    if frame.results:
        fields["results"] = [(r.id, r.error.code or r.payload) for r in frame.results]
    if frame.progress:
        fields["progress"] = [(progress.id, progress.fraction) for progress in frame.progress]
    return fields


# A method of SessionDriver, its arguments, and what it must return.
Step = tuple[str, tuple[Any, ...], Any]

TABLE: dict[str, list[Step]] = {
    "a cancel of an unknown request changes nothing": [
        ("cancels", (9,), []),
        ("take", (), None),
    ],
    "a cancel that crosses the answer changes nothing": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("finish", (1,), None),
        ("cancels", (1,), []),
        ("take", (), {"results": [(1, b"r")]}),
        ("take", (), None),
    ],
    "a second result is dropped": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("fail", (1,), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, 2)]}),
        ("idle", (), True),
    ],
    "a progress report after the result is dropped": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("finish", (1,), None),
        ("report", (1, 0.5), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "a waiting request that is cancelled is answered at once and does not begin": [
        ("requests", (1,), [1]),
        ("cancels", (1,), []),
        ("take", (), {"results": [(1, 1)]}),
        ("begin", (1,), False),
        ("take", (), None),
        ("idle", (), True),
    ],
    "a running request that is cancelled is answered by its command": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("cancels", (1,), [1]),
        ("cancelled", (1,), True),
        ("idle", (), False),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "the begin of a request sends no frame": [
        ("requests", (1, 2), [1, 2]),
        ("begin", (1,), True),
        ("begin", (2,), True),
        ("take", (), None),
        ("finish", (2,), None),
        ("take", (), {"results": [(2, b"r")]}),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "a pong has the counts and the age of the oldest request": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (1,), True),
        ("later", (0.25,), None),
        ("begin", (2,), True),
        ("ping", (1,), None),
        ("take", (), {"pong": (1, 2, 2, 0), "pong_ms": (250, 7)}),
        ("finish", (1,), None),
        ("later", (0.5,), None),
        ("ping", (2,), None),
        ("take", (), {"pong": (2, 1, 2, 1), "pong_ms": (500, 7), "results": [(1, b"r")]}),
    ],
    "of two pings before a frame the later one is answered": [
        ("ping", (1,), None),
        ("ping", (2,), None),
        ("take", (), {"pong": (2, 0, 0, 0), "pong_ms": (0, 7)}),
        ("take", (), None),
    ],
    "the result of a stream is sent after its chunks": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("chunk", (1, b"a"), True),
        ("chunk", (1, b"b"), True),
        ("finish", (1, b""), None),
        ("take", (), {"chunks": [(1, b"a"), (1, b"b")], "results": [(1, b"")]}),
    ],
    "a pong does not wait for large chunks": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("chunk", (1, bytes(900_000)), True),
        ("chunk", (1, bytes(900_000)), False),
        ("ping", (1,), None),
        ("take", (), {"pong": (1, 1, 1, 0), "pong_ms": (0, 7), "chunks": [(1, bytes(900_000))]}),
        ("take", (), {"chunks": [(1, bytes(900_000))]}),
        ("take", (), None),
    ],
    "a payload that is larger than a frame is sent in one frame": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("finish", (1, bytes(3_000_000)), None),
        ("take", (), {"results": [(1, bytes(3_000_000))]}),
    ],
    "a returned request does not begin and has no result": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (1,), True),
        ("recall", (), True),
        ("give_back", (2, 3), None),
        ("begin", (2,), False),
        ("take", (), {"returned": [2, 3]}),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
        ("idle", (), True),
    ],
    "a request that was cancelled is answered and not returned": [
        ("requests", (1,), [1]),
        ("cancels", (1,), []),
        ("give_back", (1,), None),
        ("take", (), {"results": [(1, 1)]}),
    ],
    "leaving is announced once": [
        ("leave", (), None),
        ("take", (), {"leaving": True}),
        ("take", (), None),
    ],
    "only a request that is newer than the marked one is marked as begun": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (2,), True),
        ("begin", (1,), True),
        ("begin", (3,), True),
        ("marks", (), [2, 3]),
    ],
    "an id that has wrapped is newer than those before": [
        ("requests", (1, 2**31 - 1, 2**32 - 2, 0, 5), [1, 2**31 - 1, 2**32 - 2, 0, 5]),
        ("begin", (2**31 - 1,), True),
        ("begin", (2**32 - 2,), True),
        ("begin", (0,), True),
        ("begin", (5,), True),
        ("marks", (), [2**31 - 1, 2**32 - 2, 0, 5]),
    ],
    "a result has the time that its command ran, or 0 if it never began": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (1,), True),
        ("later", (0.25,), None),
        ("finish", (1,), None),
        ("begin", (2,), True),
        ("finish", (2,), None),
        ("cancels", (3,), []),
        ("ran_us", (), [250_000, 1, 0]),
    ],
    "only the latest progress report is sent": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("report", (1, 0.25), None),
        ("report", (1, 0.5), None),
        ("take", (), {"progress": [(1, 0.5)]}),
    ],
}


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE)
def test_session_without_a_lost_link(steps: list[Step]) -> None:
    driver = SessionDriver()
    assert driver.take() == {"hello": "w"}
    assert driver.receive(WELCOME).concurrency == 4
    for number, (method, arguments, returned) in enumerate(steps):
        assert (number, getattr(driver, method)(*arguments)) == (number, returned)


def test_a_call_whose_deadline_passed_while_it_waited_does_not_begin() -> None:
    driver = SessionDriver()
    driver.take()
    driver.receive(WELCOME)
    driver.requests(1, timeout_ms=100)
    driver.later(0.1)
    assert driver.begin(1) is False
    assert driver.take() == {"results": [(1, 4)]}


def test_a_request_that_is_cancelled_in_its_own_frame_is_not_started() -> None:
    driver = SessionDriver()
    driver.take()
    driver.receive(WELCOME)
    assert driver.requests(1, 2, cancels=(1,)) == [2]
    assert driver.take() == {"results": [(1, 1)]}


def test_a_frame_can_ask_for_a_drain_and_a_stop() -> None:
    driver = SessionDriver()
    assert driver.receive(WELCOME).stop_grace_ms is None
    received = driver.receive(AgentFrame(drain=Drain(), stop=Stop(grace_ms=0)))
    assert (received.draining, received.stop_grace_ms) == (True, 0)


def test_cancel_all_marks_all_calls_and_returns_the_running_ones() -> None:
    driver = SessionDriver()
    driver.receive(WELCOME)
    driver.requests(1, 2)
    driver.begin(2)
    assert [call.id for call in driver.session.cancel_all()] == [2]
    assert (driver.cancelled(1), driver.cancelled(2)) == (True, True)


ILLEGAL = {
    "no welcome": ([], AgentFrame(ping=Ping(sequence=1)), "the agent's first frame must be a welcome"),
    "another protocol": ([], AgentFrame(welcome=Welcome(protocol=2)), "protocol 1, the agent speaks 2"),
    "a second welcome": ([WELCOME], WELCOME, "second welcome"),
    "an id that is in use": (
        [WELCOME, AgentFrame(requests=[LinkRequest(id=1)])],
        AgentFrame(requests=[LinkRequest(id=1)]),
        "request 1 twice",
    ),
}


@pytest.mark.parametrize(("before", "frame", "words"), ILLEGAL.values(), ids=ILLEGAL)
def test_a_frame_that_the_protocol_does_not_allow_raises_protocol_error(
    before: list[AgentFrame], frame: AgentFrame, words: str
) -> None:
    driver = SessionDriver()
    for earlier in before:
        driver.receive(earlier)
    with pytest.raises(ProtocolError, match=words):
        driver.receive(frame)


def test_the_concurrency_of_a_welcome_is_at_least_one() -> None:
    assert SessionDriver().receive(AgentFrame(welcome=Welcome(protocol=1))).concurrency == 1


@pytest.mark.parametrize("seed", range(200))
def test_every_request_gets_one_result_or_is_returned_whatever_the_order_of_events(seed: int) -> None:
    rng = random.Random(seed)
    driver = SessionDriver()
    frames: list[WorkerFrame] = []
    chunks_added: dict[int, int] = {}
    running: set[int] = set()
    driver.receive(WELCOME)
    ids = list(range(1, 31))
    for id in ids:
        driver.requests(id, timeout_ms=rng.choice([0, 0, 50]))
        for _ in range(rng.randrange(8)):
            driver.later(rng.choice([0, 0.01, 0.05]))
            target = rng.randrange(1, id + 1)
            event = rng.choice(
                ["begin", "begin", "chunk", "report", "finish", "fail", "cancel", "ping", "take", "recall"]
            )
            if event == "begin" and driver.calls[target].begun_s is None and driver.begin(target):
                running.add(target)
            elif event == "chunk" and target in running:
                driver.chunk(target, bytes([chunks_added.get(target, 0)]) * rng.choice([1, 300_000]))
                chunks_added[target] = chunks_added.get(target, 0) + 1
            elif event in ("finish", "fail") and driver.calls[target].begun_s is not None:
                getattr(driver, event)(target)
                running.discard(target)
            elif event == "report":
                driver.report(target, rng.random())
            elif event == "cancel":
                driver.cancels(target)
            elif event == "recall":
                driver.give_back(*(each for each in driver.calls if driver.calls[each].begun_s is None))
            elif event == "ping":
                driver.ping(id)
            elif event == "take":
                frames.extend(filter(None, [driver.session.next_frame(driver.now_s)]))
    for id in ids:
        if driver.calls[id].begun_s is not None or driver.begin(id):
            driver.finish(id)
    while not driver.session.empty:
        frames.extend(filter(None, [driver.session.next_frame(driver.now_s)]))

    assert driver.session.idle
    assert driver.session.has_room
    results = [result.id for frame in frames for result in frame.results]
    returned = [id for frame in frames for id in frame.returned]
    assert sorted(results + returned) == ids
    for number, frame in enumerate(frames):
        answered_before = {result.id for earlier in frames[:number] for result in earlier.results}
        fields = {chunk.id for chunk in frame.chunks} | {report.id for report in frame.progress}
        assert not fields & answered_before
        size = sum(len(part.payload) for part in [*frame.chunks, *frame.results])
        assert size <= _send_queue.FRAME_MAX_BYTES or len(frame.chunks) + len(frame.results) == 1
    for id, count in chunks_added.items():
        sent = [chunk.payload[0] for frame in frames for chunk in frame.chunks if chunk.id == id]
        assert sent == list(range(count))


def test_a_call_can_be_paused_in_its_own_frame_and_resumed_later() -> None:
    driver = SessionDriver()
    driver.receive(WELCOME)
    # The frame also pauses a request that does not exist.
    request = LinkRequest(id=1, command="c")
    call = driver.receive(AgentFrame(requests=[request], pauses=[1, 9])).starts[0]
    assert call.paused
    received = driver.receive(AgentFrame(resumes=[1, 9]))
    assert received.resumed == [call]
    assert not call.paused
