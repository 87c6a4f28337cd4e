from __future__ import annotations

import pickle

import pytest

import pitwarden
from pitwarden.errors import MESSAGE_MAX_BYTES, TRACEBACK_MAX_BYTES, Refusal, describe, error_class


def raised(exception: BaseException) -> pitwarden.Error:
    try:
        raise exception
    except BaseException as caught:
        return describe(caught)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Careless(pitwarden.NotFound):
    def __init__(self) -> None:
        pass


class Outside(pitwarden.Aborted):
    def __init__(self) -> None:
        super().__init__("mine")
        self.code = 99  # type: ignore[assignment]


DESCRIBED = [
    (ValueError("no"), 2, "builtins.ValueError", "no"),
    (KeyError("k"), 2, "builtins.KeyError", "'k'"),
    (pitwarden.NotFound("gone"), 5, "pitwarden.NotFound", "gone"),
    (pitwarden.Error("x", code=pitwarden.Code.ABORTED), 10, "pitwarden.Error", "x"),
    (pitwarden.Error(12), 2, "pitwarden.Error", "12"),  # type: ignore[arg-type]
    (Refusal(pitwarden.InvalidArgument("bad")), 3, "", "bad"),
    (SystemExit(3), 2, "builtins.SystemExit", "3"),
    (ValueError("\ud800"), 2, "builtins.ValueError", "\\ud800"),
    (pitwarden.Internal("\ud800"), 13, "pitwarden.Internal", "\\ud800"),
    (ValueError("é" * 5000), 2, "builtins.ValueError", "é" * (MESSAGE_MAX_BYTES // 2) + "…"),
    (Unprintable(), 2, "test_errors.Unprintable", "(its message could not be made: RuntimeError)"),
    (Careless(), 2, "test_errors.Careless", "(its message could not be made: AttributeError)"),
    (Outside(), 2, "test_errors.Outside", "mine"),
]


@pytest.mark.parametrize(("exception", "code", "type", "message"), DESCRIBED, ids=[d[2] + d[3][:9] for d in DESCRIBED])
def test_an_exception_becomes_an_error_with_code_type_and_bounded_message(
    exception: BaseException, code: int, type: str, message: str
) -> None:
    error = raised(exception)
    assert (error.code, error.type, error.message) == (code, type, message)
    assert ("Traceback" in error.traceback) == bool(type)


def test_a_long_traceback_is_cut_to_its_end() -> None:
    error = raised(ValueError("é" * TRACEBACK_MAX_BYTES + "the end"))
    assert len(error.traceback.encode()) <= TRACEBACK_MAX_BYTES
    assert error.traceback.endswith("the end\n")


def test_every_code_has_an_error_class() -> None:
    for code in pitwarden.Code:
        cls = error_class(code)
        assert (cls.default_code, cls.__module__) == (code, "pitwarden")
        assert cls("m").code == code


def test_an_error_can_be_pickled_with_all_its_attributes() -> None:
    error = pitwarden.Unavailable("lost", worker_id="w-1", exit_reason="oom", retry_after_s=0.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is pitwarden.Unavailable
    assert vars(again) == vars(error)


def test_the_text_of_an_error_begins_with_the_type_of_the_exception() -> None:
    assert str(pitwarden.Error("no", type="builtins.ValueError")) == "builtins.ValueError: no"
    assert str(pitwarden.NotFound("no")) == "no"
