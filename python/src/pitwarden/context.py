"""What a running command can learn about its request, and report to its caller and its agent."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import Optional, Protocol

from .errors import Cancelled, DeadlineExceeded


class Deadline:
    """When the time of a request is up. A request need not have a deadline."""

    __slots__ = ("_at_s",)

    def __init__(self, at_s: Optional[float]) -> None:
        self._at_s = at_s

    @property
    def is_set(self) -> bool:
        """True if the request has a deadline."""
        return self._at_s is not None

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0; infinite without a deadline."""
        return math.inf if self._at_s is None else max(0.0, self._at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        """True if the time is up; always False without a deadline."""
        return self._at_s is not None and time.monotonic() >= self._at_s


class Request:
    """The state of a request that the worker may change while its command runs."""

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
    """A running command's view of its request. Get it with ``pitwarden.context()``."""

    __slots__ = ("_request", "_worker")

    def __init__(self, request: Request, worker: Optional[Worker] = None) -> None:
        self._request = request
        self._worker = worker

    @property
    def request_id(self) -> str:
        """The request's id: its caller's, or one that was made for it."""
        return self._request.request_id

    @property
    def session_id(self) -> str:
        """The session that the caller named; empty if it named none."""
        return self._request.session_id

    @property
    def deadline(self) -> Deadline:
        """The request's deadline."""
        return Deadline(self._request.deadline_s)

    @property
    def cancelled(self) -> bool:
        """True if nobody waits for the result any more: the caller has left, or the deadline has passed."""
        return self._request.cancelled or self.deadline.passed

    def raise_if_cancelled(self) -> None:
        """Raises DeadlineExceeded if the deadline has passed, or Cancelled if the caller has left."""
        if self.deadline.passed:
            raise DeadlineExceeded("the request's deadline passed while it ran")
        if self._request.cancelled:
            raise Cancelled("the caller cancelled the request")

    def progress(self, fraction: float, message: str = "") -> None:
        """Reports how far the request is, to its caller and as evidence that the worker is not hung.

        ``fraction`` is 0 to 1, or negative if it is unknown. Only the latest report is kept. The message is cut at 1
        KiB.
        """
        if self._worker is not None:
            self._worker.report(self._request, fraction, message)

    def retire(self, reason: str) -> None:
        """Asks the agent to replace this worker, because it is broken or worn out.

        The worker begins no more requests, finishes the running ones, runs its stop hooks and exits. Its replacement
        starts at once, without the back-off that follows a crash. ``reason`` appears in the agent's log and events; it
        is cut at 1 KiB.
        """
        if self._worker is not None:
            self._worker.retire(reason)


_current: ContextVar[Context] = ContextVar("pitwarden_context")


def context() -> Context:
    """The context of the running command. Raises RuntimeError outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("pitwarden.context() was called outside a command: no request runs here") from None


def current_request_id() -> str:
    """The id of the running request; empty outside of one."""
    current = _current.get(None)
    return "" if current is None else current.request_id


def enter(entered: Context) -> None:
    """Makes this the current context, for good: call it in a contextvars.Context that only this request uses."""
    _current.set(entered)
