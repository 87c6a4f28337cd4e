"""One error, with a closed code: what commands raise on purpose, and what callers catch."""

from __future__ import annotations

import enum
import traceback
from types import TracebackType
from typing import ClassVar, Optional

TRACEBACK_MAX_BYTES = 16 * 1024
# Some libraries put a whole document into a message.
MESSAGE_MAX_BYTES = 4 * 1024
TYPE_MAX_BYTES = 256


class Code(enum.IntEnum):
    """The gRPC status codes that say what went wrong."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(Exception):
    """Raised by a command, it reaches the caller with its code; raised by Client, it is what the caller was told.

    ``type`` and ``traceback`` name the exception that the command raised; both are empty when pitwarden itself refused
    or lost the request. ``worker_id`` had the request, and ``exit_reason`` says why it ended, when that is the cause.
    ``may_have_begun`` is False when the command surely has not begun, so that sending the request again runs it once.
    """

    default_code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        code: Optional[Code] = None,
        type: str = "",
        traceback: str = "",
        worker_id: str = "",
        exit_reason: str = "",
        retry_after_s: float = 0.0,
        may_have_begun: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else Code(code)
        self.type = type
        self.traceback = traceback
        self.worker_id = worker_id
        self.exit_reason = exit_reason
        self.retry_after_s = retry_after_s
        self.may_have_begun = may_have_begun

    def __str__(self) -> str:
        subject = f"{self.type}: " if self.type else ""
        return f"{subject}{self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments alone, which would lose the rest.
        return (self.__class__, self.args, self.__dict__)


class RemoteTraceback(Exception):
    """The cause of an Error that a Client raised: where it was raised in the worker, in words."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback.rstrip()}\n"""'


class Cancelled(Error):
    default_code = Code.CANCELLED


class InvalidArgument(Error):
    default_code = Code.INVALID_ARGUMENT


class DeadlineExceeded(Error):
    default_code = Code.DEADLINE_EXCEEDED


class NotFound(Error):
    default_code = Code.NOT_FOUND


class AlreadyExists(Error):
    default_code = Code.ALREADY_EXISTS


class PermissionDenied(Error):
    default_code = Code.PERMISSION_DENIED


class ResourceExhausted(Error):
    default_code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    default_code = Code.FAILED_PRECONDITION


class Aborted(Error):
    default_code = Code.ABORTED


class OutOfRange(Error):
    default_code = Code.OUT_OF_RANGE


class Unimplemented(Error):
    default_code = Code.UNIMPLEMENTED


class Internal(Error):
    default_code = Code.INTERNAL


class Unavailable(Error):
    default_code = Code.UNAVAILABLE


class DataLoss(Error):
    default_code = Code.DATA_LOSS


class Unauthenticated(Error):
    default_code = Code.UNAUTHENTICATED


_CLASS_OF = {error.default_code: error for error in Error.__subclasses__()}

# Callers are told the name by which they import a class, not the file it stands in.
for _public in (Error, Code, *_CLASS_OF.values()):
    _public.__module__ = "pitwarden"


def error_class(code: Code) -> type[Error]:
    """The class whose code this is; Error itself for UNKNOWN."""
    return _CLASS_OF.get(code, Error)


class Refusal(Exception):
    """Carries an error that pitwarden itself found, to tell it from one that a command raised."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


def describe(exception: BaseException) -> Error:
    """What the caller is told of an exception that a command raised; texts that can be sent, and are not too long.

    Most of what is asked here is answered by user code, which may raise anything again: an exception's __str__ that
    calls sys.exit() does not end the worker.
    """
    if isinstance(exception, Refusal):
        error = exception.error
        return Error(bounded(error.message, MESSAGE_MAX_BYTES), code=error.code)
    code, message = _code(exception), _message(exception)
    return Error(message, code=code, type=qualified_name(type(exception)), traceback=_traceback(exception))


def bounded(text: str, max_bytes: int) -> str:
    """The text without what UTF-8 cannot have, and cut to a size."""
    # Most texts are short and of ASCII.
    if len(text) <= max_bytes and text.isascii():
        return str(text)
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > max_bytes:
        return encoded[:max_bytes].decode("utf-8", "ignore") + "…"
    return encoded.decode("utf-8")


def qualified_name(cls: type) -> str:
    try:
        return bounded(f"{cls.__module__}.{cls.__qualname__}", TYPE_MAX_BYTES)
    # A metaclass may have made properties of these.
    except BaseException as failure:
        return f"(its name could not be made: {type(failure).__name__})"


def _code(exception: BaseException) -> Code:
    # A subclass may not have called our __init__, or have written anything over what it set.
    try:
        return Code(exception.code) if isinstance(exception, Error) else Code.UNKNOWN
    except BaseException:
        return Code.UNKNOWN


def _message(exception: BaseException) -> str:
    try:
        return bounded(str(exception.message if isinstance(exception, Error) else exception), MESSAGE_MAX_BYTES)
    except BaseException as failure:
        return f"(its message could not be made: {type(failure).__name__})"


def _traceback(exception: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(exception), exception, _user_frames(exception))
    except BaseException as failure:
        return f"(the traceback could not be made: {type(failure).__name__})"
    encoded = "".join(lines).encode("utf-8", "backslashreplace")
    # The end names the exception and the innermost frames, so it is the part worth keeping.
    return encoded[-TRACEBACK_MAX_BYTES:].decode("utf-8", "ignore")


def _user_frames(exception: BaseException) -> Optional[TracebackType]:
    # The outermost frames are the SDK's own and tell the author nothing.
    frames = exception.__traceback__
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__package__") == "pitwarden":
        inner = inner.tb_next
    return inner or frames
