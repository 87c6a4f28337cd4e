"""Whether gRPC works in this process: one that was forked while gRPC ran has none of its threads, and calls would hang.

gRPC ends its threads when the last channel is closed, which takes some milliseconds. A process that is forked after
that may use gRPC as if it had never been used.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from typing import Any

from ._grpc_settings import supports_forks

# How long a fork waits for the threads of channels that were just closed.
WIND_DOWN_S = 0.5

# How the names of gRPC's threads begin, in grpcio 1.60 to 1.85.
_THREADS = ("grpc_", "event_engine", "lifeguard", "default-executo", "resolver-execut", "timer_manager")

_TASKS = "/proc/self/task"


class _State:
    def __init__(self) -> None:
        # The SDK's open channels.
        self.channels: weakref.WeakSet[Any] = weakref.WeakSet()
        # gRPC's threads may still run, though no channel is open.
        self.may_run = False
        # A fork waits for gRPC's threads until this time.
        self.wait_until_s = 0.0
        self.runs_at_fork = False
        self.is_lost = False


_state = _State()


def opened(channel: Any) -> None:
    """The SDK has made a channel."""
    _state.may_run = True
    _state.channels.add(channel)


def closed(channel: Any) -> None:
    _state.channels.discard(channel)
    _state.wait_until_s = time.monotonic() + WIND_DOWN_S


def is_lost() -> bool:
    """gRPC ran in the process of which this one was forked, and does not work here."""
    return _state.is_lost and not supports_forks()


def _before_fork() -> None:
    _state.runs_at_fork = len(_state.channels) > 0 or (_state.may_run and not _has_ended())


def _after_fork_in_child() -> None:
    _state.is_lost = _state.is_lost or _state.runs_at_fork


def _has_ended() -> bool:
    while _has_threads():
        # Later they belong to channels that the application has made itself.
        if time.monotonic() > _state.wait_until_s:
            return False
        time.sleep(0.001)
    _state.may_run = False
    return True


def _has_threads() -> bool:
    try:
        tasks = os.listdir(_TASKS)
    except OSError:
        # The system does not tell.
        return True
    for task in tasks:
        # It may end meanwhile.
        with contextlib.suppress(OSError), open(f"{_TASKS}/{task}/comm") as name:
            if name.read().startswith(_THREADS):
                return True
    return False


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
