"""Answers that may be asked for again: kept from when they are made until they are acknowledged, within bounds.

Beyond the bounds the oldest answers that have ended are given up: their payloads go, but it is remembered for `keep_s`
that they ended, so that nobody runs them again. A stream that alone is larger than all that may be kept is given up
while it runs. Like the session it has no clock and no timers: what is over its time goes when a frame comes, or while
there is none, when a request ends.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Optional, Union

from ._call import Call, Chunk, Part, Result
from ._pb.link_pb2 import HeldRequest, Limits, LinkError, Welcome
from .errors import Code

# Ids of given-up answers that are remembered at most: each costs about half a KiB. An agent that acknowledges what it
# has passed on never comes near it.
GIVEN_UP_MAX = 10_000

# What a chunk costs beside its payload. Without it a stream of single digits would cost a hundred times its bound.
CHUNK_OVERHEAD_BYTES = 64

UINT32_MAX = 0xFFFFFFFF


class Answer:
    """What a kept request's command has said so far."""

    __slots__ = (
        "bytes",
        "call",
        "cursor",
        "ended_s",
        "lost",
        "parts",
        "paused",
        "payload_bytes",
        "payload_crc32",
        "ran_us",
    )

    # Of the request and its run, set when it ends; the payload itself is let go then.
    payload_bytes: int
    payload_crc32: int
    ran_us: int

    def __init__(self, call: Call) -> None:
        self.call = call
        self.parts: list[Part] = []
        self.bytes = 0
        self.ended_s: Optional[float] = None
        # Why it was given up; it has no parts then until it ends, and one after: the error that says so.
        self.lost = ""
        # The next part to say again, while it is behind what was made.
        self.cursor: Optional[int] = None
        self.paused = False


class Kept:
    def __init__(self) -> None:
        # Those that run too, in the order in which they came.
        self.answers: dict[int, Answer] = {}
        # In the order in which they ended: with what they said, and given up.
        self._ended: OrderedDict[int, Answer] = OrderedDict()
        self._given_up: OrderedDict[int, Answer] = OrderedDict()
        self._bytes = 0
        self._results_max = 0
        self._bytes_max = 0
        self._keep_s = 0.0

    def bound(self, limits: Union[Welcome, Limits], now_s: float) -> None:
        self._results_max = limits.keep_results
        self._bytes_max = limits.keep_bytes
        self._keep_s = limits.keep_ms / 1000
        self._trim()
        self.expire(now_s)

    def open(self, call: Call) -> None:
        if call.id in self.answers:
            self.drop(call.id)
        self.answers[call.id] = Answer(call)

    def has_room_for(self, payload_bytes: int) -> bool:
        """A chunk may be added without giving up anything."""
        return self._bytes + payload_bytes + CHUNK_OVERHEAD_BYTES <= self._bytes_max

    def add(self, answer: Answer, chunk: Chunk) -> None:
        if not answer.lost:
            self._append(answer, chunk, len(chunk.payload) + CHUNK_OVERHEAD_BYTES)

    def end(self, answer: Answer, result: Result, now_s: float) -> None:
        call = answer.call
        answer.ended_s, answer.ran_us = now_s, result.ran_us
        answer.payload_bytes, answer.payload_crc32 = len(call.payload), zlib.crc32(call.payload)
        call.payload = b""
        if answer.lost:
            self._bury(answer)
            return
        self._ended[call.id] = answer
        size = len(result.payload) if result.error is None else _size(result.error)
        self._append(answer, result, size)

    def drop(self, id: int) -> None:
        answer = self.answers.pop(id, None)
        if answer is not None:
            self._bytes -= answer.bytes
            if answer.ended_s is not None:
                (self._given_up if answer.lost else self._ended).pop(id, None)

    def expire(self, now_s: float) -> None:
        """Forgets what ended longer ago than it is to be kept."""
        for ended in (self._ended, self._given_up):
            while ended:
                id, answer = next(iter(ended.items()))
                if answer.ended_s is None or now_s - answer.ended_s < self._keep_s:
                    break
                self.drop(id)

    def unknown(self, id: int) -> Result:
        """The answer to who asks for one that is not here."""
        told = f"the worker has no answer to its request {id}: it never had the request, the answer was acknowledged, "
        return _data_loss(id, f"{told}or it ended more than keep_ms ({self._keep_s * 1000:.0f}) ago", 0)

    def _append(self, answer: Answer, part: Part, size: int) -> None:
        answer.parts.append(part)
        answer.bytes += size
        self._bytes += size
        if self._bytes <= self._bytes_max and len(self._ended) <= self._results_max:
            return
        if self._bytes > self._bytes_max and (isinstance(part, Chunk) or answer.bytes > self._bytes_max):
            # A stream that runs has a caller who takes it: before those who are not there for theirs. And for what is
            # too large alone all others could not make room.
            self._give_up(answer, self._over_bytes)
        self._trim()

    def _trim(self) -> None:
        while len(self._ended) > self._results_max:
            self._give_up(next(iter(self._ended.values())), f"keep_results ({self._results_max})")
        while self._bytes > self._bytes_max and self._ended:
            self._give_up(next(iter(self._ended.values())), self._over_bytes)

    @property
    def _over_bytes(self) -> str:
        return f"keep_bytes ({self._bytes_max})"

    def _give_up(self, answer: Answer, bound: str) -> None:
        answer.lost = f"the answer to this request was given up: what the worker keeps of answers went beyond {bound}"
        answer.parts = []
        self._bytes -= answer.bytes
        answer.bytes = 0
        if answer.ended_s is not None:
            self._ended.pop(answer.call.id, None)
            self._bury(answer)

    def _bury(self, answer: Answer) -> None:
        id = answer.call.id
        answer.parts = [_data_loss(id, answer.lost, answer.ran_us)]
        if answer.cursor is not None:
            # What was said of it again is cut short by the error.
            answer.cursor = 0
        self._given_up[id] = answer
        if len(self._given_up) > GIVEN_UP_MAX:
            self.drop(next(iter(self._given_up)))


def held(call: Call, answer: Optional[Answer], now_s: float) -> HeldRequest:
    """What a Hello says of it."""
    ended = answer is not None and answer.ended_s is not None
    remaining_ms = 0
    if call.deadline_s is not None and not ended:
        # 0 would mean that it has none.
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
