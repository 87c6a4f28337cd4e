"""The author's side: an App, its commands and its hooks."""

from __future__ import annotations

import contextvars
import difflib
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn, Optional, TypeVar, Union, overload

from . import _codec, _fork
from ._loop import LoopThread
from .context import Context, Request, enter
from .errors import InvalidArgument, NotFound, Refusal

Function = TypeVar("Function", bound=Callable[..., Any])


class Command:
    """A named function, with what is worth knowing about it before the first call."""

    __slots__ = ("_wrapped", "function", "is_async", "name", "streams", "summary")

    def __init__(self, name: str, function: Callable[..., Any], streams: Optional[bool] = None) -> None:
        """``streams``: whether it streams its results; None: as the function looks."""
        inner = inspect.unwrap(function)
        self.name = name
        self.function = function
        # The outer function decides where it is called: a plain wrapper may run an async function to its end by itself.
        # When it does not, the coroutine that it returns is awaited (_crew.py).
        self.is_async = _is(function, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        # A guess for a plain wrapper, as most return the generator that they wrap. What came back decides in the end.
        self.streams = _is(inner, inspect.isgeneratorfunction, inspect.isasyncgenfunction) or _is(
            function, inspect.isgeneratorfunction, inspect.isasyncgenfunction
        )
        if streams is not None:
            self.streams = streams
        self.summary = (inspect.getdoc(function) or "").partition("\n")[0]
        self._wrapped = inner is not function

    def invoke(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls the function: a value, a generator, a coroutine or an async generator comes back.

        Arguments are not checked beforehand: Python does that as it calls, and only when it refused them is the
        signature looked at, to say what the command takes.
        """
        try:
            return self.function(*args, **kwargs)
        except TypeError as error:
            raised_by_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
            if raised_by_call or self._wrapped:
                self._refuse_mismatch(args, kwargs)
            raise

    def _refuse_mismatch(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as mismatch:
            message = f"{self.name} takes {_parameters(signature)}, got {_given(args, kwargs)}: {mismatch}"
            raise Refusal(InvalidArgument(message)) from None


def _is(function: Callable[..., Any], *kinds: Callable[[Any], bool]) -> bool:
    # An object with __call__ is what its __call__ is.
    called = type(function).__call__
    return any(kind(function) or kind(called) for kind in kinds)


def _parameters(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=_unquoted(p.annotation)) for p in signature.parameters.values()]
    try:
        return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    # The default values write themselves.
    except BaseException:
        return f"({', '.join(signature.parameters)})"


class _Unquoted(str):
    __slots__ = ()
    __repr__ = str.__str__


def _unquoted(annotation: object) -> object:
    # With `from __future__ import annotations` they are strings, and would be shown as such.
    return _Unquoted(annotation) if isinstance(annotation, str) else annotation


def _given(args: list[Any], kwargs: dict[str, Any]) -> str:
    if kwargs:
        return "keyword arguments " + ", ".join(sorted(kwargs)) + (f" and {len(args)} positional" if args else "")
    if not args:
        return "no arguments"
    return f"{len(args)} positional argument{'s' if len(args) > 1 else ''}"


Hook = Callable[[], Any]
HookFunction = TypeVar("HookFunction", bound=Hook)


class App:
    """Holds the commands of one application.

    The agent runs it as ``python -m pitwarden.worker``; in tests ``app.call("name", ...)`` needs no agent. Used as a
    context manager, ``with app:`` runs the start hooks, and the stop hooks at its end.
    """

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}
        self.loop = LoopThread()
        self._start_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []

    @overload
    def command(self, function: Function, /) -> Function: ...

    @overload
    def command(self, /, *, name: str = "", streams: Optional[bool] = None) -> Callable[[Function], Function]: ...

    def command(
        self, function: Optional[Function] = None, /, *, name: str = "", streams: Optional[bool] = None
    ) -> Union[Function, Callable[[Function], Function]]:
        """Offers a function to callers, under its own name or the one given.

        Generator functions stream their values, also where a decorator wraps them. ``streams`` says it for a function
        that does not look like what it does: True for one that returns an iterator, False for a decorator that collects
        the values of the generator it wraps.
        """

        def register(registered: Function) -> Function:
            if not callable(registered):
                raise TypeError(f"a command must be a function, got {type(registered).__name__}")
            command_name = name or getattr(registered, "__name__", "")
            if not command_name:
                raise TypeError(f"{registered!r} has no __name__: register it with @app.command(name=...)")
            if command_name in self.commands:
                raise ValueError(f"two commands are named {command_name!r}: give one of them another name")
            self.commands[command_name] = Command(command_name, registered, streams)
            return registered

        return register if function is None else register(function)

    def on_start(self, hook: HookFunction) -> HookFunction:
        """Runs the hook before the worker is ready: load models, open connections."""
        self._start_hooks.append(hook)
        return hook

    def on_stop(self, hook: HookFunction) -> HookFunction:
        """Runs the hook when the worker is asked to go, after its last request. Hooks run last first."""
        self._stop_hooks.append(hook)
        return hook

    def find(self, name: str) -> Command:
        """The command of this name; raises NotFound, naming the nearest."""
        command = self.commands.get(name)
        if command is None:
            raise NotFound(f"no command named {name!r}; {_suggestion(name, list(self.commands))}")
        return command

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a command here and now, without an agent, with what a caller would send and receive.

        Arguments and result go through JSON as they would on their way; a command's exceptions come through as they
        are raised. A generator's values come back as a list.
        """
        command = self.find(name)
        positional, named = _codec.decode_arguments(*_codec.encode_arguments(args, kwargs))
        try:
            return contextvars.copy_context().run(self._run, command, positional, named)
        except Refusal as refusal:
            raise refusal.error from None

    def run(self) -> NoReturn:
        """For ``python app.py``: serves the agent that started it, or says what to do without one."""
        from .worker import serve_app

        sys.exit(serve_app(self))

    def start(self) -> None:
        for hook in self._start_hooks:
            self._run_hook(hook)

    def stop(self) -> None:
        """Runs every stop hook and cancels what still runs on the asyncio loop.

        The first exception is raised when all have had their turn.
        """
        failure: Optional[BaseException] = None
        for hook in reversed(self._stop_hooks):
            try:
                self._run_hook(hook)
            # Also SystemExit: one hook's end is not the others'.
            except BaseException as error:
                failure = failure or error
        self.loop.cancel_tasks()
        if failure is not None:
            raise failure

    def __enter__(self) -> App:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, command: Command, args: list[Any], kwargs: dict[str, Any]) -> Any:
        enter(Context(Request()))
        if command.is_async:
            return self.loop.run(_gather(command, args, kwargs))
        with _fork.children_end_here(f"command {command.name}"):
            value = command.invoke(args, kwargs)
            if isinstance(value, Iterator) and command.streams:
                return [_as_received(item) for item in value]
        if isinstance(value, (Awaitable, AsyncIterator)):
            return self.loop.run(_gathered(command, value))
        return _as_received(value)

    def _run_hook(self, hook: Hook) -> None:
        with _fork.children_end_here("a hook"):
            # An async hook runs on the loop that async commands use, so that what it opens belongs to that loop.
            value = self.loop.run(_called(hook)) if _is(hook, inspect.iscoroutinefunction) else hook()
        if inspect.iscoroutine(value):
            self.loop.run(value)


async def _called(hook: Hook) -> Any:
    return await hook()


async def _gather(command: Command, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return await _gathered(command, command.invoke(args, kwargs))


async def _gathered(command: Command, value: Any) -> Any:
    if isinstance(value, Awaitable):
        value = await value
    if command.streams and isinstance(value, AsyncIterator):
        return [_as_received(item) async for item in value]
    if command.streams and isinstance(value, Iterator):
        return [_as_received(item) for item in value]
    return _as_received(value)


def _as_received(value: Any) -> Any:
    return _codec.decode_result(*_codec.encode_result(value))


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known commands: {', '.join(sorted(known)[:20])}" if known else "the application has no commands"
