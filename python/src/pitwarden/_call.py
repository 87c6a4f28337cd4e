"""One request on the link, and what is said of it."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ._pb.link_pb2 import LinkError, LinkRequest
from .context import Request


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
        self.begun_s: Optional[float] = None
        # The caller does not keep up with its chunks.
        self.paused = False
