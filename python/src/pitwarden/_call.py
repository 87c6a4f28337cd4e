"""One request on the link, and the parts of its answer."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ._pb.link_pb2 import LinkError, LinkRequest
from .context import Request


class Chunk(NamedTuple):
    """One value of a stream."""

    id: int
    payload: bytes
    content_type: str


class Result(NamedTuple):
    """The last part of an answer: a payload or an error."""

    id: int
    payload: bytes
    content_type: str
    error: Optional[LinkError]
    # Microseconds; 0: the command never began.
    ran_us: int


Part = Union[Chunk, Result]


class Call(Request):
    __slots__ = ("begun_s", "command", "content_type", "id", "paused", "payload", "received_s")

    def __init__(self, request: LinkRequest, id: int, now_s: float) -> None:
        """``id`` is the request's, which the caller has read: each field that is read of a message is made anew."""
        timeout_ms = request.timeout_ms
        self.request_id = request.request_id
        self.session_id = request.session_id
        self.deadline_s = now_s + timeout_ms / 1000 if timeout_ms else None
        self.cancelled = False
        self.id = id
        self.command = request.command
        self.payload = request.payload
        self.content_type = request.content_type
        self.received_s = now_s
        # None: the command has not begun.
        self.begun_s: Optional[float] = None
        # True: the agent has asked for no more chunks until it resumes the call.
        self.paused = False
