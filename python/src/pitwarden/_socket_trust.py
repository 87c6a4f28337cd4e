"""Tells whether a socket may be dialled: where other users can write, one of them could put a socket of their own.

The command line makes the same checks (src/os/storage/socket-trust.ts).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Set
from typing import Optional

# Device, inode, owner, mode, time of the last change.
_Identity = tuple[int, int, int, int, int]


class SocketTrust:
    """Checks the socket at a path, and checks again only when the socket, its owner or its mode has changed."""

    def __init__(self, path: str, *, named: bool) -> None:
        """``named``: the user has named the path, and so trusts the owner of its folder."""
        self._path = path
        self._named = named
        self._trusted: Optional[_Identity] = None

    def problem(self) -> Optional[str]:
        """Why the socket must not be dialled, with a remedy; None: it may, or there is none."""
        try:
            found = os.stat(self._path)
            seen = (found.st_dev, found.st_ino, found.st_uid, found.st_mode, found.st_ctime_ns)
        # ValueError: the path has a NUL.
        except (OSError, ValueError):
            seen = None
        if seen is not None and seen == self._trusted:
            return None
        self._trusted = None
        problem = _problem_of(self._path, self._named)
        if problem is None:
            self._trusted = seen
        return problem


def _problem_of(path: str, named: bool) -> Optional[str]:
    folder = os.path.dirname(path) or "."
    trusted_uids = {0, os.geteuid()}
    try:
        inside = os.stat(folder)
        if named or _is_closed_to_others(os.path.dirname(os.path.abspath(folder)), trusted_uids):
            trusted_uids.add(inside.st_uid)
        for found in (os.lstat(folder), inside):
            if found.st_uid not in trusted_uids:
                return _foreign(folder, "folder", found.st_uid, trusted_uids)
        if inside.st_mode & stat.S_IWOTH and not inside.st_mode & stat.S_ISVTX:
            return (
                f"{folder}: expected a folder that other users may not write to, got mode {_mode(inside)}: they could "
                "put a socket of their own there; close it with chmod o-w"
            )
        for found in (os.lstat(path), os.stat(path)):
            if found.st_uid not in trusted_uids:
                return _foreign(path, "socket", found.st_uid, trusted_uids)
        if stat.S_ISSOCK(found.st_mode) and found.st_mode & stat.S_IWOTH and inside.st_mode & stat.S_IXOTH:
            return (
                f"{path}: expected a socket that other users may not write to, got mode {_mode(found)}: they can "
                "command this agent; close it with chmod o-rwx (in a systemd socket unit: SocketMode=0660)"
            )
    except (OSError, ValueError):
        # The path cannot be examined: the attempt to connect says why.
        return None
    return None


def _is_closed_to_others(folder: str, trusted_uids: Set[int]) -> bool:
    """True if only these users can create files in the folder."""
    found = os.stat(folder)
    return found.st_uid in trusted_uids and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _foreign(path: str, kind: str, uid: int, trusted_uids: Set[int]) -> str:
    users = " or ".join(str(each) for each in sorted(trusted_uids))
    return (
        f"{path}: expected a {kind} of user {users}, got one of user {uid}, who may have put it there for callers of "
        "an agent to dial; if you mean that user's agent, name its socket, in a folder of that user: Client(PATH) or "
        "PITWARDEN_SOCKET"
    )


def _mode(found: os.stat_result) -> str:
    return f"0{stat.S_IMODE(found.st_mode):o}"
