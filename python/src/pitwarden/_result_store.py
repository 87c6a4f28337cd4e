"""Keeps the answers of kept requests (LinkRequest.keep) until the agent acknowledges them, within bounds.

Beyond the bounds the oldest answers that have ended are evicted. An evicted answer loses its payloads, but its id is
remembered for ``keep_ms``, so that nobody runs the request again. A stream that alone exceeds all that may be kept is
evicted while it runs.

Like the session, the store has no clock and no timers. Expired answers go when a frame arrives or, without an agent,
when a request ends.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Optional, Union

from ._call import Call, Chunk, Part, Result
from ._pb.link_pb2 import HeldRequest, Limits, LinkError, Welcome
from .errors import Code

# How many ids of evicted answers are remembered at most; each takes about half a KiB. An agent that acknowledges what
# it has delivered never comes near this number.
EVICTED_MAX = 10_000

# Bytes that a chunk counts in addition to its payload. Otherwise a stream of single digits would take a hundred
# times its bound.
CHUNK_OVERHEAD_BYTES = 64

UINT32_MAX = 0xFFFFFFFF


class Answer:
    """The parts of a kept request's answer so far."""

    __slots__ = (
        "bytes",
        "call",
        "ended_s",
        "eviction",
        "next_replayed",
        "parts",
        "paused",
        "payload_bytes",
        "payload_crc32",
        "ran_us",
    )

    # Facts about the request and its run, set when it ends. The request's payload is dropped then.
    payload_bytes: int
    payload_crc32: int
    ran_us: int

    def __init__(self, call: Call) -> None:
        self.call = call
        self.parts: list[Part] = []
        self.bytes = 0
        # None: the request waits or runs.
        self.ended_s: Optional[float] = None
        # Why the answer was evicted; empty: it was not. An evicted answer has no parts until the request has ended, and
        # then one: the error that gives this reason.
        self.eviction = ""
        # The index of the next part to replay; None: no replay is under way.
        self.next_replayed: Optional[int] = None
        # True: the agent has asked for no more chunks until it resumes the call.
        self.paused = False


