"""What a worker needs of an application: its commands, its hooks and its asyncio loop."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Optional

from . import _fork_guard
from ._command import Command
from ._loop_thread import LoopThread
from .errors import NotFound

Hook = Callable[[], Any]


class Application:
    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}
        self.loop = LoopThread()
        self._start_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []

    def find(self, name: str) -> Command:
        """The command of this name. Raises NotFound."""
        command = self.commands.get(name)
        if command is None:
            raise self.not_found(name)
        return command

    def not_found(self, name: str) -> NotFound:
        """The error for an unknown command. It suggests the known command with the most similar name."""
        return NotFound(f"no command named {name!r}; {_suggestion(name, list(self.commands))}")

    def start(self) -> None:
        """Runs the start hooks, in the order in which they were registered. Raises what a hook raises."""
        for hook in self._start_hooks:
            self._run_hook(hook)

    def stop(self) -> None:
        """Runs all stop hooks, last registered first, and cancels what still runs on the asyncio loop.

        If hooks raise, raises the first exception once all hooks have run.
        """
        failure: Optional[BaseException] = None
        for hook in reversed(self._stop_hooks):
            try:
                self._run_hook(hook)
            # BaseException, so that a hook that raises SystemExit does not keep the others from running.
            except BaseException as error:
                failure = failure or error
        self.loop.cancel_tasks()
        if failure is not None:
            raise failure

    def _run_hook(self, hook: Hook) -> None:
        is_async = inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
        with _fork_guard.ending_children("a hook"):
            # Async hooks run on the loop of the async commands, so that what they open belongs to that loop.
            value = self.loop.run(_call(hook)) if is_async else hook()
        if inspect.iscoroutine(value):
            self.loop.run(value)


async def _call(hook: Hook) -> Any:
    return await hook()


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known commands: {', '.join(sorted(known)[:20])}" if known else "the application has no commands"
