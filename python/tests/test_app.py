from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import pitwarden

app = pitwarden.App()


@app.command
def add(a: int, b: int = 0) -> int:
    """Adds.

    Two numbers.
    """
    return a + b


@app.command(name="swap-words")
def swap(*, left: str, right: str) -> tuple[str, str]:
    return right, left


@app.command
def count(to: int) -> Iterator[int]:
    yield from range(to)


@app.command
async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@app.command
async def count_later(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@app.command
def inside() -> None:
    add()  # type: ignore[call-arg]


@app.command
def about() -> list[Any]:
    context = pitwarden.context()
    context.progress(0.5, "half")
    context.raise_if_cancelled()
    return [context.request_id, context.cancelled, context.deadline.is_set]


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@app.command
@passing
def wrapped(a: int) -> int:
    return a


@app.command
@passing
async def wrapped_later(a: int) -> int:
    return a


app.command(name="partial")(functools.partial(add, 1))


CALLS = [
    ("add", (1, 2), {}, 3),
    ("add", (), {"a": 1}, 1),
    ("add", (1,), {"b": 2}, 3),
    ("later", ((1, 2),), {}, [1, 2]),
    ("later", ({1: 2},), {}, {"1": 2}),
    ("swap-words", (), {"left": "a", "right": "b"}, ["b", "a"]),
    ("count", (3,), {}, [0, 1, 2]),
    ("later", ({"k": (1,)},), {}, {"k": [1]}),
    ("later", (b"\xff",), {}, b"\xff"),
    ("count_later", (3,), {}, [0, 1, 2]),
    ("about", (), {}, ["", False, False]),
    ("wrapped", (4,), {}, 4),
    ("wrapped_later", (4,), {}, 4),
    ("partial", (4,), {}, 5),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "value"), CALLS, ids=[c[0] for c in CALLS])
def test_call_returns_what_a_caller_would_receive(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
) -> None:
    assert app.call(name, *args, **kwargs) == value


MISMATCHES = [
    ("add", (), {}, "add takes (a: int, b: int = 0), got no arguments: missing a required argument: 'a'"),
    ("add", (1, 2, 3), {}, "got 3 positional arguments"),
    ("add", (), {"a": 1, "z": 2}, "got keyword arguments a, z"),
    ("later", (), {}, "later takes (value: Any)"),
    ("count", (), {}, "count takes (to: int)"),
    ("wrapped", (), {"b": 1}, "wrapped takes (a: int)"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "words"), MISMATCHES)
def test_arguments_that_do_not_fit_are_refused_with_the_signature(
    name: str, args: Any, kwargs: Any, words: str
) -> None:
    with pytest.raises(pitwarden.InvalidArgument) as caught:
        app.call(name, *args, **kwargs)
    assert words in caught.value.message


def test_a_type_error_inside_a_command_is_not_taken_for_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        app.call("inside")


def test_the_error_for_an_unknown_command_suggests_the_nearest_name() -> None:
    with pytest.raises(pitwarden.NotFound, match="no command named 'ad'; did you mean 'add'"):
        app.call("ad")
    with pytest.raises(pitwarden.NotFound, match="the application has no commands"):
        pitwarden.App().call("ad")


@pytest.mark.parametrize(
    ("name", "streams", "is_async"),
    [
        ("add", False, False),
        ("count", True, False),
        ("later", False, True),
        ("count_later", True, True),
        # A sync wrapper: what it returns is known only after the call.
        ("wrapped_later", False, False),
    ],
)
def test_a_command_is_async_or_streams_as_its_function_shows(name: str, streams: bool, is_async: bool) -> None:
    command = app.find(name)
    assert (command.streams, command.is_async) == (streams, is_async)


def test_the_summary_of_a_command_is_the_first_line_of_its_docstring() -> None:
    assert app.find("add").summary == "Adds."
    assert app.find("count").summary == ""


def test_a_name_that_is_taken_or_missing_and_an_object_that_cannot_be_called_are_refused() -> None:
    twice = pitwarden.App()
    twice.command(add)
    with pytest.raises(ValueError, match="two commands are named 'add'"):
        twice.command(add)
    with pytest.raises(TypeError, match="a command must be a function, got int"):
        twice.command(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="has no __name__"):
        twice.command(functools.partial(add, 1))


def test_start_hooks_run_first_to_last_and_stop_hooks_last_to_first_all_on_one_loop() -> None:
    hooked = pitwarden.App()
    seen: list[Any] = []

    @hooked.on_start
    def first() -> None:
        seen.append("start 1")

    @hooked.on_start
    async def second() -> None:
        seen.append(asyncio.get_running_loop())

    @hooked.command
    async def loop_is_the_same() -> bool:
        return asyncio.get_running_loop() is seen[1]

    @hooked.on_stop
    def last() -> None:
        seen.append("stop 1")

    @hooked.on_stop
    async def but_one() -> None:
        seen.append("stop 2")

    with hooked:
        assert hooked.call("loop_is_the_same") is True
    assert [seen[0], *seen[2:]] == ["start 1", "stop 2", "stop 1"]


def test_tasks_left_on_the_loop_are_cancelled_and_awaited_after_the_stop_hooks(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hooked = pitwarden.App()
    tasks = []

    async def flusher() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            print("last batch flushed")

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("the batch is lost")

    @hooked.on_start
    async def begin() -> None:
        tasks.extend([asyncio.create_task(flusher()), asyncio.create_task(fails())])

    @hooked.on_stop
    def end() -> None:
        print("stop hook")

    @hooked.command
    async def ok() -> bool:
        return True

    with hooked:
        pass
    assert capsys.readouterr().out == "stop hook\nlast batch flushed\n"
    assert [record.message.splitlines()[0] for record in caplog.records] == [
        "a task failed when it was cancelled at the end of the application"
    ]
    # The loop still works.
    assert hooked.call("ok") is True


def test_there_is_no_context_outside_a_command() -> None:
    with pytest.raises(RuntimeError, match="outside a command"):
        pitwarden.context()


def test_call_refuses_arguments_that_a_client_could_not_send() -> None:
    for args, kwargs in [((b"x", 1), {}), ((b"x",), {"b": 1}), (({1, 2},), {"b": 1})]:
        with pytest.raises(pitwarden.InvalidArgument, match="arguments must be JSON"):
            app.call("add", *args, **kwargs)
