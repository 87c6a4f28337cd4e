"""What a running command can learn about its request, and tell about its progress."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import Optional, Protocol

from .errors import Cancelled, DeadlineExceeded


class Deadline:
    """When the request's time is up. Without a deadline ``remaining_s`` is infinite."""

    __slots__ = ("_at_s",)

    def __init__(self, at_s: Optional[float]) -> None:
        self._at_s = at_s

    @property
    def is_set(self) -> bool:
        return self._at_s is not None

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return math.inf if self._at_s is None else max(0.0, self._at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return self._at_s is not None and time.monotonic() >= self._at_s


class Request:
    """The part of a context that others may change while the command runs."""

    __slots__ = ("cancelled", "deadline_s", "request_id", "session_id")

    def __init__(self, request_id: str = "", session_id: str = "", deadline_s: Optional[float] = None) -> None:
        self.request_id = request_id
        self.session_id = session_id
        self.deadline_s = deadline_s
        self.cancelled = False


class Worker(Protocol):
    """The worker that runs a request."""

    def report(self, request: Request, fraction: float, message: str) -> None: ...

    def retire(self, reason: str) -> None: ...


class Context:
    """Got with ``pitwarden.context()`` while a command runs."""

    __slots__ = ("_request", "_worker")

    def __init__(self, request: Request, worker: Optional[Worker] = None) -> None:
        self._request = request
        self._worker = worker

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def session_id(self) -> str:
        return self._request.session_id

    @property
    def deadline(self) -> Deadline:
        return Deadline(self._request.deadline_s)

    @property
    def cancelled(self) -> bool:
        """Nobody waits for the result any more: the caller left, or the deadline passed."""
        return self._request.cancelled or self.deadline.passed

    def raise_if_cancelled(self) -> None:
        if self.deadline.passed:
            raise DeadlineExceeded("the request's deadline passed while it ran")
        if self._request.cancelled:
            raise Cancelled("the caller cancelled the request")

    def progress(self, fraction: float, message: str = "") -> None:
        """Evidence of work on a long request. A fraction is 0 to 1; negative where it is unknown."""
        if self._worker is not None:
            self._worker.report(self._request, fraction, message)

    def retire(self, reason: str) -> None:
        """Asks for a fresh worker in place of this one, which is broken or worn out.

        This worker begins no request any more. The requests that run in it end, its stop hooks run, and it leaves; its
        replacement starts at once, without the waiting that follows a crash. ``reason`` stands in the agent's log and
        events.
        """
        if self._worker is not None:
            self._worker.retire(reason)


_current: ContextVar[Context] = ContextVar("pitwarden_context")


def context() -> Context:
    """The context of the command that runs now."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("pitwarden.context() was called outside a command: no request runs here") from None


def current_request_id() -> str:
    entered = _current.get(None)
    return "" if entered is None else entered.request_id


def enter(entered: Context) -> None:
    """To be called in a contextvars.Context that the request has to itself, so nothing has to be undone."""
    _current.set(entered)
