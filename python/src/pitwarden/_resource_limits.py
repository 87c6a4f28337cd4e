"""Resource limits that the agent sets for this process and its descendants, before any code of the application runs."""

from __future__ import annotations

import os
from typing import Optional

# Tasks that the user had when ``tasks`` was limited; None: ``tasks`` is not limited.
_tasks_before: Optional[int] = None


def limit_resources(text: str) -> Optional[str]:
    """Applies PITWARDEN_LIMITS, `NAME=NUMBER …`. Returns None, or a sentence about the first limit that failed.

    ``open_files`` and ``data_bytes`` limit each process. ``tasks`` is how many processes and threads this user may have
    beyond those that it has now. The kernel counts tasks for the user as a whole, and does not count those of root. The
    limit is a soft one, so that ``raise_tasks`` can raise it when there are more workers. Unknown names are ignored.
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


def raise_tasks(value: int) -> None:
    """Raises the limit of ``tasks`` to ``value`` more than the user had when it was set; 0: as far as possible.

    Does nothing if ``tasks`` was not limited, and never lowers the limit.
    """
    if _tasks_before is None:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == hard:
        return
    wanted = hard if value == 0 else _within(hard, _tasks_before + value)
    if wanted == resource.RLIM_INFINITY or wanted > soft:
        resource.setrlimit(resource.RLIMIT_NPROC, (wanted, hard))


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


def _set(kind: int, value: int) -> bool:
    """Sets a soft and hard limit, at most to the present hard limit. Returns False if the system refuses."""
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
    # The process has ended since.
    except (OSError, ValueError, IndexError):
        return 0
