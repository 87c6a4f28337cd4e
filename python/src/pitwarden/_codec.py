"""Decodes and encodes the payloads of requests and results.

JSON is that of RFC 8259. NaN and the infinities, which Python's json module accepts but most other parsers do not, are
refused in both directions, so that the error names them.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from .errors import Internal, InvalidArgument

JSON = "application/json"
BYTES = "application/octet-stream"
# Positional and keyword arguments together: {"args": [positional], "kwargs": {keyword}}.
ARGUMENTS = "application/vnd.pitwarden.arguments+json"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
# Lone surrogates cannot be encoded as UTF-8, but can be escaped in JSON.
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def decode_arguments(payload: bytes, content_type: str) -> tuple[list[Any], dict[str, Any]]:
    """Returns positional and keyword arguments. Raises InvalidArgument."""
    if content_type in ("", JSON):
        if not payload:
            return [], {}
        value = decode(payload)
        if type(value) is dict:
            return [], value
        if type(value) is list:
            return value, {}
        raise InvalidArgument(
            f"arguments must be a JSON object (keyword arguments) or array (positional ones), got {_json_kind(value)}"
        )
    if content_type == BYTES:
        return [payload], {}
    if content_type == ARGUMENTS:
        return _both_kinds(decode(payload))
    raise InvalidArgument(f"content_type must be {JSON}, {BYTES} or {ARGUMENTS}, got {content_type!r}")


def _both_kinds(value: Any) -> tuple[list[Any], dict[str, Any]]:
    if type(value) is dict and value.keys() == {"args", "kwargs"}:
        args, kwargs = value["args"], value["kwargs"]
        if type(args) is list and type(kwargs) is dict:
            return args, kwargs
    raise InvalidArgument(f'arguments of {ARGUMENTS} must be {{"args": array, "kwargs": object}}, got something else')


def decode(payload: bytes) -> Any:
    """Decodes JSON. Raises InvalidArgument."""
    try:
        return _decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as failure:
        raise InvalidArgument(f"the payload must be JSON: {failure}") from None


def encode_result(value: Any) -> tuple[bytes, str]:
    """Returns payload and content type. Raises Internal: a result that cannot be encoded is a fault of the command."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), BYTES
    return encode(value), JSON


def encode(value: Any) -> bytes:
    """Encodes as JSON. Raises Internal."""
    try:
        try:
            return _encode(value).encode("utf-8")
        except UnicodeEncodeError:
            return _encode_ascii(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as failure:
        raise Internal(f"a result must be bytes or JSON, got {type(value).__name__}: {failure}") from None


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, str]:
    """Returns the payload and content type that ``decode_arguments`` decodes. Raises InvalidArgument."""
    if len(args) == 1 and not kwargs and isinstance(args[0], (bytes, bytearray, memoryview)):
        return bytes(args[0]), BYTES
    if not args and not kwargs:
        return b"", JSON
    try:
        if args and kwargs:
            return encode({"args": args, "kwargs": kwargs}), ARGUMENTS
        return encode(list(args) if args else kwargs), JSON
    except Internal:
        raise InvalidArgument(
            "arguments must be JSON (numbers, strings, lists, dicts, no NaN), or one bytes value alone; "
            f"got {', '.join(type(value).__name__ for value in (*args, *kwargs.values()))}"
        ) from None


def decode_result(payload: bytes, content_type: str) -> Any:
    """The value of a result; None for an empty payload. Raises Internal."""
    if content_type == BYTES:
        return payload
    try:
        return decode(payload) if payload else None
    except InvalidArgument as failure:
        raise Internal(f"the result could not be read: {failure.message}") from None


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", str: "a string", int: "a number", float: "a number"}.get(type(value), "a value")
