"""The public App: registers the commands and hooks of an application, and calls commands without an agent."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn, Optional, TypeVar, Union, overload

from . import _codec, _fork_guard
from ._application import Application, Hook
from ._command import Command
from .context import Context, Request, enter
from .errors import Refusal

Function = TypeVar("Function", bound=Callable[..., Any])
HookFunction = TypeVar("HookFunction", bound=Hook)


class App(Application):
    """Holds the commands of your application.

    The agent runs it with ``python -m pitwarden.worker``. In tests, call commands with ``app.call("name", ...)``, which
    needs no agent; ``with app:`` runs the start hooks before and the stop hooks after its block.
    """

    @overload
    def command(self, function: Function, /) -> Function: ...

    @overload
    def command(self, /, *, name: str = "", streams: Optional[bool] = None) -> Callable[[Function], Function]: ...

    def command(
        self, function: Optional[Function] = None, /, *, name: str = "", streams: Optional[bool] = None
    ) -> Union[Function, Callable[[Function], Function]]:
        """Decorator: offers a function to callers, as ``name`` or, by default, under its own name.

        The function may be sync or async. Generator functions stream their values, even inside a decorator. Set
        ``streams`` if the function's kind does not show that: True for a function that returns an iterator, False for a
        decorator that collects the values of the generator inside.

        Raises TypeError for an object that cannot be called or has no name, ValueError for a name that is taken.
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
        """Decorator: runs a function before the worker is ready, for example to load models or open connections.

        The function takes no arguments and may be async. If it raises, the worker does not start.
        """
        self._start_hooks.append(hook)
        return hook

    def on_stop(self, hook: HookFunction) -> HookFunction:
        """Decorator: runs a function when the worker stops, after its last request. The last registered runs first.

        The function takes no arguments and may be async.
        """
        self._stop_hooks.append(hook)
        return hook

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a command in this process, without an agent, and returns its result; for a generator, a list of values.

        Arguments and result are encoded as they would be on their way to and from a worker. Raises NotFound for an
        unknown command, InvalidArgument for arguments that do not fit, Internal for a result that cannot be encoded,
        and what the command itself raises.
        """
        command = self.find(name)
        positional, named = _codec.decode_arguments(*_codec.encode_arguments(args, kwargs))
        try:
            return contextvars.copy_context().run(self._run, command, positional, named)
        except Refusal as refusal:
            raise refusal.error from None

    def run(self) -> NoReturn:
        """For ``python app.py``: serves the agent that started the process, then exits. Without one, prints what to do
        and exits with 2."""
        from .worker import serve_app

        sys.exit(serve_app(self))

    def __enter__(self) -> App:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, command: Command, args: list[Any], kwargs: dict[str, Any]) -> Any:
        enter(Context(Request()))
        if command.is_async:
            return self.loop.run(_invoke_async(command, args, kwargs))
        with _fork_guard.ending_children(f"command {command.name}"):
            value = command.invoke(args, kwargs)
            if isinstance(value, Iterator) and command.streams:
                return [_as_received(item) for item in value]
        if isinstance(value, (Awaitable, AsyncIterator)):
            return self.loop.run(_collect(command, value))
        return _as_received(value)


async def _invoke_async(command: Command, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return await _collect(command, command.invoke(args, kwargs))


async def _collect(command: Command, value: Any) -> Any:
    """The result of a call that returned ``value``; a list if the command streams."""
    if isinstance(value, Awaitable):
        value = await value
    if command.streams and isinstance(value, AsyncIterator):
        return [_as_received(item) async for item in value]
    if command.streams and isinstance(value, Iterator):
        return [_as_received(item) for item in value]
    return _as_received(value)


def _as_received(value: Any) -> Any:
    """The value as a caller would receive it."""
    return _codec.decode_result(*_codec.encode_result(value))
