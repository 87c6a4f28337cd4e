"""The errors that commands raise on purpose and callers catch. Each has a code from a fixed list."""

from __future__ import annotations

import enum
import traceback
from types import TracebackType
from typing import ClassVar, Optional

TRACEBACK_MAX_BYTES = 16 * 1024
# Some libraries put whole documents into their messages.
MESSAGE_MAX_BYTES = 4 * 1024
TYPE_MAX_BYTES = 256


class Code(enum.IntEnum):
    """What went wrong: a gRPC status code other than OK."""

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
    """The base class of pitwarden's errors. Raise it in a command to give the caller a code; a Client raises it when a
    request failed. There is a subclass for each code.

    message         what went wrong, in a sentence
    code            the Code; by default that of the class
    type            the qualified name of the exception that the command raised; empty if pitwarden itself refused or
                    lost the request
    traceback       the traceback of that exception, cut to its last 16 KiB; empty like ``type``
    worker_id       the worker that had the request; empty if none had it
    exit_reason     why that worker ended, if its end is the cause; empty otherwise
    retry_after_s   seconds after which trying again may succeed; 0: unknown
    may_have_begun  False if the command has certainly not begun, so that you can safely send the request again
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
        # By default only an exception's positional arguments are pickled.
        return (self.__class__, self.args, self.__dict__)


class RemoteTraceback(Exception):
    """The cause (``__cause__``) of an Error that a Client raised. Shows the traceback in the worker."""

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

# Tracebacks show the name by which you import a class, not the module that defines it.
for _public in (Error, Code, *_CLASS_OF.values()):
    _public.__module__ = "pitwarden"


def error_class(code: Code) -> type[Error]:
    """The subclass for a code; Error itself for UNKNOWN."""
    return _CLASS_OF.get(code, Error)


class Refusal(Exception):
    """Carries an error of pitwarden itself, as opposed to one that a command raised."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


def describe(exception: BaseException) -> Error:
    """The error to send for an exception that a command raised. Its texts are valid UTF-8, and bounded.

    Never raises: this calls user code, such as the exception's __str__, and catches whatever that raises, SystemExit
    included.
    """
    if isinstance(exception, Refusal):
        error = exception.error
        return Error(bounded(error.message, MESSAGE_MAX_BYTES), code=error.code)
    code, message = _code(exception), _message(exception)
    return Error(message, code=code, type=qualified_name(type(exception)), traceback=_traceback(exception))


def bounded(text: str, max_bytes: int) -> str:
    """The text cut to a number of bytes, with lone surrogates escaped so that it can be encoded as UTF-8."""
    # The common case: a short text in ASCII.
    if len(text) <= max_bytes and text.isascii():
        return str(text)
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > max_bytes:
        return encoded[:max_bytes].decode("utf-8", "ignore") + "…"
    return encoded.decode("utf-8")


def qualified_name(cls: type) -> str:
    try:
        return bounded(f"{cls.__module__}.{cls.__qualname__}", TYPE_MAX_BYTES)
    # A metaclass may define properties of these names.
    except BaseException as failure:
        return f"(its name could not be made: {type(failure).__name__})"


def _code(exception: BaseException) -> Code:
    # A subclass may not have called our __init__, or may have overwritten ``code``.
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
    # Keeps the end: it has the exception and the innermost frames.
    return encoded[-TRACEBACK_MAX_BYTES:].decode("utf-8", "ignore")


def _user_frames(exception: BaseException) -> Optional[TracebackType]:
    # Without the outermost frames, which belong to the SDK and tell the author nothing.
    frames = exception.__traceback__
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__package__") == "pitwarden":
        inner = inner.tb_next
    return inner or frames