class ResultStore:
    def __init__(self) -> None:
        # All answers by id, those of running requests too, in the order in which the requests came.
        self.answers: dict[int, Answer] = {}
        # Answers that have ended, in the order in which they ended.
        self._ended: OrderedDict[int, Answer] = OrderedDict()
        self._evicted: OrderedDict[int, Answer] = OrderedDict()
        self._bytes = 0
        self._results_max = 0
        self._bytes_max = 0
        self._keep_s = 0.0

    def set_limits(self, limits: Union[Welcome, Limits], now_s: float) -> None:
        self._results_max = limits.keep_results
        self._bytes_max = limits.keep_bytes
        self._keep_s = limits.keep_ms / 1000
        self._evict_oldest()
        self.expire(now_s)

    def add_call(self, call: Call) -> None:
        """Begins an empty answer, in place of an earlier one with the same id."""
        if call.id in self.answers:
            self.remove(call.id)
        self.answers[call.id] = Answer(call)

    def has_room_for(self, payload_bytes: int) -> bool:
        """True if a chunk can be added without evicting anything."""
        return self._bytes + payload_bytes + CHUNK_OVERHEAD_BYTES <= self._bytes_max

    def add_chunk(self, answer: Answer, chunk: Chunk) -> None:
        if not answer.eviction:
            self._append(answer, chunk, len(chunk.payload) + CHUNK_OVERHEAD_BYTES)

    def add_result(self, answer: Answer, result: Result, now_s: float) -> None:
        """Adds the last part: the request has ended."""
        call = answer.call
        answer.ended_s, answer.ran_us = now_s, result.ran_us
        answer.payload_bytes, answer.payload_crc32 = len(call.payload), zlib.crc32(call.payload)
        call.payload = b""
        if answer.eviction:
            self._remember_evicted(answer)
            return
        self._ended[call.id] = answer
        size = len(result.payload) if result.error is None else _size(result.error)
        self._append(answer, result, size)

    def remove(self, id: int) -> None:
        """Forgets an answer. Ignores an id that it does not have."""
        answer = self.answers.pop(id, None)
        if answer is not None:
            self._bytes -= answer.bytes
            if answer.ended_s is not None:
                (self._evicted if answer.eviction else self._ended).pop(id, None)

    def expire(self, now_s: float) -> None:
        """Forgets the answers that ended ``keep_ms`` ago or earlier."""
        for ended in (self._ended, self._evicted):
            while ended:
                id, answer = next(iter(ended.items()))
                if answer.ended_s is None or now_s - answer.ended_s < self._keep_s:
                    break
                self.remove(id)

    def unknown_result(self, id: int) -> Result:
        """The result for an id of which the store has no answer: the error DATA_LOSS."""
        causes = (
            f"the worker has no answer to its request {id}: it never had the request, the answer was acknowledged, "
        )
        return _data_loss(id, f"{causes}or it ended more than keep_ms ({self._keep_s * 1000:.0f}) ago", 0)

    def _append(self, answer: Answer, part: Part, size: int) -> None:
        answer.parts.append(part)
        answer.bytes += size
        self._bytes += size
        if self._bytes <= self._bytes_max and len(self._ended) <= self._results_max:
            return
        if self._bytes > self._bytes_max and (isinstance(part, Chunk) or answer.bytes > self._bytes_max):
            # A running stream goes first: its caller is here and receives it, while callers of ended requests may still
            # come back. So does an answer for which evicting all others would not make enough room.
            self._evict(answer, self._bytes_bound)
        self._evict_oldest()

    def _evict_oldest(self) -> None:
        while len(self._ended) > self._results_max:
            self._evict(next(iter(self._ended.values())), f"request.keep.max_results ({self._results_max})")
        while self._bytes > self._bytes_max and self._ended:
            self._evict(next(iter(self._ended.values())), self._bytes_bound)

    @property
    def _bytes_bound(self) -> str:
        return f"request.keep.max_bytes ({self._bytes_max})"

    def _evict(self, answer: Answer, bound: str) -> None:
        answer.eviction = (
            f"the answer to this request was given up: what the worker keeps of answers went beyond {bound}"
        )
        answer.parts = []
        self._bytes -= answer.bytes
        answer.bytes = 0
        if answer.ended_s is not None:
            self._ended.pop(answer.call.id, None)
            self._remember_evicted(answer)

    def _remember_evicted(self, answer: Answer) -> None:
        id = answer.call.id
        answer.parts = [_data_loss(id, answer.eviction, answer.ran_us)]
        if answer.next_replayed is not None:
            # The error ends a replay that is under way.
            answer.next_replayed = 0
        self._evicted[id] = answer
        if len(self._evicted) > EVICTED_MAX:
            self.remove(next(iter(self._evicted)))


def held_request(call: Call, answer: Optional[Answer], now_s: float) -> HeldRequest:
    """What a hello reports of a request that the worker holds. ``answer`` is None if it is not a kept one."""
    ended = answer is not None and answer.ended_s is not None
    remaining_ms = 0
    if call.deadline_s is not None and not ended:
        # At least 1, because 0 means that there is no deadline.
        remaining_ms = max(1, _ms(call.deadline_s - now_s))
    return HeldRequest(
        id=call.id,
        request_id=call.request_id,
        command=call.command,
        keep=answer is not None,
        cancelled=call.cancelled and not ended,
        ended=ended,
        remaining_ms=remaining_ms,
        age_ms=_ms(now_s - call.received_s),
        payload_bytes=answer.payload_bytes if answer is not None and ended else len(call.payload),
        payload_crc32=answer.payload_crc32 if answer is not None and ended else zlib.crc32(call.payload),
    )


def _ms(seconds: float) -> int:
    return min(UINT32_MAX, max(0, int(seconds * 1000)))


def _size(error: LinkError) -> int:
    return len(error.message) + len(error.traceback)


def _data_loss(id: int, message: str, ran_us: int) -> Result:
    return Result(id, b"", "", LinkError(code=Code.DATA_LOSS, message=message), ran_us)
