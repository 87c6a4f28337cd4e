"""Which agent a client calls: the path of the agent's socket."""

from __future__ import annotations

import os
from typing import Optional

from ._address import Address, AddressError, path_of, unix_address
from .errors import InvalidArgument, Unavailable


def socket_path(named: str) -> Optional[str]:
    """The path of the socket that a target names, by default that of this machine's agent; None: no unix socket."""
    if not named:
        return _default_path()
    return named if named.startswith(("/", "./", "../")) else path_of(named)


def socket_address(path: str) -> Address:
    """Raises InvalidArgument if gRPC cannot dial the path, and Unavailable if its folder cannot be opened."""
    try:
        return Address(path)
    except AddressError as error:
        raise InvalidArgument(str(error)) from None
    except OSError as error:
        raise Unavailable(f"{unix_address(path)}: {error}") from None


def _default_path() -> str:
    # Must match the agent's default of runtime_dir.
    if os.getuid() == 0:
        return "/run/pitwarden/agent.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = os.path.join(runtime, "pitwarden") if runtime else f"{_temporary_folder()}/pitwarden-{os.getuid()}"
    return os.path.join(folder, "agent.sock")


def _temporary_folder() -> str:
    """The folder that Node, and so the agent, uses. Python's tempfile chooses another one if it cannot write there."""
    folder = next(filter(None, map(os.environ.get, ("TMPDIR", "TMP", "TEMP"))), "/tmp")
    return folder.rstrip("/")
