"""Decides whether a client sends a request again whose connection broke, and when."""

from __future__ import annotations

import math
import random
import time
from typing import Any, Optional

import grpc

from ._pb import execution_pb2 as pb
from ._socket_trust import SocketTrust
from .errors import FailedPrecondition

# Pauses between two attempts.
_PAUSE_MIN_S = 0.02
_PAUSE_MAX_S = 0.5
_PAUSE_GROWTH = 1.5

# The default of ``repeat_for_s`` for a request without a timeout.
_REPEAT_FOR_S = 60.0

# Codes besides UNAVAILABLE that gRPC reports for a broken connection. How the server closed the stream decides
# which.
_BROKEN_CODES = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_BROKEN_DETAILS = ("RST_STREAM", "Stream removed")
# The code that gRPC reports if no connection could be made.
_REFUSED_DETAILS = ("failed to connect", "DNS resolution failed", "empty address list")


class AgentState:
    """What the clients that share a channel know about its agent."""

    __slots__ = ("trust", "was_reached")

    def __init__(self, trust: Optional[SocketTrust]) -> None:
        """``trust`` checks the agent's unix socket; None: it has none with a path."""
        self.trust = trust
        self.was_reached = False

    def check(self) -> None:
        """To be called before each attempt, because somebody else may listen by now. Raises FailedPrecondition."""
        problem = None if self.trust is None else self.trust.problem()
        if problem is not None:
            raise FailedPrecondition(problem)


class Attempts:
    """The attempts at one request."""

    __slots__ = ("_agent", "_began_s", "_ends_s", "_pause_s", "_remaining_s")

    def __init__(self, timeout_s: Optional[float], repeat_for_s: Optional[float], agent: AgentState) -> None:
        """See ``Client.options``."""
        self._agent = agent
        self._began_s = time.monotonic()
        self._ends_s = math.inf if timeout_s is None else self._began_s + timeout_s
        # How much longer the request may be without a connection.
        default_s = _REPEAT_FOR_S if timeout_s is None else math.inf
        self._remaining_s = default_s if repeat_for_s is None else repeat_for_s
        self._pause_s = _PAUSE_MIN_S

    @property
    def timeout_s(self) -> Optional[float]:
        """How long the next attempt may take; None: no limit."""
        return None if self._ends_s == math.inf else max(0.0, self._ends_s - time.monotonic())

    def wait_for_next(self, failure: Any) -> bool:
        """Pauses and returns True if the request should be sent again; False: the failure is for the caller."""
        if not _is_broken(failure):
            return False
        now_s = time.monotonic()
        lasted_s, was_refused = now_s - self._began_s, _was_refused(failure)
        if was_refused and not self._agent.was_reached:
            return False
        self._agent.was_reached = True
        if was_refused:
            self._remaining_s -= lasted_s
        elif lasted_s > _PAUSE_MAX_S:
            self._pause_s = _PAUSE_MIN_S
        pause_s = min(self._pause_s * random.uniform(0.5, 1.0), self._ends_s - now_s)
        self._remaining_s -= pause_s
        if self._remaining_s < 0:
            return False
        self._pause_s = min(self._pause_s * _PAUSE_GROWTH, _PAUSE_MAX_S)
        time.sleep(max(0.0, pause_s))
        self._began_s = time.monotonic()
        return True


def agent_error(failure: Any) -> Optional[pb.Error]:
    """The agent's error in a gRPC failure; None: gRPC itself has failed."""
    for name, value in failure.trailing_metadata() or ():
        if name == "pitwarden-error-bin":
            return pb.Error.FromString(value)
    return None


def _is_broken(failure: Any) -> bool:
    """True if the connection failed, rather than the request."""
    if agent_error(failure) is not None:
        return False
    code, details = failure.code(), failure.details() or ""
    if code in _BROKEN_CODES:
        return any(broken in details for broken in _BROKEN_DETAILS)
    return code is grpc.StatusCode.UNAVAILABLE


def _was_refused(failure: Any) -> bool:
    """True if there was no connection, so that the request was certainly not sent."""
    return (failure.details() or "").startswith(_REFUSED_DETAILS)
