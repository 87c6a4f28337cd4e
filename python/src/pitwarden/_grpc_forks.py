"""Tells whether gRPC works in this process.

A process that was forked while gRPC ran has none of gRPC's threads, so calls in it would hang. gRPC ends its threads a
few milliseconds after the last channel is closed. A process that is forked after that may use gRPC from the start.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from typing import Any

from ._grpc_settings import supports_forks

# How long a fork waits for gRPC's threads to end once the last channel is closed.
WIND_DOWN_S = 0.5

# How the names of gRPC's threads begin in grpcio 1.60 to 1.85.
_THREAD_NAMES = ("grpc_", "event_engine", "lifeguard", "default-executo", "resolver-execut", "timer_manager")

_TASKS = "/proc/self/task"


class _State:
    def __init__(self) -> None:
        # The SDK's open channels.
        self.channels: weakref.WeakSet[Any] = weakref.WeakSet()
        # True: gRPC's threads may still run although no channel is open.
        self.may_run = False
        # A fork waits for gRPC's threads until then.
        self.wait_until_s = 0.0
        self.runs_at_fork = False
        self.is_unusable = False


_state = _State()


def channel_opened(channel: Any) -> None:
    _state.may_run = True
    _state.channels.add(channel)


def channel_closed(channel: Any) -> None:
    _state.channels.discard(channel)
    _state.wait_until_s = time.monotonic() + WIND_DOWN_S


def is_unusable() -> bool:
    """True if this process was forked while gRPC ran, so that gRPC does not work in it."""
    return _state.is_unusable and not supports_forks()


def _before_fork() -> None:
    _state.runs_at_fork = len(_state.channels) > 0 or (_state.may_run and not _wait_for_threads())


def _after_fork_in_child() -> None:
    _state.is_unusable = _state.is_unusable or _state.runs_at_fork


def _wait_for_threads() -> bool:
    """Waits until gRPC has no threads. Returns False if it still has some when the time is up."""
    while _has_threads():
        # Threads that outlast the wait belong to channels that the application has opened itself.
        if time.monotonic() > _state.wait_until_s:
            return False
        time.sleep(0.001)
    _state.may_run = False
    return True


def _has_threads() -> bool:
    try:
        tasks = os.listdir(_TASKS)
    except OSError:
        # Without /proc nobody knows, so it may have.
        return True
    for task in tasks:
        # OSError: the thread has ended since.
        with contextlib.suppress(OSError), open(f"{_TASKS}/{task}/comm") as name:
            if name.read().startswith(_THREAD_NAMES):
                return True
    return False


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
