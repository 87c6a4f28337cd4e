"""The session as tables: what comes in, what is done, and the frame that then goes out."""

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


class Bench:
    """A session with its calls by id, and words for a table's steps. The clock stands at `now_s`."""

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
        return told(self.session.next_frame(self.now_s, loop_lag_ms=7))

    def cancelled(self, id: int) -> bool:
        return self.calls[id].cancelled

    def idle(self) -> bool:
        return self.session.idle


def told(frame: Optional[WorkerFrame]) -> Optional[dict[str, Any]]:
    """A frame's fields that are set, as plain data."""
    if frame is None:
        return None
    said: dict[str, Any] = {}
    if frame.HasField("hello"):
        said["hello"] = frame.hello.worker_id
    if frame.HasField("pong"):
        pong = frame.pong
        said["pong"] = (pong.sequence, pong.in_flight, pong.requests_started, pong.requests_finished)
        said["pong_ms"] = (pong.oldest_request_ms, pong.loop_lag_ms)
    if frame.returned:
        said["returned"] = list(frame.returned)
    if frame.leaving:
        said["leaving"] = True
    if frame.replayed:
        said["replayed"] = list(frame.replayed)
    if frame.chunks:
        said["chunks"] = [(chunk.id, chunk.payload) for chunk in frame.chunks]
    if frame.results:
        said["results"] = [(r.id, r.error.code or r.payload) for r in frame.results]
    if frame.progress:
        said["progress"] = [(progress.id, progress.fraction) for progress in frame.progress]
    return said


# A step is a word of Bench, its arguments, and what it returns.
Step = tuple[str, tuple[Any, ...], Any]

TABLE: dict[str, list[Step]] = {
    "a cancel for a request that never was changes nothing": [
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
    "a second answer is dropped": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("fail", (1,), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, 2)]}),
        ("idle", (), True),
    ],
    "a report after the answer is dropped": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("finish", (1,), None),
        ("report", (1, 0.5), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "a waiting request that is cancelled is answered at once and not begun": [
        ("requests", (1,), [1]),
        ("cancels", (1,), []),
        ("take", (), {"results": [(1, 1)]}),
        ("begin", (1,), False),
        ("take", (), None),
        ("idle", (), True),
    ],
    "a running request that is cancelled has the last word": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("cancels", (1,), [1]),
        ("cancelled", (1,), True),
        ("idle", (), False),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "that a request began is worth no frame of its own": [
        ("requests", (1, 2), [1, 2]),
        ("begin", (1,), True),
        ("begin", (2,), True),
        ("take", (), None),
        ("finish", (2,), None),
        ("take", (), {"results": [(2, b"r")]}),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "a pong counts": [
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
    "a ping that comes twice before its turn is answered once, the later one": [
        ("ping", (1,), None),
        ("ping", (2,), None),
        ("take", (), {"pong": (2, 0, 0, 0), "pong_ms": (0, 7)}),
        ("take", (), None),
    ],
    "a stream's result comes after its chunks": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("chunk", (1, b"a"), True),
        ("chunk", (1, b"b"), True),
        ("finish", (1, b""), None),
        ("take", (), {"chunks": [(1, b"a"), (1, b"b")], "results": [(1, b"")]}),
    ],
    "a pong is not held back by what is large": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("chunk", (1, bytes(900_000)), True),
        ("chunk", (1, bytes(900_000)), False),
        ("ping", (1,), None),
        ("take", (), {"pong": (1, 1, 1, 0), "pong_ms": (0, 7), "chunks": [(1, bytes(900_000))]}),
        ("take", (), {"chunks": [(1, bytes(900_000))]}),
        ("take", (), None),
    ],
    "one payload larger than a frame goes whole": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("finish", (1, bytes(3_000_000)), None),
        ("take", (), {"results": [(1, bytes(3_000_000))]}),
    ],
    "what is given back is not begun and not answered": [
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
    "what was cancelled is answered, and not given back too": [
        ("requests", (1,), [1]),
        ("cancels", (1,), []),
        ("give_back", (1,), None),
        ("take", (), {"results": [(1, 1)]}),
    ],
    "that it leaves is said once": [
        ("leave", (), None),
        ("take", (), {"leaving": True}),
        ("take", (), None),
    ],
    "the newest that began is marked": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (2,), True),
        ("begin", (1,), True),
        ("begin", (3,), True),
        ("marks", (), [2, 3]),
    ],
    "ids that wrap are newer": [
        ("requests", (1, 2**31 - 1, 2**32 - 2, 0, 5), [1, 2**31 - 1, 2**32 - 2, 0, 5]),
        ("begin", (2**31 - 1,), True),
        ("begin", (2**32 - 2,), True),
        ("begin", (0,), True),
        ("begin", (5,), True),
        ("marks", (), [2**31 - 1, 2**32 - 2, 0, 5]),
    ],
    "a result says how long its command ran, and 0 when it never began": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("begin", (1,), True),
        ("later", (0.25,), None),
        ("finish", (1,), None),
        ("begin", (2,), True),
        ("finish", (2,), None),
        ("cancels", (3,), []),
        ("ran_us", (), [250_000, 1, 0]),
    ],
    "only the latest report is told": [
        ("requests", (1,), [1]),
        ("begin", (1,), True),
        ("report", (1, 0.25), None),
        ("report", (1, 0.5), None),
        ("take", (), {"progress": [(1, 0.5)]}),
    ],
}


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE)
def test_table(steps: list[Step]) -> None:
    bench = Bench()
    assert bench.take() == {"hello": "w"}
    assert bench.receive(WELCOME).concurrency == 4
    for number, (word, arguments, returned) in enumerate(steps):
        assert (number, getattr(bench, word)(*arguments)) == (number, returned)


