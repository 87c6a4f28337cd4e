"""The session behind its one lock.

Whoever has something to say adds it here, and sends it where no frame is being sent; what is added meanwhile goes with
the next frame. Producers of chunks wait while there is no room. Nothing in here blocks for longer than it takes to put
a frame together, so it may be called from any thread, though not from a signal handler.

Streams come and go, but what is sent is bound to a stream while the lock is held: what was meant for one that has ended
meanwhile is lost with it, and never reaches the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from ._call import Call
from ._pb.link_pb2 import AgentFrame, WorkerFrame
from ._session import Received, Session
from ._stream import Stream
from .errors import Error

# While more requests wait here, which the agent sees to only where they are short, an answer may wait so long for the
# next: a frame costs the agent several times what an answer in it does.
HOLD_S = 0.0005


class Sending(NamedTuple):
    stream: Stream
    # None: the end of the stream.
    frame: Optional[WorkerFrame]


class Line:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._stream: Optional[Stream] = None
        # Of the stream that is open, or that will be opened next.
        self._number = 1
        # A frame is being sent, or there is no stream.
        self._sending = True
        self._holding_since_s: Optional[float] = None
        self._producers: list[Callable[[], object]] = []
        self._paused_producers: dict[int, Callable[[], object]] = {}
        self._loop_lag_ms = 0
        self._when_idle: Optional[Callable[[], object]] = None
        self._refusing = False
        self._closed = False

    @property
    def next_number(self) -> int:
        """Of the stream that ``open`` will be given."""
        return self._number

    def open(self, stream: Stream) -> None:
        """The stream's first frame is a hello. After ``close`` nothing is sent at all."""
        with self._lock:
            if self._closed:
                return
            self._session.resume_hello(time.monotonic())
            self._stream = stream
            self._sending = False
            sending = self._next_frame()
        self._send(sending)

    def detach(self) -> None:
        """The stream has ended. What is sent until the next one is opened goes nowhere."""
        with self._lock:
            self._session.detach(time.monotonic())
            self._stream = None
            self._number += 1
            self._sending = True
            self._holding_since_s = None
            paused, self._paused_producers = self._paused_producers, {}
        self._wake_producers()
        for wake in paused.values():
            wake()

    def sent(self, number: int) -> None:
        """The stream of this number takes the next frame."""
        with self._lock:
            # One that has ended may say so late.
            if number != self._number:
                return
            self._sending = False
            sending = self._next_frame()
        self._send(sending)

    def receive(self, frame: AgentFrame, loop_lag_ms: int) -> Received:
        """What the frame asks for."""
        now_s = time.monotonic()
        with self._lock:
            self._loop_lag_ms = loop_lag_ms
            received = self._session.receive(frame, now_s)
            self._refusing = self._refusing or received.stop_grace_ms is not None
            if self._refusing:
                # Given back, they run elsewhere.
                self._session.give_back(received.starts)
                received.starts = []
            sending = self._next_frame()
        self._send(sending)
        # A producer may be waiting for room on behalf of a request that nobody wants any more.
        if received.cancelled or received.made_room:
            self._wake_producers()
        if self._paused_producers:
            self._wake_paused(received.resumed)
            self._wake_paused(received.cancelled)
        return received

    def begin(self, call: Call) -> bool:
        """True: run it now. False: it is answered or given back already."""
        with self._lock:
            if self._refusing:
                self._session.give_back((call,))
            elif self._session.begin(call, time.monotonic()):
                return True
            sending = self._answered()
        self._send(sending)
        return False

    def give_back(self, calls: list[Call]) -> None:
        with self._lock:
            self._session.give_back(calls)
            sending = self._answered()
        self._send(sending)

    @property
    def payload_max_bytes(self) -> int:
        """Largest payload that the agent takes; 0: it names none."""
        return self._session.payload_max_bytes

    def finish(self, call: Call, payload: bytes, content_type: str, more: bool = False) -> None:
        """``more``: another request is about to begin."""
        now_s = time.monotonic()
        with self._lock:
            self._session.finish(call, payload, content_type, now_s)
            if more and not self._sending and self._when_idle is None:
                if self._holding_since_s is None:
                    self._holding_since_s = now_s
                if now_s - self._holding_since_s < HOLD_S:
                    return
            sending = self._answered()
        self._send(sending)

    def flush(self) -> None:
        """Sends an answer that ``finish`` held, for nothing follows it after all."""
        if self._holding_since_s is None:
            return
        with self._lock:
            sending = self._answered()
        self._send(sending)

    def fail(self, call: Call, error: Error) -> None:
        with self._lock:
            self._session.fail(call, error, time.monotonic())
            sending = self._answered()
        self._send(sending)

    def report(self, call: Call, fraction: float, message: str) -> None:
        with self._lock:
            self._session.report(call, fraction, message)
            sending = self._next_frame()
        self._send(sending)

    def offer(self, call: Call, payload: bytes, content_type: str, wake: Callable[[], object]) -> bool:
        """Adds a chunk. False: there is no room; ``wake`` will be called, from any thread, when to offer it again."""
        with self._lock:
            if call.paused and not call.cancelled:
                self._paused_producers[call.id] = wake
                return False
            if not self._session.has_room_for(call, len(payload)):
                self._producers.append(wake)
                return False
            self._session.add_chunk(call, payload, content_type)
            sending = self._next_frame()
        self._send(sending)
        return True

    def hears(self, call: Call) -> bool:
        """False: its chunks are not sent, for it came on an earlier stream."""
        return self._session.is_heard(call)

    def cancel_all(self) -> list[Call]:
        with self._lock:
            running = self._session.cancel_all()
        self._wake_producers()
        self._wake_paused(running)
        return running

    def refuse(self, when_idle: Callable[[], object], reason: str = "") -> None:
        """No request begins from now on; ``when_idle`` is called once, when the last one has been answered. ``reason``:
        why the application wants to be replaced."""
        with self._lock:
            self._refusing = True
            self._session.leave(reason)
            self._when_idle = when_idle
            sending = self._answered()
        self._send(sending)

    def close(self) -> None:
        """Ends the stream, after what there still is to say."""
        with self._lock:
            self._closed = True
            sending = self._next_frame()
        self._send(sending)

    def _answered(self) -> Optional[Sending]:
        if self._when_idle is not None and self._session.idle:
            when_idle, self._when_idle = self._when_idle, None
            when_idle()
        return self._next_frame()

    def _next_frame(self) -> Optional[Sending]:
        """With the lock held: what to send now, by this thread, when it has let go of the lock."""
        if self._sending or self._stream is None or (self._session.empty and not self._closed):
            return None
        self._sending = True
        self._holding_since_s = None
        return Sending(self._stream, self._session.take(time.monotonic(), self._loop_lag_ms))

    def _send(self, sending: Optional[Sending]) -> None:
        if sending is None:
            return
        stream, frame = sending
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
