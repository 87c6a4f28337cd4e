"""The session behind a lock, with the stream on which its frames are sent.

A method adds to the session and then sends a frame, unless a frame is being sent: what is added meanwhile goes with the
next one. Producers of chunks are told when there is no room, and woken when there is. No method blocks for longer than
it takes to put a frame together, so they may be called from any thread, but not from a signal handler.

A frame is bound to its stream while the lock is held. A frame for a stream that has ended since is lost with it, and
never reaches the next stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from ._call import Call
from ._grpc_stream import Stream
from ._pb.link_pb2 import AgentFrame, WorkerFrame
from ._session import Received, Session
from .errors import Error

# How long a result may wait for the next one while more requests wait in this worker, which happens only if their
# command is short. A frame costs the agent several times what a result in it does.
HOLD_S = 0.0005


class Outgoing(NamedTuple):
    stream: Stream
    # None: end the stream.
    frame: Optional[WorkerFrame]


class LockedSession:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._stream: Optional[Stream] = None
        # The number of the open stream or, without one, of the next.
        self._stream_number = 1
        # True: a frame is being sent, or there is no stream.
        self._busy = True
        # Since when a result waits for the next one; None: none does.
        self._holding_since_s: Optional[float] = None
        self._producers: list[Callable[[], object]] = []
        self._paused_producers: dict[int, Callable[[], object]] = {}
        self._loop_lag_ms = 0
        self._on_idle: Optional[Callable[[], object]] = None
        self._accepts_calls = True
        self._closed = False

    @property
    def next_stream_number(self) -> int:
        """The number of the stream that ``attach`` will get."""
        return self._stream_number

    def attach(self, stream: Stream) -> None:
        """Sends a hello on the stream. After ``close`` it sends nothing. Raises SecretError when no token is left."""
        with self._lock:
            if self._closed:
                return
            self._session.attach(time.monotonic())
            self._stream = stream
            self._busy = False
            outgoing = self._next_outgoing()
        self._send(outgoing)

    def detach(self) -> None:
        """The stream has ended. Nothing is sent until the next ``attach``."""
        with self._lock:
            self._session.detach(time.monotonic())
            self._stream = None
            self._stream_number += 1
            self._busy = True
            self._holding_since_s = None
            paused, self._paused_producers = self._paused_producers, {}
        self._wake_producers()
        for wake in paused.values():
            wake()

    def frame_sent(self, stream_number: int) -> None:
        """The stream has sent a frame, and can take the next one."""
        with self._lock:
            # A stream that has ended may report late.
            if stream_number != self._stream_number:
                return
            self._busy = False
            outgoing = self._next_outgoing()
        self._send(outgoing)

    def receive(self, frame: AgentFrame, loop_lag_ms: int) -> Received:
        """Returns what the frame asks the worker to do. Raises ProtocolError."""
        now_s = time.monotonic()
        with self._lock:
            self._loop_lag_ms = loop_lag_ms
            received = self._session.receive(frame, now_s)
            self._accepts_calls = self._accepts_calls and received.stop_grace_ms is None
            if not self._accepts_calls:
                # Other workers run them.
                self._session.return_calls(received.starts)
                received.starts = []
            outgoing = self._next_outgoing()
        self._send(outgoing)
        # A producer that waits for room may belong to a cancelled call.
        if received.cancelled or received.has_room:
            self._wake_producers()
        if self._paused_producers:
            self._wake_paused(received.resumed)
            self._wake_paused(received.cancelled)
        return received

    def begin(self, call: Call) -> bool:
        """True: run the call now. False: it has been answered or returned."""
        with self._lock:
            if not self._accepts_calls:
                self._session.return_calls((call,))
            elif self._session.begin(call, time.monotonic()):
                return True
            outgoing = self._call_ended()
        self._send(outgoing)
        return False

    def return_calls(self, calls: list[Call]) -> None:
        """Gives calls that have not begun back to the agent."""
        with self._lock:
            self._session.return_calls(calls)
            outgoing = self._call_ended()
        self._send(outgoing)

    @property
    def payload_max_bytes(self) -> int:
        """The largest payload that the agent accepts; 0: it gave no bound."""
        return self._session.payload_max_bytes

    def finish(self, call: Call, payload: bytes, content_type: str, more: bool = False) -> None:
        """``more``: the caller begins another call at once, so the result may wait for the next one, for HOLD_S at
        most. ``flush`` sends it if no other call begins after all."""
        now_s = time.monotonic()
        with self._lock:
            self._session.finish(call, payload, content_type, now_s)
            if more and not self._busy and self._on_idle is None:
                if self._holding_since_s is None:
                    self._holding_since_s = now_s
                if now_s - self._holding_since_s < HOLD_S:
                    return
            outgoing = self._call_ended()
        self._send(outgoing)

    def flush(self) -> None:
        """Sends the results that ``finish`` held back."""
        if self._holding_since_s is None:
            return
        with self._lock:
            outgoing = self._call_ended()
        self._send(outgoing)

    def fail(self, call: Call, error: Error) -> None:
        with self._lock:
            self._session.fail(call, error, time.monotonic())
            outgoing = self._call_ended()
        self._send(outgoing)

    def report(self, call: Call, fraction: float, message: str) -> None:
        with self._lock:
            self._session.report(call, fraction, message)
            outgoing = self._next_outgoing()
        self._send(outgoing)

    def try_add_chunk(self, call: Call, payload: bytes, content_type: str, wake: Callable[[], object]) -> bool:
        """Adds a chunk. False: there is no room, or the call is paused; ``wake`` is then called, from any thread, when
        the caller should try again."""
        with self._lock:
            if call.paused and not call.cancelled:
                self._paused_producers[call.id] = wake
                return False
            if not self._session.has_room_for(call, len(payload)):
                self._producers.append(wake)
                return False
            self._session.add_chunk(call, payload, content_type)
            outgoing = self._next_outgoing()
        self._send(outgoing)
        return True

    def sends_chunks_of(self, call: Call) -> bool:
        """False: the call is older than the link, so its chunks are not sent."""
        return self._session.sends_chunks_of(call)

    def cancel_all(self) -> list[Call]:
        """Marks every call as cancelled. Returns the running ones."""
        with self._lock:
            running = self._session.cancel_all()
        self._wake_producers()
        self._wake_paused(running)
        return running

    def leave(self, on_idle: Callable[[], object], reason: str = "") -> None:
        """Lets no call begin from now on, and says so to the agent. ``on_idle`` is called once, with the lock held,
        when the last running call has been answered. ``reason``: why the application asked to be replaced."""
        with self._lock:
            self._accepts_calls = False
            self._session.leave(reason)
            self._on_idle = on_idle
            outgoing = self._call_ended()
        self._send(outgoing)

    def close(self) -> None:
        """Sends what is left to send, and ends the stream."""
        with self._lock:
            self._closed = True
            self._session.telemetry.flush()
            outgoing = self._next_outgoing()
        self._send(outgoing)

    def _call_ended(self) -> Optional[Outgoing]:
        if self._on_idle is not None and self._session.idle:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()
        return self._next_outgoing()

    def _next_outgoing(self) -> Optional[Outgoing]:
        """Needs the lock. Returns what this thread must pass to ``_send`` once it has released the lock."""
        if self._busy or self._stream is None or (self._session.empty and not self._closed):
            return None
        self._busy = True
        self._holding_since_s = None
        return Outgoing(self._stream, self._session.next_frame(time.monotonic(), self._loop_lag_ms))

    def _send(self, outgoing: Optional[Outgoing]) -> None:
        if outgoing is None:
            return
        stream, frame = outgoing
        if frame is None:
            stream.end()
            return
        if self._producers:
            self._wake_producers()
        stream.send(frame)

    def _wake_producers(self) -> None:
        with self._lock:
            producers, self._producers = self._producers, []
        for wake in producers:
            wake()

    def _wake_paused(self, calls: list[Call]) -> None:
        with self._lock:
            wakes = [self._paused_producers.pop(call.id, None) for call in calls]
        for wake in wakes:
            if wake is not None:
                wake()
