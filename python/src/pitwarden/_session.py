"""The worker's side of the link protocol, without I/O: takes frames and results of commands, gives calls and frames.

A call waits until ``begin``, runs until ``finish`` or ``fail``, and is gone after that. Whatever ends it first counts:
a cancel or a passed deadline answers a waiting call at once, but only marks a running one, whose command still answers.
So every request gets exactly one result, or is returned.

Links come and go: the session is attached until ``detach``, detached until ``attach``, and may send nothing but its
hello until the agent's welcome. A call that is older than the link is *detached*: its chunks are not sent. If it is a
kept one its answer goes into the store, until the agent asks for a replay of the answer from its beginning. Its result
is sent in any case, so that the agent knows that the worker has room again.

The session starts no threads, reads no clock (the time is an argument, in seconds of a monotonic clock) and takes no
locks: _locked_session.py holds one around every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from ._call import Call, Chunk, Result
from ._measurements import Measurements, measurements
from ._pb.link_pb2 import AgentFrame, Hello, Limits, LinkError, Pong, Progress, Resumed, Welcome, WorkerFrame
from ._result_store import Answer, ResultStore, held_request
from ._send_queue import SendQueue
from ._telemetry_reports import TelemetryReports
from .errors import Code, Error, bounded

PROTOCOL = 1

# Request ids wrap at 2^32: an id is newer than another if it is less than half of that ahead.
IDS_MASK = 0xFFFFFFFF
HALF_OF_IDS = 0x80000000

# Bounds of texts that the application gives: the message of a progress report, and the reason to be replaced.
PROGRESS_MAX_BYTES = 1024
REASON_MAX_BYTES = 1024

# A warm-up has the id IDS_MASK, and a request_id that begins like this.
WARM_UP_PREFIX = "warm-up-"


class ProtocolError(Exception):
    """The agent sent what the protocol does not allow. The session cannot go on."""


class Received:
    """What one frame asks the worker to do."""

    __slots__ = (
        "cancelled",
        "concurrency",
        "draining",
        "has_room",
        "limits",
        "recalled",
        "resumed",
        "starts",
        "stop_grace_ms",
        "welcome",
    )

    def __init__(self) -> None:
        self.welcome: Optional[Welcome] = None
        # Replace those of the welcome.
        self.limits: Optional[Limits] = None
        # Set by the first welcome of the process only.
        self.concurrency: Optional[int] = None
        self.starts: list[Call] = []
        # Running calls only: waiting ones have been answered.
        self.cancelled: list[Call] = []
        # Calls whose chunks the agent accepts again.
        self.resumed: list[Call] = []
        # True: producers that wait for room should try again.
        self.has_room = False
        self.draining = False
        # True: waiting calls are to be returned.
        self.recalled = False
        self.stop_grace_ms: Optional[int] = None


class Session:
    def __init__(
        self,
        hello: Hello,
        mark_begun: Optional[Callable[[int], object]] = None,
        next_token: Callable[[], str] = str,
        measured: Measurements = measurements,
    ) -> None:
        """``hello`` is what every hello says, beside its token and what the worker holds. ``mark_begun`` gets the id of
        each request before it begins, unless a newer one has begun before. ``next_token`` makes the token of one hello,
        and raises SecretError when none is left. ``measured`` is what the application measures."""
        self._hello_template = hello
        self._mark_begun = mark_begun
        self._next_token = next_token
        self.telemetry = TelemetryReports(measured)
        self._begun_through = 0
        self._last_id = 0
        # The state of the link. A new session counts as attached, with a hello without a token.
        self._attached = True
        self._welcomed = False
        # When the last link that had a welcome was lost; None: there was none.
        self._detached_at_s: Optional[float] = None
        # All calls that wait or run; of these the running ones; and the detached ones.
        self._calls: dict[int, Call] = {}
        self._running: dict[int, Call] = {}
        self._detached: set[int] = set()
        self._result_store = ResultStore()
        # Replays with parts that are not in the send queue yet.
        self._replaying: dict[int, Answer] = {}
        self._started = 0
        self._finished = 0
        self._completed = 0
        self._failed = 0
        self._is_leaving = False
        self._leaving_reason = ""
        # What is to be sent, beside the parts of replays.
        self._unsent_hello: Optional[Hello] = hello
        self._unanswered_ping: Optional[int] = None
        self._unsent_leaving = False
        self._unsent_returned: list[int] = []
        self._unsent_replayed: list[int] = []
        self._unsent_progress: dict[int, Progress] = {}
        self._send_queue = SendQueue()
        # The largest payload that the agent accepts; 0: it gave no bound.
        self.payload_max_bytes = 0

    @property
    def idle(self) -> bool:
        """True if no request waits or runs."""
        return not self._calls

    @property
    def empty(self) -> bool:
        """True if there is nothing to send. Before the agent's welcome only the hello may be sent."""
        if not self._welcomed:
            return self._unsent_hello is None
        return not (
            self._send_queue.parts
            or self._unanswered_ping
            or self._unsent_progress
            or self._unsent_returned
            or self._unsent_leaving
            or self._replaying
            or self._unsent_replayed
            or self.telemetry.urgent
        )

    @property
    def has_room(self) -> bool:
        return self._send_queue.has_room

    def has_room_for(self, call: Call, payload_bytes: int) -> bool:
        """True if a chunk may be added. The producer should wait otherwise, and while its call is paused."""
        if self._detached or self._result_store.answers:
            answer = self._result_store.answers.get(call.id)
            if call.id in self._detached or (answer is not None and answer.next_replayed is not None):
                return answer is None or bool(answer.eviction) or self._result_store.has_room_for(payload_bytes)
        return self._send_queue.has_room

    def sends_chunks_of(self, call: Call) -> bool:
        """False for a detached call: its chunks are dropped or only stored, so nothing slows their producer down."""
        return call.id not in self._detached

    def receive(self, frame: AgentFrame, now_s: float) -> Received:
        """Handles a frame from the agent. Raises ProtocolError."""
        received = Received()
        if not self._welcomed:
            self._receive_welcome(frame, received, now_s)
        elif frame.HasField("welcome"):
            raise ProtocolError("the agent sent a second welcome, expected one")
        if frame.HasField("limits"):
            self._result_store.set_limits(frame.limits, now_s)
            self.telemetry.limit(frame.limits.telemetry_bytes_per_s)
            received.limits = frame.limits
            received.has_room = True
        if frame.HasField("ping"):
            self._unanswered_ping = frame.ping.sequence
        if self._result_store.answers:
            self._receive_acks(frame.acks, received, now_s)
        self._receive_requests(frame, received, now_s)
        # After the requests: a caller may come back for a request that is in the same frame.
        if frame.replays:
            self._receive_replays(frame.replays, received, now_s)
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
        """The link is lost. Running calls and kept waiting ones go on; other waiting ones are dropped."""
        if self._welcomed:
            self._detached_at_s = now_s
        self._welcomed = self._attached = False
        self._unsent_hello = self._unanswered_ping = None
        self._unsent_replayed.clear()
        self._replaying.clear()
        self._unsent_progress.clear()
        self._send_queue.clear()
        for answer in self._result_store.answers.values():
            answer.next_replayed, answer.paused = None, False
        for call in list(self._calls.values()):
            call.paused = False
            if call.begun_s is None and call.id not in self._result_store.answers:
                del self._calls[call.id]
        self._detached = set(self._calls)

    def attach(self, now_s: float) -> None:
        """There is a new link. The next frame is a hello, which reports what the worker holds if an agent had welcomed
        it before. Raises SecretError when no token is left."""
        token = self._next_token()
        self._attached = True
        # They were returned on the old link, so the new one does not know them.
        self._unsent_returned.clear()
        self._unsent_leaving = self._is_leaving
        self._unsent_hello = Hello()
        self._unsent_hello.CopyFrom(self._hello_template)
        self._unsent_hello.token = token
        if self._detached_at_s is not None:
            self._result_store.expire(now_s)
            self._unsent_hello.resumed.CopyFrom(self._resumed(now_s, self._detached_at_s))

    def begin(self, call: Call, now_s: float) -> bool:
        """True: run the call. False: it has been answered or returned."""
        if call.id not in self._calls:
            return False
        if call.deadline_s is not None and now_s >= call.deadline_s:
            self.fail(call, Error("the deadline passed before the command began", code=Code.DEADLINE_EXCEEDED), now_s)
            return False
        if (call.id - self._begun_through) & IDS_MASK < HALF_OF_IDS:
            self._begun_through = call.id
            if self._mark_begun is not None:
                self._mark_begun(call.id)
        call.begun_s = now_s
        self._running[call.id] = call
        self._started += 1
        return True

    def leave(self, reason: str = "") -> None:
        """Announces that no call will begin any more, on this link and on later ones. ``reason``: why the application
        asked to be replaced; empty: it did not."""
        self._is_leaving = self._unsent_leaving = True
        self._leaving_reason = self._leaving_reason or bounded(reason, REASON_MAX_BYTES)

    def return_calls(self, calls: Iterable[Call]) -> None:
        """Gives calls that have not begun back to the agent, which may send them to other workers."""
        for call in calls:
            if self._calls.pop(call.id, None) is not None:
                self._unsent_returned.append(call.id)
                self._forget_answer(call.id)

    def add_chunk(self, call: Call, payload: bytes, content_type: str) -> None:
        chunk = Chunk(call.id, payload, content_type)
        answer = self._result_store.answers.get(call.id) if self._result_store.answers else None
        if answer is not None:
            self._result_store.add_chunk(answer, chunk)
            if answer.next_replayed is not None:
                # The replay sends it, after the parts before it.
                return
        if call.id not in self._detached:
            self._send_queue.add_chunk(chunk)

    def report(self, call: Call, fraction: float, message: str) -> None:
        # Only the latest report is sent, so that frequent reports cannot fill the link.
        if call.id in self._running:
            bounded_message = bounded(message, PROGRESS_MAX_BYTES)
            self._unsent_progress[call.id] = Progress(id=call.id, fraction=fraction, message=bounded_message)

    def finish(self, call: Call, payload: bytes, content_type: str, now_s: float) -> None:
        self._answer(call, payload, content_type, None, now_s)

    def fail(self, call: Call, error: Error, now_s: float) -> None:
        link_error = LinkError(code=error.code, type=error.type, message=error.message, traceback=error.traceback)
        self._answer(call, b"", "", link_error, now_s)

    def cancel_all(self) -> list[Call]:
        """Marks every call as cancelled. Returns the running ones."""
        for call in self._calls.values():
            call.cancelled = True
        return list(self._running.values())

    def next_frame(self, now_s: float, loop_lag_ms: int = 0) -> Optional[WorkerFrame]:
        """The next frame to send; None: there is nothing to send. A pong never waits for a later frame."""
        if self.empty:
            return None
        frame = WorkerFrame()
        if self._unsent_hello is not None:
            frame.hello.CopyFrom(self._unsent_hello)
            self._unsent_hello = None
            return frame
        if self._unsent_replayed:
            frame.replayed.extend(self._unsent_replayed)
            self._unsent_replayed.clear()
        if self._replaying:
            self._queue_replays()
        if self._unanswered_ping is not None:
            frame.pong.CopyFrom(self._pong(self._unanswered_ping, now_s, loop_lag_ms))
            self._unanswered_ping = None
        if self._unsent_leaving:
            frame.leaving = True
            frame.leaving_reason = self._leaving_reason
            self._unsent_leaving = False
        if self._unsent_returned:
            frame.returned.extend(self._unsent_returned)
            self._unsent_returned.clear()
        if self._unsent_progress:
            frame.progress.extend(self._unsent_progress.values())
            self._unsent_progress.clear()
        if self.telemetry.due(now_s):
            frame.telemetry = self.telemetry.take(now_s)
        self._send_queue.move_into(frame)
        return frame

    def _receive_welcome(self, frame: AgentFrame, received: Received, now_s: float) -> None:
        if not frame.HasField("welcome"):
            raise ProtocolError("the agent's first frame must be a welcome")
        welcome = frame.welcome
        if welcome.protocol != PROTOCOL:
            raise ProtocolError(
                f"this SDK speaks link protocol {PROTOCOL}, the agent speaks {welcome.protocol}: "
                "upgrade the older of the two"
            )
        self._welcomed = True
        self._result_store.set_limits(welcome, now_s)
        self.telemetry.limit(welcome.telemetry_bytes_per_s)
        self.payload_max_bytes = welcome.payload_max_bytes
        received.welcome = welcome
        received.has_room = True
        if self._detached_at_s is None:
            received.concurrency = max(1, welcome.concurrency)

    def _receive_acks(self, ids: Sequence[int], received: Received, now_s: float) -> None:
        self._result_store.expire(now_s)
        for id in ids:
            self._forget_answer(id)
        if ids:
            received.has_room = True

    def _receive_requests(self, frame: AgentFrame, received: Received, now_s: float) -> None:
        for request in frame.requests:
            id = request.id
            if id in self._calls:
                raise ProtocolError(f"the agent sent request {id} twice, expected ids unique on the link")
            call = self._calls[id] = Call(request, id, now_s)
            received.starts.append(call)
            if (id - self._last_id) & IDS_MASK < HALF_OF_IDS:
                self._last_id = id
            if request.keep:
                self._result_store.add_call(call)

    def _receive_replays(self, ids: Iterable[int], received: Received, now_s: float) -> None:
        received.has_room = True
        self._send_queue.remove(set(ids))
        for id in ids:
            self._unsent_replayed.append(id)
            answer = self._result_store.answers.get(id)
            if answer is None:
                self._answer_unknown(id, received, now_s)
                continue
            self._detached.discard(id)
            answer.next_replayed = 0
            self._continue_replay(answer)
            if answer.eviction and answer.ended_s is None:
                # Its beginning is lost, so nobody can use the rest. Its result will be the error DATA_LOSS.
                self._mark_cancelled(answer.call, received)

    def _answer_unknown(self, id: int, received: Received, now_s: float) -> None:
        unknown, call = self._result_store.unknown_result(id), self._calls.get(id)
        if call is None:
            self._send_queue.add_result(unknown)
        else:
            self._mark_cancelled(call, received)
            self._answer(call, unknown.payload, unknown.content_type, unknown.error, now_s)

    def _cancel(self, id: int, received: Received, now_s: float) -> None:
        call = self._calls.get(id)
        if call is None:
            # The result and the cancel crossed on the link.
            return
        self._mark_cancelled(call, received)
        if call.begun_s is not None:
            return
        self.fail(call, Error("the request was cancelled before the command began", code=Code.CANCELLED), now_s)
        if call in received.starts:
            received.starts.remove(call)

    def _mark_cancelled(self, call: Call, received: Received) -> None:
        call.cancelled = True
        if call.begun_s is not None:
            received.cancelled.append(call)

    def _pause(self, id: int) -> None:
        call, answer = self._calls.get(id), self._result_store.answers.get(id)
        if call is not None:
            call.paused = True
        if answer is not None:
            answer.paused = True
            self._replaying.pop(id, None)

    def _resume(self, id: int, received: Received) -> None:
        call, answer = self._calls.get(id), self._result_store.answers.get(id)
        if call is not None:
            call.paused = False
            received.resumed.append(call)
        if answer is not None:
            answer.paused = False
            self._continue_replay(answer)

    def _continue_replay(self, answer: Answer) -> None:
        """Does nothing if no replay is under way or it is paused, or while an evicted answer's request still runs."""
        if (
            answer.next_replayed is not None
            and not answer.paused
            and (answer.ended_s is not None or not answer.eviction)
        ):
            self._replaying[answer.call.id] = answer

    def _queue_replays(self) -> None:
        """Adds the next parts of replays to the send queue, as far as there is room."""
        while self._replaying and self.has_room:
            id, answer = next(iter(self._replaying.items()))
            if answer.next_replayed is None or answer.next_replayed >= len(answer.parts):
                # The replay has caught up with the command: later parts go straight into the send queue.
                answer.next_replayed = None
                del self._replaying[id]
                continue
            part = answer.parts[answer.next_replayed]
            answer.next_replayed += 1
            self._send_queue.add(part)

    def _forget_answer(self, id: int) -> None:
        self._result_store.remove(id)
        if self._replaying:
            self._replaying.pop(id, None)

    def _answer(self, call: Call, payload: bytes, content_type: str, error: Optional[LinkError], now_s: float) -> None:
        if self._calls.pop(call.id, None) is None:
            return
        ran_us = 0
        if self._running.pop(call.id, None) is not None and call.begun_s is not None:
            self._finished += 1
            # At least 1, because 0 means that the command never began.
            ran_us = max(1, int((now_s - call.begun_s) * 1_000_000))
            if self._unsent_progress:
                self._unsent_progress.pop(call.id, None)
        # A warm-up is not a caller's request, so it is not counted.
        counted = 0 if call.id == IDS_MASK and call.request_id.startswith(WARM_UP_PREFIX) else 1
        if error is None:
            self._completed += counted
        else:
            self._failed += counted
        result = Result(call.id, payload, content_type, error, ran_us)
        # Without a link every call is detached.
        if self._detached or self._result_store.answers:
            self._store_result(result, now_s)
        else:
            self._send_queue.add_result(result)

    def _store_result(self, result: Result, now_s: float) -> None:
        self._detached.discard(result.id)
        answer = self._result_store.answers.get(result.id)
        if answer is not None:
            self._result_store.add_result(answer, result, now_s)
        if not self._welcomed:
            # Without an agent no frame arrives at which answers would expire.
            self._result_store.expire(now_s)
        if answer is not None and answer.next_replayed is not None:
            self._continue_replay(answer)
        elif self._attached:
            self._send_queue.add_result(result)

    def _resumed(self, now_s: float, detached_at_s: float) -> Resumed:
        answers = self._result_store.answers
        calls = {id: answer.call for id, answer in answers.items()}
        calls.update(self._calls)
        oldest_first = sorted(calls.values(), key=lambda call: (call.id - self._last_id - 1) & IDS_MASK)
        return Resumed(
            last_id=self._last_id,
            completed=self._completed,
            failed=self._failed,
            held=[held_request(call, answers.get(call.id), now_s) for call in oldest_first],
            away_ms=int((now_s - detached_at_s) * 1000),
        )

    def _pong(self, sequence: int, now_s: float, loop_lag_ms: int) -> Pong:
        # The dictionary has the calls in the order in which they began.
        oldest = next(iter(self._running.values()), None)
        return Pong(
            sequence=sequence,
            in_flight=len(self._running),
            requests_started=self._started,
            requests_finished=self._finished,
            oldest_request_ms=0 if oldest is None or oldest.begun_s is None else int((now_s - oldest.begun_s) * 1000),
            loop_lag_ms=loop_lag_ms,
        )
