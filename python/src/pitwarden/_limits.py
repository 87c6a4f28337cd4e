"""Limits of this process that all its descendants inherit, set before any code of the application runs."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Optional

# Above any time that a process could run, so that it limits nothing.
MARK_BASE = 1 << 62


def mark_of(worker_id: str) -> int:
    """The number by which the agent knows this worker's descendants; its os/tree-mark.ts computes the same."""
    return MARK_BASE + int(hashlib.sha256(worker_id.encode()).hexdigest()[:14], 16)


def mark_descendants(worker_id: str) -> bool:
    """Marks this process and all that it will start by their RLIMIT_RTTIME; False where that cannot be.

    A daemon sheds session, group, parent and environment, but not a resource limit: without privileges a hard limit
    can only be lowered. This one bounds the CPU time of real-time threads, in microseconds: here to 146,000 years.
    """
    if not sys.platform.startswith("linux"):
        return False
    import resource

    mark = mark_of(worker_id)
    try:
        # In an agent that itself runs in a worker there is that one's mark, which only a privileged process can raise.
        resource.setrlimit(resource.RLIMIT_RTTIME, (mark, mark))
    except (OSError, ValueError):
        return False
    return True


def limit_resources(text: str) -> Optional[str]:
    """Applies PITWARDEN_LIMITS, `NAME=NUMBER …`; returns why one could not be, in words.

    ``open_files`` and ``data_bytes`` are limits of each process. ``tasks`` is how many processes and threads this user
    may have beyond those that it has now: the kernel counts them for the user as a whole, and not at all for root. It
    is a soft limit, which ``raise_tasks`` raises when there are more workers.
    """
    if not text:
        return None
    try:
        import resource
    except ImportError:
        return "limits: this system has no resource limits"
    for name, _, number in (word.partition("=") for word in text.split()):
        value = int(number)
        if name == "open_files":
            done = _set(resource.RLIMIT_NOFILE, value)
        elif name == "data_bytes":
            done = _set(resource.RLIMIT_DATA, value)
        elif name == "tasks":
            done = _limit_tasks(value)
        else:
            continue
        if not done:
            return f"limits: {name} could not be set to {value}"
    return None


_tasks_before: Optional[int] = None


def _limit_tasks(value: int) -> bool:
    global _tasks_before
    import resource

    _tasks_before = _tasks_of_user()
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (_within(hard, _tasks_before + value), hard))
    except (OSError, ValueError):
        return False
    return True


def raise_tasks(value: int) -> None:
    """Where ``tasks`` was limited: to so many more than there were then, or, for 0, to any number. Never lowers it."""
    if _tasks_before is None:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == hard:
        return
    wanted = hard if value == 0 else _within(hard, _tasks_before + value)
    if wanted == resource.RLIM_INFINITY or wanted > soft:
        resource.setrlimit(resource.RLIMIT_NPROC, (wanted, hard))


def _set(kind: int, value: int) -> bool:
    """Never higher than what this process has already."""
    import resource

    try:
        _, hard = resource.getrlimit(kind)
        value = _within(hard, value)
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _within(hard: int, value: int) -> int:
    import resource

    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _tasks_of_user() -> int:
    uid = os.getuid()
    return sum(_threads_of(name, uid) for name in os.listdir("/proc") if name.isdecimal())


def _threads_of(pid: str, uid: int) -> int:
    try:
        if os.stat(f"/proc/{pid}").st_uid != uid:
            return 0
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[17])
    # It ended meanwhile.
    except (OSError, ValueError, IndexError):
        return 0
