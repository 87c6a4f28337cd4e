"""What the agent tells a worker at its start: environment variables and the secret."""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

from ._orphan_timer import OrphanLimits
from ._secret import Secret, take_secret


class WorkerSettings(NamedTuple):
    # The path of the unix socket to dial.
    link: str
    secret: Secret
    worker_id: str
    # Paths of files; empty: the agent gave none.
    begun: str
    stacks: str
    orphan_limits: OrphanLimits
    resource_limits: str


def take_settings() -> Optional[WorkerSettings]:
    """Reads the settings, and removes what the application must not see. Returns None if no agent started this process.

    Raises SecretError. To be called before the application is loaded.
    """
    begun, stacks = os.environ.pop("PITWARDEN_BEGUN", ""), os.environ.pop("PITWARDEN_STACKS", "")
    link, worker_id = os.environ.get("PITWARDEN_LINK", ""), os.environ.get("PITWARDEN_WORKER_ID", "")
    orphan_limits = OrphanLimits(
        orphan_timeout_s=_take_seconds("PITWARDEN_ORPHAN_TIMEOUT_MS", 60.0),
        drain_timeout_s=_take_seconds("PITWARDEN_DRAIN_TIMEOUT_MS", 30.0),
    )
    resource_limits = os.environ.pop("PITWARDEN_LIMITS", "")
    if not link or not worker_id:
        return None
    return WorkerSettings(link, take_secret(worker_id), worker_id, begun, stacks, orphan_limits, resource_limits)


def _take_seconds(name: str, default_s: float) -> float:
    milliseconds = os.environ.pop(name, "")
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else default_s