def test_deadline_passes_while_waiting() -> None:
    bench = Bench()
    bench.take()
    bench.receive(WELCOME)
    bench.requests(1, timeout_ms=100)
    bench.later(0.1)
    assert bench.begin(1) is False
    assert bench.take() == {"results": [(1, 4)]}


def test_request_and_cancel_in_one_frame() -> None:
    bench = Bench()
    bench.take()
    bench.receive(WELCOME)
    assert bench.requests(1, 2, cancels=(1,)) == [2]
    assert bench.take() == {"results": [(1, 1)]}


def test_drain_and_stop() -> None:
    bench = Bench()
    assert bench.receive(WELCOME).stop_grace_ms is None
    received = bench.receive(AgentFrame(drain=Drain(), stop=Stop(grace_ms=0)))
    assert (received.draining, received.stop_grace_ms) == (True, 0)


def test_cancel_all_marks_what_waits_and_returns_what_runs() -> None:
    bench = Bench()
    bench.receive(WELCOME)
    bench.requests(1, 2)
    bench.begin(2)
    assert [call.id for call in bench.session.cancel_all()] == [2]
    assert (bench.cancelled(1), bench.cancelled(2)) == (True, True)


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
def test_protocol_errors(before: list[AgentFrame], frame: AgentFrame, words: str) -> None:
    bench = Bench()
    for earlier in before:
        bench.receive(earlier)
    with pytest.raises(ProtocolError, match=words):
        bench.receive(frame)


def test_concurrency_is_at_least_one() -> None:
    assert Bench().receive(AgentFrame(welcome=Welcome(protocol=1))).concurrency == 1


@pytest.mark.parametrize("seed", range(200))
def test_every_request_gets_one_result_or_is_given_back_in_whatever_order_things_happen(seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench()
    frames: list[WorkerFrame] = []
    chunks_added: dict[int, int] = {}
    running: set[int] = set()
    bench.receive(WELCOME)
    ids = list(range(1, 31))
    for id in ids:
        bench.requests(id, timeout_ms=dice.choice([0, 0, 50]))
        for _ in range(dice.randrange(8)):
            bench.later(dice.choice([0, 0.01, 0.05]))
            target = dice.randrange(1, id + 1)
            deed = dice.choice(
                ["begin", "begin", "chunk", "report", "finish", "fail", "cancel", "ping", "take", "recall"]
            )
            if deed == "begin" and bench.calls[target].begun_s is None and bench.begin(target):
                running.add(target)
            elif deed == "chunk" and target in running:
                bench.chunk(target, bytes([chunks_added.get(target, 0)]) * dice.choice([1, 300_000]))
                chunks_added[target] = chunks_added.get(target, 0) + 1
            elif deed in ("finish", "fail") and bench.calls[target].begun_s is not None:
                getattr(bench, deed)(target)
                running.discard(target)
            elif deed == "report":
                bench.report(target, dice.random())
            elif deed == "cancel":
                bench.cancels(target)
            elif deed == "recall":
                bench.give_back(*(each for each in bench.calls if bench.calls[each].begun_s is None))
            elif deed == "ping":
                bench.ping(id)
            elif deed == "take":
                frames.extend(filter(None, [bench.session.next_frame(bench.now_s)]))
    for id in ids:
        if bench.calls[id].begun_s is not None or bench.begin(id):
            bench.finish(id)
    while not bench.session.empty:
        frames.extend(filter(None, [bench.session.next_frame(bench.now_s)]))

    assert bench.session.idle
    assert bench.session.has_room
    results = [result.id for frame in frames for result in frame.results]
    returned = [id for frame in frames for id in frame.returned]
    assert sorted(results + returned) == ids
    for number, frame in enumerate(frames):
        answered_before = {result.id for earlier in frames[:number] for result in earlier.results}
        said = {chunk.id for chunk in frame.chunks} | {report.id for report in frame.progress}
        assert not said & answered_before
        size = sum(len(part.payload) for part in [*frame.chunks, *frame.results])
        assert size <= _send_queue.FRAME_MAX_BYTES or len(frame.chunks) + len(frame.results) == 1
    for id, count in chunks_added.items():
        sent = [chunk.payload[0] for frame in frames for chunk in frame.chunks if chunk.id == id]
        assert sent == list(range(count))


def test_a_stream_is_paused_and_resumed() -> None:
    bench = Bench()
    bench.receive(WELCOME)
    # A pause may come in the frame that brings the request.
    request = LinkRequest(id=1, command="c")
    call = bench.receive(AgentFrame(requests=[request], pauses=[1, 9])).starts[0]
    assert call.paused
    received = bench.receive(AgentFrame(resumes=[1, 9]))
    assert received.resumed == [call]
    assert not call.paused
