"""What an application logs, told to the agent with level, logger and request: one entry a record, traceback included.

A record is one line on stderr or stdout: RS (0x1e), and JSON with `level` (a number of the logging module), `logger`,
`request_id` and `message`. src/os/log-lines.ts reads it; a line that is anything else is a line of text.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Optional

from .context import current_request_id

MARK = "\x1e"

# The agent cuts lines at 8 KiB, and of a line that is cut it could not tell the end of the JSON.
LINE_MAX_BYTES = 8 * 1024 - 64
NAME_MAX = 256

_plain = logging.Formatter("%(message)s")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    # Python 3.10 has no brackets here.
    _StreamHandler = logging.StreamHandler


class RecordHandler(_StreamHandler):
    """Writes records as the agent reads them. A formatter that the application chose makes the message."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            formatter = (
                self.formatter if self.formatter is not None and not _says_level_alone(self.formatter) else _plain
            )
            self.stream.write(line(record, formatter.format(record)))
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def line(record: logging.LogRecord, message: str) -> str:
    told = {
        "level": record.levelno,
        "logger": record.name[:NAME_MAX],
        "request_id": current_request_id()[:NAME_MAX],
        "message": message,
    }
    text = json.dumps(told, separators=(",", ":"))
    room = LINE_MAX_BYTES
    while len(text) > LINE_MAX_BYTES:
        # The first lines say what happened, the last ones of a traceback where.
        room = room * 3 // 4
        told["message"] = f"{message[: room // 4]} … {message[-(room - room // 4) :]}"
        text = json.dumps(told, separators=(",", ":"))
    return f"{MARK}{text}\n"


class _Otherwise(RecordHandler):
    """Gets the records that no handler of the application's own gets; a NullHandler does not count."""

    def filter(self, record: logging.LogRecord) -> Any:
        logger: Optional[logging.Logger] = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self and not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return super().filter(record)


def begin() -> None:
    """Before the application is loaded: what it logs without any set-up is told, from INFO on."""
    root = logging.getLogger()
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    logging.lastResort = _Otherwise(sys.stderr)
    set_up = logging.basicConfig

    @functools.wraps(set_up)
    def basic_config(*args: Any, **options: Any) -> None:
        # It does nothing where the root logger has a handler.
        for handler in root.handlers[:]:
            if isinstance(handler, _Otherwise):
                root.removeHandler(handler)
        try:
            set_up(*args, **options)
        finally:
            adopt()

    # A command may set logging up long after the application was loaded.
    logging.basicConfig = basic_config


def adopt() -> None:
    """When the application is loaded: its handlers that write to stdout and stderr write records from now on."""
    root = logging.getLogger()
    if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)
    # A copy: other threads may make loggers meanwhile.
    loggers = [logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    for logger in [root, *loggers]:
        for handler in logger.handlers:
            # Subclasses write as they please.
            if type(handler) is logging.StreamHandler and _descriptor(handler.stream) in (1, 2):
                handler.__class__ = RecordHandler


def _says_level_alone(formatter: logging.Formatter) -> bool:
    """The format of logging.basicConfig: what it adds to the message is in the record anyway."""
    return type(formatter) is logging.Formatter and formatter._fmt == logging.BASIC_FORMAT


def _descriptor(stream: Any) -> Optional[int]:
    with contextlib.suppress(Exception):
        return int(stream.fileno())
    return None
