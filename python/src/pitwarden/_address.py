"""Makes gRPC addresses of the paths of unix sockets.

gRPC reads `unix:PATH` as a URI: `#` and `?` end the path and `%` begins an escape, so these are encoded. It then splits
the decoded path at commas, and accepts at most 107 bytes. A path with a comma, or a longer one, is dialled through an
open descriptor of one of its folders: /proc/self/fd/N/REST.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Optional
from urllib.parse import quote, unquote_to_bytes

# The size of sun_path in unix(7), without its final NUL.
PATH_MAX_BYTES = 107

_SAFE = "/!$&'()*+;=:@"

# Channels to the same target share a connection, but the same descriptor may be that of another folder later.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class AddressError(Exception):
    """gRPC cannot dial this path."""


class Address:
    """The ``target`` that a channel dials, with the channel's ``options``. Close the channel before the address."""

    def __init__(self, path: str) -> None:
        """Opens a folder if the path needs that. Raises AddressError if gRPC cannot dial the path, or OSError."""
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
    """The address of a path, for gRPC and in messages."""
    # gRPC would read what follows two slashes as a host.
    path = "/" + path.lstrip("/") if path.startswith("//") else path
    return f"unix:{quote(os.fsencode(path), safe=_SAFE)}"


def path_of(target: str) -> Optional[str]:
    """The path in the address of a unix socket, as gRPC reads it; None: another kind of address."""
    scheme, _, rest = target.partition(":")
    if scheme != "unix":
        return None
    rest = rest.partition("#")[0].partition("?")[0]
    return os.fsdecode(unquote_to_bytes(rest[2:] if rest.startswith("///") else rest))


def _fits(path: str) -> bool:
    return "," not in path and len(os.fsencode(path)) <= PATH_MAX_BYTES


def _split(path: str) -> tuple[str, str]:
    """The folder to open, and the rest of the path. Chooses the topmost folder with which the path fits, since a folder
    that is removed and created again while it is open would not be found again."""
    *folders, name = os.path.abspath(path).split("/")
    for count in range(1, len(folders) + 1):
        rest = "/".join([*folders[count:], name])
        # A descriptor has at most 10 digits.
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
