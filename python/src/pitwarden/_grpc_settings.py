"""Settings of gRPC that the link needs. gRPC reads them from the environment, for the whole process.

gRPC reads some of them when it is imported, which the application may do first, and the others when its first channel
is opened. They are in the environment only until then, so that processes that the application starts do not get them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any, NamedTuple, Optional


class Setting(NamedTuple):
    value: str
    # True: also replaces a value that the user has set.
    forced: bool


_SETTINGS = {
    # gRPC would log its internal events on the application's stderr.
    "GRPC_VERBOSITY": Setting("ERROR", forced=False),
    # gRPC's fork handlers start threads in the child, which may then abort or hang even before an exec.
    "GRPC_ENABLE_FORK_SUPPORT": Setting("0", forced=True),
    # gRPC's newer I/O threads gain nothing for a single stream, and took 0.19 ms of the 0.55 ms of a lone request
    # (grpcio 1.85).
    "GRPC_EXPERIMENTS": Setting("-event_engine_client", forced=False),
}

# The values that were in the environment before; None: the variable was not set.
_before: dict[str, Optional[str]] = {}


class _GrpcImport(MetaPathFinder):
    """Finds no module, but is asked before gRPC is imported."""

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: object = None, /) -> None:
        if name == "grpc":
            apply()


_import = _GrpcImport()


def apply_at_import() -> None:
    """Applies the settings when gRPC is first imported, or now if it is imported already."""
    if "grpc" in sys.modules:
        apply()
    elif _import not in sys.meta_path:
        sys.meta_path.insert(0, _import)


def apply() -> None:
    """Puts the settings into the environment, where they stay until ``restore``."""
    for name, setting in _SETTINGS.items():
        users_value = os.environ.get(name)
        if name not in _before and (setting.forced or users_value is None):
            _before[name] = users_value
            os.environ[name] = setting.value


def restore() -> None:
    """Puts the environment back. To be called once the first channel is open: gRPC reads no settings after that."""
    if _import in sys.meta_path:
        sys.meta_path.remove(_import)
    for name, users_value in _before.items():
        # The application has changed the variable since: its value stays.
        if os.environ.get(name) != _SETTINGS[name].value:
            continue
        if users_value is None:
            del os.environ[name]
        else:
            os.environ[name] = users_value
    _before.clear()


def supports_forks() -> bool:
    """True if gRPC was imported with its fork support on."""
    cygrpc: Any = sys.modules.get("grpc._cython.cygrpc")
    return bool(getattr(cygrpc, "_GRPC_ENABLE_FORK_SUPPORT", False))
