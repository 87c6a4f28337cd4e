"""gRPC's settings for the whole process, which it reads from the environment: those that the link needs.

gRPC reads some when it is imported, which the application may do first, and the others when its first channel is made.
They are set for that time alone, so that processes that the application starts get the environment as it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any, NamedTuple, Optional


class Setting(NamedTuple):
    value: str
    # False: the user's own value holds.
    forced: bool


_SETTINGS = {
    # gRPC would tell of its own affairs on the application's stderr.
    "GRPC_VERBOSITY": Setting("ERROR", forced=False),
    # What it does around a fork makes threads in the child, which may then abort or hang even before an exec.
    "GRPC_ENABLE_FORK_SUPPORT": Setting("0", forced=True),
    # gRPC's newer I/O threads cost time and give this one stream nothing: of 0.55 ms for a lone request 0.19 ms went
    # there (grpcio 1.85).
    "GRPC_EXPERIMENTS": Setting("-event_engine_client", forced=False),
}

# What stood in the environment instead of what is set now.
_before: dict[str, Optional[str]] = {}


class _GrpcImport(MetaPathFinder):
    """Finds nothing, but sees that gRPC is about to be imported."""

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: object = None, /) -> None:
        if name == "grpc":
            apply()


_import = _GrpcImport()


def apply_at_import() -> None:
    """Settings hold from the first import of gRPC until ``restore``."""
    if "grpc" in sys.modules:
        apply()
    elif _import not in sys.meta_path:
        sys.meta_path.insert(0, _import)


def apply() -> None:
    for name, setting in _SETTINGS.items():
        theirs = os.environ.get(name)
        if name not in _before and (setting.forced or theirs is None):
            _before[name] = theirs
            os.environ[name] = setting.value


def restore() -> None:
    """To be called when the first channel is made: gRPC reads no settings after that."""
    if _import in sys.meta_path:
        sys.meta_path.remove(_import)
    for name, theirs in _before.items():
        # What the application has set since is its own.
        if os.environ.get(name) != _SETTINGS[name].value:
            continue
        if theirs is None:
            del os.environ[name]
        else:
            os.environ[name] = theirs
    _before.clear()


def supports_forks() -> bool:
    cygrpc: Any = sys.modules.get("grpc._cython.cygrpc")
    return bool(getattr(cygrpc, "_GRPC_ENABLE_FORK_SUPPORT", False))
