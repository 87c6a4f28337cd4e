"""Who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple, Optional

# How long a socket may take to accept a connection. An agent that takes longer is suspended or about to end.
CONNECT_TIMEOUT_S = 1.0

_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    pid: int
    uid: int
    gid: int


def peer_of(fd: int) -> Optional[Peer]:
    """The process that made the other end of a unix socket; None: it is no unix socket, or the kernel does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    try:
        with socket.socket(fileno=os.dup(fd)) as duplicate:
            if option is None or duplicate.family != socket.AF_UNIX:
                return None
            raw = duplicate.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    except OSError:
        return None
    return Peer(*_CREDENTIALS.unpack(raw)) if len(raw) == _CREDENTIALS.size else None


def listener_problem(path: str, dialled_path: str, agent_uids: Collection[int]) -> Optional[str]:
    """Why the socket at ``path`` must not be dialled, or None. Raises OSError if nobody listens there.

    A user who has replaced the socket would otherwise get a token that the agent accepts. Connecting to
    ``dialled_path`` to find out costs much less than opening a channel.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        probe.connect(dialled_path)
        listener = peer_of(probe.fileno())
    if listener is None or listener.uid in agent_uids:
        return None
    expected = " or ".join(str(uid) for uid in sorted(agent_uids))
    return f"who listens at {path} is not the agent: expected user {expected}, got {listener.uid}"
