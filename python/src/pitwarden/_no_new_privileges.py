"""Programs with setuid or file capabilities give no rights to this process and to what it starts."""

from __future__ import annotations

import sys
from typing import Optional

_PR_SET_NO_NEW_PRIVS = 38


def forbid_new_privileges() -> Optional[str]:
    """Sets PR_SET_NO_NEW_PRIVS of prctl(2) for the calling thread and those that it starts. It cannot be undone.

    Returns None, or a sentence about why it could not be set. Does nothing on systems other than Linux.
    """
    # A service manager may have set it already (NoNewPrivileges=yes). Then ctypes, with 300 KiB, is not needed.
    if not sys.platform.startswith("linux") or _is_set():
        return None
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))
    except (OSError, AttributeError) as error:
        return f"no_new_privs could not be set: {error}"
    return f"no_new_privs could not be set: errno {ctypes.get_errno()}" if failed else None


def _is_set() -> bool:
    try:
        with open("/proc/thread-self/status", "rb") as status:
            return b"\nNoNewPrivs:\t1\n" in status.read()
    except OSError:
        return False
