"""The worker's side of the link, without I/O: frames in, calls to run; their answers in, frames out.

A call is waiting until `begin`, running until `finish` or `fail`, and gone after. What ends it first counts: a cancel
or a passed deadline answers a waiting call at once, and only marks a running one, whose command has the last word. So
every request gets exactly one result, or is given back.

It starts no thread, reads no clock (the time is an argument, in seconds of one monotonic clock), and takes no lock:
_line.py holds one around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Callable, NamedTuple, Optional, Union

from ._pb.link_pb2 import (
    AgentFrame,
    Hello,
    LinkError,
    LinkRequest,
    Pong,
    Progress,
    WorkerFrame,
)
from .context import Request
from .errors import Code, Error

PROTOCOL = 1

# A ping waits for at most one frame that is being sent, so a frame is kept short; one large result still goes whole.
FRAME_MAX_BYTES = 1024 * 1024

# What chunks may wait for the agent before their producers do: enough to keep the line busy, too little to hurt.
CHUNKS_MAX_BYTES = 1024 * 1024
CHUNKS_MAX = 256

# Around a payload: field numbers, lengths, id and content type.
_OVERHEAD_BYTES = 48


class ProtocolError(Exception):
    """The agent sent what the protocol does not allow: the session is of no more use."""


class Chunk(NamedTuple):
    id: int
    payload: bytes
    content_type: str


class Result(NamedTuple):
    id: int
    payload: bytes
    content_type: str
    error: Optional[LinkError]
    ran_us: int


class Call(Request):
    """One request on this link."""

    __slots__ = ("begun_s", "command", "content_type", "id", "paused", "payload")

    def __init__(self, request: LinkRequest, now_s: float) -> None:
        deadline_s = now_s + request.timeout_ms / 1000 if request.timeout_ms else None
        super().__init__(request.request_id, request.session_id, deadline_s)
        self.id = request.id
        self.command = request.command
        self.payload = request.payload
        self.content_type = request.content_type
        self.begun_s: Optional[float] = None
        # The caller does not keep up with its chunks.
        self.paused = False


class Received:
    """What one frame asks for."""

    __slots__ = ("cancelled", "concurrency", "draining", "recalled", "resumed", "starts", "stop_grace_ms")

    def __init__(self) -> None:
        self.concurrency: Optional[int] = None
        self.starts: list[Call] = []
        # Running calls alone: a waiting one that was cancelled is answered already.
        self.cancelled: list[Call] = []
        # Their chunks are wanted again.
        self.resumed: list[Call] = []
        self.draining = False
        # What waits is to be given back.
        self.recalled = False
        self.stop_grace_ms: Optional[int] = None


class Session:
    def __init__(self, hello: Hello, mark_begun: Optional[Callable[[int], object]] = None) -> None:
        """``mark_begun`` is told the id of each request before it begins, unless a later one began before."""
        self._hello: Optional[Hello] = hello
        self._mark_begun = mark_begun
        self._begun_through = 0
        self._welcomed = False
        self._calls: dict[int, Call] = {}
        self._running: dict[int, Call] = {}
        self._started = 0
        self._finished = 0
        self._ping: Optional[int] = None
        self._returned: list[int] = []
        self._leaving = False
        self._progress: dict[int, Progress] = {}
        # Chunks and results in order, for a stream's result must not overtake its chunks.
        self._answers: deque[Union[Chunk, Result]] = deque()
        self._chunks = 0
        self._chunk_bytes = 0

    @property
    def idle(self) -> bool:
        """No request is waiting or running."""
        return not self._calls

    @property
    def empty(self) -> bool:
        """Nothing waits to be said."""
        return not (self._answers or self._ping or self._progress or self._hello or self._returned or self._leaving)

    @property
    def has_room(self) -> bool:
        """A chunk may be added; without room its producer should wait, as it should while its call is paused."""
        return self._chunks < CHUNKS_MAX and self._chunk_bytes < CHUNKS_MAX_BYTES

    def receive(self, frame: AgentFrame, now_s: float) -> Received:
        received = Received()
        if not self._welcomed:
            received.concurrency = self._welcome(frame)
        elif frame.HasField("welcome"):
            raise ProtocolError("the agent sent a second welcome, expected one")
        if frame.HasField("ping"):
            self._ping = frame.ping.sequence
        for request in frame.requests:
            if request.id in self._calls:
                raise ProtocolError(f"the agent sent request {request.id} twice, expected ids unique on the link")
            call = self._calls[request.id] = Call(request, now_s)
            received.starts.append(call)
        for id in frame.cancels:
            self._cancel(id, received, now_s)
        for id in frame.pauses:
            if id in self._calls:
                self._calls[id].paused = True
        for id in frame.resumes:
            if id in self._calls:
                self._calls[id].paused = False
                received.resumed.append(self._calls[id])
        received.recalled = frame.HasField("recall")
        received.draining = frame.HasField("drain")
        if frame.HasField("stop"):
            received.stop_grace_ms = frame.stop.grace_ms
        return received

    def begin(self, call: Call, now_s: float) -> bool:
        """True: run it. False: it was answered without running."""
        if call.id not in self._calls:
            return False
        if call.deadline_s is not None and now_s >= call.deadline_s:
            self.fail(call, Error("the deadline passed before the command began", code=Code.DEADLINE_EXCEEDED), now_s)
            return False
        # Ids wrap at 2^32: the later one is less than half the way round ahead.
        if (call.id - self._begun_through) & 0xFFFFFFFF < 0x80000000:
            self._begun_through = call.id
            if self._mark_begun is not None:
                self._mark_begun(call.id)
        call.begun_s = now_s
        self._running[call.id] = call
        self._started += 1
        return True

    def leave(self) -> None:
        """Says that no call will begin any more."""
        self._leaving = True

    def give_back(self, calls: Iterable[Call]) -> None:
        """Calls that will never begin here, so that the agent can send them elsewhere."""
        for call in calls:
            if self._calls.pop(call.id, None) is not None:
                self._returned.append(call.id)

    def add_chunk(self, call: Call, payload: bytes, content_type: str) -> None:
        self._answers.append(Chunk(call.id, payload, content_type))
        self._chunks += 1
        self._chunk_bytes += len(payload)

    def report(self, call: Call, fraction: float, message: str) -> None:
        # Only the latest report matters, so a busy reporter cannot fill the line.
        if call.id in self._running:
            self._progress[call.id] = Progress(id=call.id, fraction=fraction, message=message)

    def finish(self, call: Call, payload: bytes, content_type: str, now_s: float) -> None:
        self._answer(call, payload, content_type, None, now_s)

    def fail(self, call: Call, error: Error, now_s: float) -> None:
        told = LinkError(code=error.code, type=error.type, message=error.message, traceback=error.traceback)
        self._answer(call, b"", "", told, now_s)

    def cancel_all(self) -> list[Call]:
        """Marks every running call, for nobody will read its result; the calls are returned."""
        for call in self._calls.values():
            call.cancelled = True
        return list(self._running.values())

    def take(self, now_s: float, loop_lag_ms: int = 0) -> Optional[WorkerFrame]:
        """The next frame to send, None when there is nothing to say. Pongs come first and are never held back."""
        if self.empty:
            return None
        frame = WorkerFrame()
        if self._hello is not None:
            frame.hello.CopyFrom(self._hello)
            self._hello = None
        if self._ping is not None:
            frame.pong.CopyFrom(self._pong(self._ping, now_s, loop_lag_ms))
            self._ping = None
        if self._leaving:
            frame.leaving = True
            self._leaving = False
        if self._returned:
            frame.returned.extend(self._returned)
            self._returned.clear()
        if self._progress:
            frame.progress.extend(self._progress.values())
            self._progress.clear()
        self._take_answers(frame)
        return frame

    def _take_answers(self, frame: WorkerFrame) -> None:
        answers, size = self._answers, 0
        while answers:
            answer = answers[0]
            size += len(answer.payload) + _OVERHEAD_BYTES
            if size > FRAME_MAX_BYTES and (frame.chunks or frame.results):
                return
            answers.popleft()
            if isinstance(answer, Result):
                id, payload, content_type, error, ran_us = answer
                if error is None:
                    frame.results.add(id=id, payload=payload, content_type=content_type, ran_us=ran_us)
                else:
                    size += len(error.traceback)
                    frame.results.add(id=id, error=error, ran_us=ran_us)
            else:
                id, payload, content_type = answer
                self._chunks -= 1
                self._chunk_bytes -= len(payload)
                frame.chunks.add(id=id, payload=payload, content_type=content_type)

    def _welcome(self, frame: AgentFrame) -> int:
        if not frame.HasField("welcome"):
            raise ProtocolError("the agent's first frame must be a welcome")
        if frame.welcome.protocol != PROTOCOL:
            raise ProtocolError(
                f"this SDK speaks link protocol {PROTOCOL}, the agent speaks {frame.welcome.protocol}: "
                "upgrade the older of the two"
            )
        self._welcomed = True
        return max(1, frame.welcome.concurrency)

    def _cancel(self, id: int, received: Received, now_s: float) -> None:
        call = self._calls.get(id)
        if call is None:
            # Its answer and the cancel crossed on the line.
            return
        call.cancelled = True
        if call.begun_s is not None:
            received.cancelled.append(call)
            return
        self.fail(call, Error("the request was cancelled before the command began", code=Code.CANCELLED), now_s)
        if call in received.starts:
            received.starts.remove(call)

    def _answer(self, call: Call, payload: bytes, content_type: str, error: Optional[LinkError], now_s: float) -> None:
        if self._calls.pop(call.id, None) is None:
            return
        ran_us = 0
        if self._running.pop(call.id, None) is not None and call.begun_s is not None:
            self._finished += 1
            # 0 would mean that it never began.
            ran_us = max(1, int((now_s - call.begun_s) * 1_000_000))
            if self._progress:
                self._progress.pop(call.id, None)
        self._answers.append(Result(call.id, payload, content_type, error, ran_us))

    def _pong(self, sequence: int, now_s: float, loop_lag_ms: int) -> Pong:
        # Calls begin in the order of the dictionary, so its first is the oldest.
        oldest = next(iter(self._running.values()), None)
        return Pong(
            sequence=sequence,
            in_flight=len(self._running),
            requests_started=self._started,
            requests_finished=self._finished,
            oldest_request_ms=0 if oldest is None or oldest.begun_s is None else int((now_s - oldest.begun_s) * 1000),
            loop_lag_ms=loop_lag_ms,
        )
