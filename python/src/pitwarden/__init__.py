"""Write Python workers for the pitwarden agent, and call them."""

from pkgutil import extend_path
from typing import TYPE_CHECKING

from ._version import __version__
from .app import App
from .context import Context, Deadline, context
from .errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    Code,
    DataLoss,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from .telemetry import emit, span

# Modules that you generate from our protos are named pitwarden.v1, and may be installed in a folder of their own.
__path__ = extend_path(__path__, __name__)

if TYPE_CHECKING:
    from .client import Client

__all__ = [
    "Aborted",
    "AlreadyExists",
    "App",
    "Cancelled",
    "Client",
    "Code",
    "Context",
    "DataLoss",
    "Deadline",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "__version__",
    "context",
    "emit",
    "span",
]


def __getattr__(name: str) -> object:
    # Imported on first use: Client imports grpc, which a worker must not do before its application is loaded.
    if name == "Client":
        from .client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
