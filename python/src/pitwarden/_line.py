"""The session behind its one lock, and the waits at both of its ends.

Whoever has something to say adds it here; the sender takes all of it as one frame. The sender waits while there is
nothing to say, and producers of chunks wait while there is no room. Nothing else in here blocks for longer than a frame
takes to be put together, so it may be called from any thread, though not from a signal handler.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Callable, Optional

from ._pb.link_pb2 import AgentFrame, WorkerFrame
from ._session import Call, Received, Session
from .errors import Error


class Line:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._sender_waits = False
        self._producers: list[Callable[[], object]] = []
        self._paused_producers: dict[int, Callable[[], object]] = {}
        self._loop_lag_ms = 0
        self._when_idle: Optional[Callable[[], object]] = None
        self._refusing = False
        self._closed = False

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
            self._wake_sender()
        if received.cancelled:
            # A producer may be waiting for room on behalf of a request that nobody wants any more.
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
            self._answered()
            return False

    def give_back(self, calls: list[Call]) -> None:
        with self._lock:
            self._session.give_back(calls)
            self._answered()

    def finish(self, call: Call, payload: bytes, content_type: str) -> None:
        with self._lock:
            self._session.finish(call, payload, content_type, time.monotonic())
            self._answered()

    def fail(self, call: Call, error: Error) -> None:
        with self._lock:
            self._session.fail(call, error, time.monotonic())
            self._answered()

    def report(self, call: Call, fraction: float, message: str) -> None:
        with self._lock:
            self._session.report(call, fraction, message)
            self._wake_sender()

    def offer(self, call: Call, payload: bytes, content_type: str, wake: Callable[[], object]) -> bool:
        """Adds a chunk. False: there is no room; ``wake`` will be called, from any thread, when to offer it again."""
        with self._lock:
            if call.paused and not call.cancelled:
                self._paused_producers[call.id] = wake
                return False
            if not self._session.has_room:
                self._producers.append(wake)
                return False
            self._session.add_chunk(call, payload, content_type)
            self._wake_sender()
            return True

    def cancel_all(self) -> list[Call]:
        with self._lock:
            running = self._session.cancel_all()
        self._wake_producers()
        self._wake_paused(running)
        return running

    def refuse(self, when_idle: Callable[[], object]) -> None:
        """No request begins from now on; ``when_idle`` is called once, when the last one has been answered."""
        with self._lock:
            self._refusing = True
            self._session.leave()
            self._when_idle = when_idle
            self._answered()

    def close(self) -> None:
        """Lets ``frames`` end, after what there still is to say."""
        with self._lock:
            self._closed = True
            self._wake_sender()

    def frames(self) -> Iterator[WorkerFrame]:
        """What to send, as it comes up; waits in between."""
        while True:
            with self._lock:
                while self._session.empty and not self._closed:
                    self._sender_waits = True
                    self._more.wait()
                frame = self._session.take(time.monotonic(), self._loop_lag_ms)
            if frame is None:
                return
            if self._producers:
                self._wake_producers()
            yield frame

    def _answered(self) -> None:
        self._wake_sender()
        if self._when_idle is not None and self._session.idle:
            when_idle, self._when_idle = self._when_idle, None
            when_idle()

    def _wake_sender(self) -> None:
        if self._sender_waits and (self._closed or not self._session.empty):
            self._sender_waits = False
            self._more.notify()

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
