from __future__ import annotations

import math
from typing import Any

import pytest

import pitwarden
from pitwarden import _codec

JSON, BYTES = _codec.JSON, _codec.BYTES

ARGUMENTS = [
    (b"", "", [], {}),
    (b"", JSON, [], {}),
    (b'{"a":1}', "", [], {"a": 1}),
    (b'[1,"\xc3\xa9"]', JSON, [1, "é"], {}),
    (b"\x00\xff", BYTES, [b"\x00\xff"], {}),
    (b"", BYTES, [b""], {}),
]


@pytest.mark.parametrize(("payload", "content_type", "args", "kwargs"), ARGUMENTS)
def test_payloads_are_decoded_to_positional_and_keyword_arguments(
    payload: bytes, content_type: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    assert _codec.decode_arguments(payload, content_type) == (args, kwargs)


REFUSED = [
    (b"3", JSON, "arguments must be a JSON object (keyword arguments) or array (positional ones), got a number"),
    (b"null", JSON, "got null"),
    (b"true", JSON, "got a boolean"),
    (b'"x"', JSON, "got a string"),
    (b"{", JSON, "the payload must be JSON: "),
    (b"\xff", JSON, "the payload must be JSON: "),
    (b"[NaN]", JSON, "NaN is not JSON"),
    (b"[-Infinity]", JSON, "-Infinity is not JSON"),
    (b"[" * 100_000, JSON, "the payload must be JSON: "),
    (b"", "text/plain", "application/vnd.pitwarden.arguments+json, got 'text/plain'"),
]


@pytest.mark.parametrize(("payload", "content_type", "words"), REFUSED, ids=[r[2][-20:] for r in REFUSED])
def test_payloads_that_are_not_arguments_are_refused_with_the_cause(
    payload: bytes, content_type: str, words: str
) -> None:
    with pytest.raises(pitwarden.InvalidArgument) as caught:
        _codec.decode_arguments(payload, content_type)
    assert words in caught.value.message


RESULTS = [
    (None, b"null", JSON),
    ("é", '"é"'.encode(), JSON),
    ("\ud800", b'"\\ud800"', JSON),
    ({"a": [1, 2.5, True]}, b'{"a":[1,2.5,true]}', JSON),
    ((1, 2), b"[1,2]", JSON),
    (b"\xff", b"\xff", BYTES),
    (bytearray(b"ab"), b"ab", BYTES),
    (memoryview(b"ab"), b"ab", BYTES),
]


@pytest.mark.parametrize(("value", "payload", "content_type"), RESULTS)
def test_results_are_encoded_as_json_or_bytes(value: Any, payload: bytes, content_type: str) -> None:
    assert _codec.encode_result(value) == (payload, content_type)


def loop() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


@pytest.mark.parametrize("value", [{1, 2}, object(), math.nan, [math.inf], {"a": b"bytes"}, loop()], ids=str)
def test_results_that_are_neither_json_nor_bytes_are_refused(value: Any) -> None:
    with pytest.raises(pitwarden.Internal, match="a result must be bytes or JSON, got"):
        _codec.encode_result(value)


def test_decoded_arguments_equal_those_that_were_encoded() -> None:
    for args, kwargs in [((), {}), ((1, "a"), {}), ((), {"a": None}), ((b"x",), {}), ((1, [2]), {"a": 3})]:
        decoded, named = _codec.decode_arguments(*_codec.encode_arguments(args, kwargs))
        assert (tuple(decoded), named) == (args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [((b"x",), {"a": 2}, "bytes, int"), ((b"x", 1), {}, "bytes, int"), ((), {"a": math.nan}, "float")],
)
def test_arguments_that_are_not_json_are_refused_with_their_types(
    args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(pitwarden.InvalidArgument, match=words):
        _codec.encode_arguments(args, kwargs)


def test_payloads_of_results_are_decoded_or_refused_with_the_cause() -> None:
    assert _codec.decode_result(b"", JSON) is None
    assert _codec.decode_result(b"[1]", JSON) == [1]
    assert _codec.decode_result(b"", BYTES) == b""
    with pytest.raises(pitwarden.Internal, match="the result could not be read"):
        _codec.decode_result(b"{", JSON)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"args":[]}',
        b'{"args":{},"kwargs":{}}',
        b'{"args":[],"kwargs":[]}',
        b'{"args":[],"kwargs":{},"a":1}',
    ],
)
def test_a_malformed_payload_of_positional_and_keyword_arguments_is_refused(payload: bytes) -> None:
    with pytest.raises(pitwarden.InvalidArgument):
        _codec.decode_arguments(payload, _codec.ARGUMENTS)
