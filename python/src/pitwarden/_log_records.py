"""Passes the application's log records to the agent, with level, logger, request id and traceback.

A record is one line on stderr or stdout: RS (0x1e), then JSON with `level` (a number of the logging module), `logger`,
`request_id` and `message`. The agent reads it (src/os/output/log-lines.ts), and treats every other line as text.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Optional

from .context import current_request_id

RECORD_MARK = "\x1e"

# The agent cuts lines at 8 KiB, and could not parse JSON whose end is missing.
LINE_MAX_BYTES = 8 * 1024 - 64
NAME_MAX = 256

_message_only = logging.Formatter("%(message)s")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    # In Python 3.10 the class cannot be subscripted.
    _StreamHandler = logging.StreamHandler


class RecordHandler(_StreamHandler):
    """Writes records in the agent's format. The application's formatter, if it has set one, makes the message."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            formatter = self.formatter
            if formatter is None or _is_basic(formatter):
                formatter = _message_only
            self.stream.write(record_line(record, formatter.format(record)))
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def record_line(record: logging.LogRecord, message: str) -> str:
    """The line for a record. Cuts the middle out of a message that is too long for a line."""
    fields = {
        "level": record.levelno,
        "logger": record.name[:NAME_MAX],
        "request_id": current_request_id()[:NAME_MAX],
        "message": message,
    }
    text = json.dumps(fields, separators=(",", ":"))
    room = LINE_MAX_BYTES
    while len(text) > LINE_MAX_BYTES:
        # The beginning tells what happened, the end of a traceback tells where.
        room = room * 3 // 4
        fields["message"] = f"{message[: room // 4]} … {message[-(room - room // 4) :]}"
        text = json.dumps(fields, separators=(",", ":"))
    return f"{RECORD_MARK}{text}\n"


class _FallbackHandler(RecordHandler):
    """Writes the records for which the application has no handler of its own. A NullHandler does not count as one."""

    def filter(self, record: logging.LogRecord) -> Any:
        logger: Optional[logging.Logger] = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self and not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return super().filter(record)


def install() -> None:
    """To be called before the application is loaded. Passes on its records from INFO up unless it configures
    logging."""
    root = logging.getLogger()
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    logging.lastResort = _FallbackHandler(sys.stderr)
    original = logging.basicConfig

    @functools.wraps(original)
    def basic_config(*args: Any, **options: Any) -> None:
        # basicConfig does nothing if the root logger has a handler.
        for handler in root.handlers[:]:
            if isinstance(handler, _FallbackHandler):
                root.removeHandler(handler)
        try:
            original(*args, **options)
        finally:
            adopt_handlers()

    # A command may configure logging long after the application was loaded.
    logging.basicConfig = basic_config


def adopt_handlers() -> None:
    """Makes the application's handlers for stdout and stderr write records. To be called once it is loaded."""
    root = logging.getLogger()
    if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)
    # A copy, because other threads may create loggers meanwhile.
    loggers = [logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    for logger in [root, *loggers]:
        for handler in logger.handlers:
            # Not those of subclasses: they have a format of their own.
            if type(handler) is logging.StreamHandler and _descriptor(handler.stream) in (1, 2):
                handler.__class__ = RecordHandler


def _is_basic(formatter: logging.Formatter) -> bool:
    """True for the format of logging.basicConfig: all that it adds to the message is in the record anyway."""
    return type(formatter) is logging.Formatter and formatter._fmt == logging.BASIC_FORMAT


def _descriptor(stream: Any) -> Optional[int]:
    with contextlib.suppress(Exception):
        return int(stream.fileno())
    return None
