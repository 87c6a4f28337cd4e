"""The mark by which the agent finds every process that a worker has started.

A daemon sheds its session, group, parent and environment, but not its resource limits: without privileges a hard limit
can only be lowered. So the worker sets the limit RLIMIT_RTTIME, which every descendant inherits, to a number made from
the worker's id. The agent computes the same number (src/os/process/tree-mark.ts).
"""

from __future__ import annotations

import hashlib
import sys

# Microseconds of CPU time of real-time threads: 146,000 years, so the limit never takes effect.
MARK_BASE = 1 << 62


def mark_of(worker_id: str) -> int:
    """The mark of a worker's descendants: MARK_BASE plus the first 56 bits of the SHA-256 of the worker's id."""
    return MARK_BASE + int(hashlib.sha256(worker_id.encode()).hexdigest()[:14], 16)


def mark_descendants(worker_id: str) -> bool:
    """Marks this process and every process that it will start. Returns False if the system does not allow that."""
    if not sys.platform.startswith("linux"):
        return False
    import resource

    mark = mark_of(worker_id)
    try:
        # Fails if this process already has the mark of another worker, whose agent runs ours: raising it takes root.
        resource.setrlimit(resource.RLIMIT_RTTIME, (mark, mark))
    except (OSError, ValueError):
        return False
    return True
