"""The worker's side of the link, without I/O: frames in, calls to run; their answers in, frames out.

A call is waiting until `begin`, running until `finish` or `fail`, and gone after. What ends it first counts: a cancel
or a passed deadline answers a waiting call at once, and only marks a running one, whose command has the last word. So
every request gets exactly one result, or is given back.

Lines come and go: attached until `detach`, away until `resume_hello`, greeting until the agent's welcome. A call that
was there before the line is *left over*: what it says goes nowhere, or where it is kept into the store alone, until the
agent asks for it from its beginning (a replay); only its end is told, so that the agent knows its place to be free.

It starts no thread, reads no clock (the time is an argument, in seconds of one monotonic clock), and takes no lock:
_line.py holds one around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from ._call import Call, Chunk, Part, Result
from ._kept import Answer, Kept, held
from ._pb.link_pb2 import AgentFrame, Hello, Limits, LinkError, Pong, Progress, Resumed, Welcome, WorkerFrame
from .errors import Code, Error, bounded

PROTOCOL = 1

# A ping waits for at most one frame that is being sent, so a frame is kept short; one large result still goes whole.
FRAME_MAX_BYTES = 1024 * 1024

# What chunks may wait for the agent before their producers do: enough to keep the line busy, too little to hurt.
CHUNKS_MAX_BYTES = 1024 * 1024
CHUNKS_MAX = 256

# Around a payload: field numbers, lengths, id and content type.
_OVERHEAD_BYTES = 48

# Ids wrap at 2^32: the later of two is less than half the way round ahead.
IDS_MASK = 0xFFFFFFFF
HALF_WAY = 0x80000000

# Of texts that an application gives: why it leaves, and how far a request is.
PROGRESS_MAX_BYTES = 1024
REASON_MAX_BYTES = 1024

# The request_id of a warm-up begins so; its id is IDS_MASK.
WARM_UP = "warm-up-"


class ProtocolError(Exception):
    """The agent sent what the protocol does not allow: the session is of no more use."""


class Received:
    """What one frame asks for."""

    __slots__ = (
        "cancelled",
        "concurrency",
        "draining",
        "limits",
        "made_room",
        "recalled",
        "resumed",
        "starts",
        "stop_grace_ms",
        "welcome",
    )

    def __init__(self) -> None:
        self.welcome: Optional[Welcome] = None
        # They hold from now on, in place of the welcome's.
        self.limits: Optional[Limits] = None
        # With the first welcome alone.
        self.concurrency: Optional[int] = None
        self.starts: list[Call] = []
        # Running calls alone: a waiting one that was cancelled is answered already.
        self.cancelled: list[Call] = []
        # Their chunks are wanted again.
        self.resumed: list[Call] = []
        # Producers that wait for room may look again.
        self.made_room = False
        self.draining = False
        # What waits is to be given back.
        self.recalled = False
        self.stop_grace_ms: Optional[int] = None


class Session:
    def __init__(
        self,
        hello: Hello,
        mark_begun: Optional[Callable[[int], object]] = None,
        next_token: Callable[[], str] = str,
    ) -> None:
        """``mark_begun`` is told the id of each request before it begins, unless a later one began before.
        ``next_token`` makes the token of one hello."""
        self._greeting = hello
        self._hello: Optional[Hello] = hello
        self._mark_begun = mark_begun
        self._next_token = next_token
        self._begun_through = 0
        self._last_id = 0
        # There is a line, and its agent said welcome. Neither: away.
        self._on_line = True
        self._welcomed = False
        # None: no line was lost yet on which the agent had said welcome.
        self._lost_s: Optional[float] = None
        self._calls: dict[int, Call] = {}
        self._running: dict[int, Call] = {}
        self._left_over: set[int] = set()
        self._kept = Kept()
        self._replayed: list[int] = []
        # Those of which there is more to say again than waits to be sent.
        self._replaying: dict[int, Answer] = {}
        self._started = 0
        self._finished = 0
        self._completed = 0
        self._failed = 0
        self._ping: Optional[int] = None
        self._returned: list[int] = []
        self._left = False
        self._leaving = False
        self._leaving_reason = ""
        self._progress: dict[int, Progress] = {}
        # Chunks and results in order, for a stream's result must not overtake its chunks.
        self._answers: deque[Part] = deque()
        self._chunks = 0
        self._chunk_bytes = 0
        # Largest payload that the agent takes; 0: it names none.
        self.payload_max_bytes = 0

    @property
    def idle(self) -> bool:
        """No request is waiting or running."""
        return not self._calls

    @property
    def empty(self) -> bool:
        """Nothing waits to be said; before the agent's welcome, nothing but the hello can be."""
        if not self._welcomed:
            return self._hello is None
        return not (
            self._answers
            or self._ping
            or self._progress
            or self._returned
            or self._leaving
            or self._replaying
            or self._replayed
        )

    @property
    def has_room(self) -> bool:
        """Chunks may be added to what waits to be sent."""
        return self._chunks < CHUNKS_MAX and self._chunk_bytes < CHUNKS_MAX_BYTES

    def has_room_for(self, call: Call, payload_bytes: int) -> bool:
        """A chunk may be added; without room its producer should wait, as it should while its call is paused."""
        if self._left_over or self._kept.answers:
            answer = self._kept.answers.get(call.id)
            if call.id in self._left_over or (answer is not None and answer.cursor is not None):
                return answer is None or bool(answer.lost) or self._kept.has_room_for(payload_bytes)
        return self.has_room

    def is_heard(self, call: Call) -> bool:
        """False: its chunks go nowhere, or into the store alone, so nothing slows down who makes them."""
        return call.id not in self._left_over

    def receive(self, frame: AgentFrame, now_s: float) -> Received:
        received = Received()
        if not self._welcomed:
            self._welcome(frame, received, now_s)
        elif frame.HasField("welcome"):
            raise ProtocolError("the agent sent a second welcome, expected one")
        if frame.HasField("limits"):
            self._kept.bound(frame.limits, now_s)
            received.limits = frame.limits
            received.made_room = True
        if frame.HasField("ping"):
            self._ping = frame.ping.sequence
        if self._kept.answers:
            self._acknowledge(frame.acks, received, now_s)
        for request in frame.requests:
            if request.id in self._calls:
                raise ProtocolError(f"the agent sent request {request.id} twice, expected ids unique on the link")
            call = self._calls[request.id] = Call(request, now_s)
            received.starts.append(call)
            if (call.id - self._last_id) & IDS_MASK < HALF_WAY:
                self._last_id = call.id
            if request.keep:
                self._kept.open(call)
        # A caller may have come back before the request itself was written.
        if frame.replays:
            self._replay(frame.replays, received, now_s)
        for id in frame.cancels:
            self._cancel(id, received, now_s)
        for id in frame.pauses:
            self._pause(id)
        for id in frame.resumes:
            self._resume(id, received)
        received.recalled = frame.HasField("recall")
        received.draining = frame.HasField("drain")
        if frame.HasField("stop"):
            received.stop_grace_ms = frame.stop.grace_ms
        return received

    def detach(self, now_s: float) -> None:
        """The line is gone. What runs goes on, and so does what waits and is kept; all else is as if it never came."""
        if self._welcomed:
            self._lost_s = now_s
        self._welcomed = self._on_line = False
        self._hello = self._ping = None
        self._replayed.clear()
        self._replaying.clear()
        self._progress.clear()
        self._answers.clear()
        self._chunks = self._chunk_bytes = 0
        for answer in self._kept.answers.values():
            answer.cursor, answer.paused = None, False
        for call in list(self._calls.values()):
            call.paused = False
            if call.begun_s is None and call.id not in self._kept.answers:
                del self._calls[call.id]
        self._left_over = set(self._calls)

    def resume_hello(self, now_s: float) -> None:
        """There is a line again: the next frame is a hello, which says what is held once an agent had said welcome.

        Raises SecretError when no token is left."""
        token = self._next_token()
        self._on_line = True
        # Not held, so the new line knows nothing of them.
        self._returned.clear()
        self._leaving = self._left
        self._hello = Hello()
        self._hello.CopyFrom(self._greeting)
        self._hello.token = token
        if self._lost_s is not None:
            self._kept.expire(now_s)
            self._hello.resumed.CopyFrom(self._resumed(now_s, self._lost_s))

    def begin(self, call: Call, now_s: float) -> bool:
        """True: run it. False: it was answered without running."""
        if call.id not in self._calls:
            return False
        if call.deadline_s is not None and now_s >= call.deadline_s:
            self.fail(call, Error("the deadline passed before the command began", code=Code.DEADLINE_EXCEEDED), now_s)
            return False
        if (call.id - self._begun_through) & IDS_MASK < HALF_WAY:
            self._begun_through = call.id
            if self._mark_begun is not None:
                self._mark_begun(call.id)
        call.begun_s = now_s
        self._running[call.id] = call
        self._started += 1
        return True

    def leave(self, reason: str = "") -> None:
        """Says that no call will begin any more; on later lines too. ``reason``: why the application asked for that."""
        self._left = self._leaving = True
        self._leaving_reason = self._leaving_reason or bounded(reason, REASON_MAX_BYTES)

    def give_back(self, calls: Iterable[Call]) -> None:
        """Calls that will never begin here, so that the agent can send them elsewhere."""
        for call in calls:
            if self._calls.pop(call.id, None) is not None:
                self._returned.append(call.id)
                self._drop(call.id)

    def add_chunk(self, call: Call, payload: bytes, content_type: str) -> None:
        chunk = Chunk(call.id, payload, content_type)
        answer = self._kept.answers.get(call.id) if self._kept.answers else None
        if answer is not None:
            self._kept.add(answer, chunk)
            if answer.cursor is not None:
                # Its turn comes after those before it.
                return
        if call.id not in self._left_over:
            self._say(chunk)

    def report(self, call: Call, fraction: float, message: str) -> None:
        # Only the latest report matters, so a busy reporter cannot fill the line.
        if call.id in self._running:
            told = bounded(message, PROGRESS_MAX_BYTES)
            self._progress[call.id] = Progress(id=call.id, fraction=fraction, message=told)

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
            return frame
        if self._replayed:
            frame.replayed.extend(self._replayed)
            self._replayed.clear()
        if self._replaying:
            self._say_again()
        if self._ping is not None:
            frame.pong.CopyFrom(self._pong(self._ping, now_s, loop_lag_ms))
            self._ping = None
        if self._leaving:
            frame.leaving = True
            frame.leaving_reason = self._leaving_reason
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

    def _say_again(self) -> None:
        """Puts what is asked for again where it waits to be sent, as far as there is room."""
        while self._replaying and self.has_room:
            id, answer = next(iter(self._replaying.items()))
            if answer.cursor is None or answer.cursor >= len(answer.parts):
                # From here on it is said as it is made.
                answer.cursor = None
                del self._replaying[id]
                continue
            part = answer.parts[answer.cursor]
            answer.cursor += 1
            self._say(part)

    def _say(self, part: Part) -> None:
        self._answers.append(part)
        if isinstance(part, Chunk):
            self._chunks += 1
            self._chunk_bytes += len(part.payload)

    def _unsay(self, ids: set[int]) -> None:
        said, self._answers = self._answers, deque()
        self._chunks = self._chunk_bytes = 0
        for part in said:
            if part.id not in ids:
                self._say(part)

    def _welcome(self, frame: AgentFrame, received: Received, now_s: float) -> None:
        if not frame.HasField("welcome"):
            raise ProtocolError("the agent's first frame must be a welcome")
        welcome = frame.welcome
        if welcome.protocol != PROTOCOL:
            raise ProtocolError(
                f"this SDK speaks link protocol {PROTOCOL}, the agent speaks {welcome.protocol}: "
                "upgrade the older of the two"
            )
        self._welcomed = True
        self._kept.bound(welcome, now_s)
        self.payload_max_bytes = welcome.payload_max_bytes
        received.welcome = welcome
        received.made_room = True
        if self._lost_s is None:
            received.concurrency = max(1, welcome.concurrency)

    def _acknowledge(self, ids: Sequence[int], received: Received, now_s: float) -> None:
        self._kept.expire(now_s)
        for id in ids:
            self._drop(id)
        if ids:
            received.made_room = True

    def _drop(self, id: int) -> None:
        self._kept.drop(id)
        if self._replaying:
            self._replaying.pop(id, None)

    def _replay(self, ids: Iterable[int], received: Received, now_s: float) -> None:
        received.made_room = True
        self._unsay(set(ids))
        for id in ids:
            self._replayed.append(id)
            answer = self._kept.answers.get(id)
            if answer is None:
                self._answer_unknown(id, received, now_s)
                continue
            self._left_over.discard(id)
            answer.cursor = 0
            self._catch_up(answer)
            if answer.lost and answer.ended_s is None:
                # Nobody can have all of it any more. That it was given up is its last word.
                self._mark_cancelled(answer.call, received)

    def _answer_unknown(self, id: int, received: Received, now_s: float) -> None:
        unknown, call = self._kept.unknown(id), self._calls.get(id)
        if call is None:
            self._answers.append(unknown)
        else:
            self._mark_cancelled(call, received)
            self._answer(call, unknown.payload, unknown.content_type, unknown.error, now_s)

    def _mark_cancelled(self, call: Call, received: Received) -> None:
        call.cancelled = True
        if call.begun_s is not None:
            received.cancelled.append(call)

    def _pause(self, id: int) -> None:
        call, answer = self._calls.get(id), self._kept.answers.get(id)
        if call is not None:
            call.paused = True
        if answer is not None:
            answer.paused = True
            self._replaying.pop(id, None)

    def _resume(self, id: int, received: Received) -> None:
        call, answer = self._calls.get(id), self._kept.answers.get(id)
        if call is not None:
            call.paused = False
            received.resumed.append(call)
        if answer is not None:
            answer.paused = False
            self._catch_up(answer)

    def _catch_up(self, answer: Answer) -> None:
        """It goes on being said again, unless it has not been asked for or waits for its end."""
        if answer.cursor is not None and not answer.paused and (answer.ended_s is not None or not answer.lost):
            self._replaying[answer.call.id] = answer

    def _cancel(self, id: int, received: Received, now_s: float) -> None:
        call = self._calls.get(id)
        if call is None:
            # Its answer and the cancel crossed on the line.
            return
        self._mark_cancelled(call, received)
        if call.begun_s is not None:
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
        # What it runs before it is ready is no request of anybody's.
        counted = 0 if call.id == IDS_MASK and call.request_id.startswith(WARM_UP) else 1
        if error is None:
            self._completed += counted
        else:
            self._failed += counted
        result = Result(call.id, payload, content_type, error, ran_us)
        # While away every call is left over.
        if self._left_over or self._kept.answers:
            self._keep_result(result, now_s)
        else:
            self._answers.append(result)

    def _keep_result(self, result: Result, now_s: float) -> None:
        self._left_over.discard(result.id)
        answer = self._kept.answers.get(result.id)
        if answer is not None:
            self._kept.end(answer, result, now_s)
        if not self._welcomed:
            # No frame comes that would.
            self._kept.expire(now_s)
        if answer is not None and answer.cursor is not None:
            self._catch_up(answer)
        elif self._on_line:
            self._answers.append(result)

    def _resumed(self, now_s: float, lost_s: float) -> Resumed:
        answers = self._kept.answers
        calls = {id: answer.call for id, answer in answers.items()}
        calls.update(self._calls)
        oldest_first = sorted(calls.values(), key=lambda call: (call.id - self._last_id - 1) & IDS_MASK)
        return Resumed(
            last_id=self._last_id,
            completed=self._completed,
            failed=self._failed,
            held=[held(call, answers.get(call.id), now_s) for call in oldest_first],
            away_ms=int((now_s - lost_s) * 1000),
        )

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
