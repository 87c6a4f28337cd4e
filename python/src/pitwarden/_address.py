"""How the path of a unix socket becomes a gRPC address.

gRPC reads `unix:PATH` as a URI: `#` and `?` end the path, `%` begins an escape, so these are encoded. It then splits
the decoded path at commas, and takes at most 107 bytes. A path with a comma, or a longer one, is dialled through a
descriptor of one of its folders: /proc/self/fd/N/REST.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Optional
from urllib.parse import quote, unquote_to_bytes

# sun_path of unix(7) without its final NUL.
PATH_MAX_BYTES = 107

_SAFE = "/!$&'()*+;=:@"

# Channels to one target share their connection, but a descriptor's number may be another folder's later.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class AddressError(Exception):
    """gRPC cannot dial this path."""


class Address:
    """Where a channel dials: ``target``, which is the socket at ``path``. Close the channel before this."""

    def __init__(self, path: str) -> None:
        """Opens a folder where that is needed: raises AddressError or OSError."""
        self.path = path
        self.options: tuple[tuple[str, Any], ...] = ()
        self._close: Optional[Callable[[], object]] = None
        if not _fits(path):
            folder, rest = _split(path)
            descriptor = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
            self._close = weakref.finalize(self, os.close, descriptor)
            self.path = _through(descriptor, rest)
            self.options = _OWN_CONNECTION
        self.target = unix_address(self.path)

    def close(self) -> None:
        if self._close is not None:
            self._close()


def unix_address(path: str) -> str:
    """The address of this path, for gRPC and for people."""
    # gRPC would take what follows two slashes for a host.
    path = "/" + path.lstrip("/") if path.startswith("//") else path
    return f"unix:{quote(os.fsencode(path), safe=_SAFE)}"


def path_of(target: str) -> Optional[str]:
    """The path that gRPC finds in an address; None: it is not that of a unix socket."""
    scheme, _, rest = target.partition(":")
    if scheme != "unix":
        return None
    rest = rest.partition("#")[0].partition("?")[0]
    return os.fsdecode(unquote_to_bytes(rest[2:] if rest.startswith("///") else rest))


def _fits(path: str) -> bool:
    return "," not in path and len(os.fsencode(path)) <= PATH_MAX_BYTES


def _split(path: str) -> tuple[str, str]:
    """The folder to open and the rest of the path. The folder is the topmost that will do: a folder that is removed and
    made again while it is open is not found again."""
    *folders, name = os.path.abspath(path).split("/")
    for count in range(1, len(folders) + 1):
        rest = "/".join([*folders[count:], name])
        # No process has more than 10 digits of descriptors.
        if _fits(_through(10**10, rest)):
            break
    else:
        raise AddressError(
            f"{path}: expected a socket whose own name has no comma and at most 80 bytes, for gRPC takes no other; "
            "name it by a symbolic link"
        )
    if not os.path.isdir("/proc/self/fd"):
        raise AddressError(
            f"{path}: expected a path without commas and of at most {PATH_MAX_BYTES} bytes, for gRPC takes no other "
            "where there is no /proc; name it by a symbolic link"
        )
    return "/".join(folders[:count]) or "/", rest


def _through(descriptor: int, rest: str) -> str:
    return f"/proc/self/fd/{descriptor}/{rest}"
