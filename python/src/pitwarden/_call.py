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

    def __init__(self, request: LinkRequest, now_s: float) -> None:
        deadline_s = now_s + request.timeout_ms / 1000 if request.timeout_ms else None
        super().__init__(request.request_id, request.session_id, deadline_s)
        self.id = request.id
        self.command = request.command
        self.payload = request.payload
        self.content_type = request.content_type
        self.received_s = now_s
        # None: the command has not begun.
        self.begun_s: Optional[float] = None
        # True: the agent has asked for no more chunks until it resumes the call.
        self.paused = False
