"""Runs calls: sync commands in the main thread or in a pool of threads, async ones on the application's loop.

With a concurrency of 1 the main thread runs them, for much code (signal handlers, GUI toolkits, some C libraries)
expects to live there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Optional

from . import _codec, _fork
from ._call import Call
from ._line import Line
from ._originals import SimpleQueue
from ._pool import Pool
from .app import App, Command
from .context import Context, Request, enter
from .errors import Code, Error, Refusal, describe

Job = tuple[Call, Command]

# A command that lets the GIL go often, though for moments only, can starve those that answer pings for seconds with the
# 5 ms that Python has by default. Where many run at once it stays at that, for there it would cut frames too small.
ALONE_GIL_SWITCH_S = 0.0002

# What most commands return. Of these it need not be asked whether they are to be awaited or iterated over.
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None), tuple, bytes})


class Crew:
    def __init__(
        self, app: App, line: Line, *, retire: Callable[[str], object], broken: Callable[[str], object]
    ) -> None:
        """To be made in the main thread, when the application is loaded: requests begin with the context variables that
        are set there. ``broken`` is told why the worker cannot go on."""
        self._app = app
        self._line = line
        self._retire = retire
        self._broken = broken
        self._home = contextvars.copy_context()
        # Of the process that serves; a child that a command forked has another.
        self._generation = _fork.generation
        # Sync ones that have not begun: for the main thread, which sleeps while there are none, or for the pool.
        self._jobs: deque[Job] = deque()
        self._sleeps = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._dismissed = False
        self._pool: Optional[Pool[Job]] = None
        # Touched on the loop alone.
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def resize(self, concurrency: int) -> None:
        """To be called once, before the first start: threads that run something cannot be taken back."""
        if concurrency > 1:
            self._pool = Pool(self._answer, concurrency, self._cannot_run)
            self._jobs = self._pool.jobs
        else:
            sys.setswitchinterval(ALONE_GIL_SWITCH_S)

    def work(self) -> None:
        """For the main thread: runs what there is to run in it, until ``dismiss``."""
        while not self._dismissed:
            try:
                job = self._jobs.popleft()
            except IndexError:
                # What was to come next was taken back.
                self._line.flush()
                self._sleep()
            else:
                self._answer(job)

    def dismiss(self) -> None:
        self._dismissed = True
        self._wake.put(None)

    def start(self, calls: list[Call]) -> None:
        tasks: list[Job] = []
        jobs: list[Job] = []
        for call in calls:
            command = self._app.commands.get(call.command)
            if command is None:
                self._line.fail(call, self._unknown(call))
            elif not command.is_async:
                jobs.append((call, command))
            elif self._line.begin(call):
                tasks.append((call, command))
        if tasks:
            self._app.loop.post(self._start_tasks, tasks)
        if self._pool is not None:
            self._pool.put(jobs)
        elif jobs:
            self._jobs.extend(jobs)
            if self._sleeps:
                self._sleeps = False
                self._wake.put(None)

    def _cannot_run(self, error: BaseException) -> None:
        self.take_back()
        self._retire(f"no thread can be started for its requests: {error}")

    def take_back(self) -> None:
        """Gives back what has not begun. Each job is taken out either here or by who runs it."""
        calls: list[Call] = []
        with contextlib.suppress(IndexError):
            while True:
                calls.append(self._jobs.pop()[0])
        self._line.give_back(calls[::-1])

    def cancel(self, calls: list[Call]) -> None:
        """Sync commands see it in their context, generators between two values; a task is cancelled."""
        if calls and self._app.loop.started:
            self._app.loop.post(self._cancel_tasks, [call.id for call in calls])

    def _sleep(self) -> None:
        self._sleeps = True
        # What came before the flag was up woke nobody.
        if not self._jobs and not self._dismissed:
            self._wake.get()
        self._sleeps = False

    def report(self, request: Request, fraction: float, message: str) -> None:
        # A forked child has the context of its parent's request, but not the parent's line.
        if _fork.generation == self._generation and isinstance(request, Call):
            self._line.report(request, fraction, message)

    def retire(self, reason: str) -> None:
        if _fork.generation == self._generation:
            self._retire(reason)

    def _answer(self, job: Job) -> None:
        call, command = job
        try:
            if self._line.begin(call):
                # What a request sets in its context variables ends with it.
                self._home.copy().run(self._run, call, command)
        except BaseException as error:
            self._cannot_answer(call, error)

    def _run(self, call: Call, command: Command) -> None:
        try:
            enter(Context(call, self))
            args, kwargs = _arguments(call)
            value = command.invoke(args, kwargs)
            if type(value) in _PLAIN:
                payload, content_type = _result(value, self._line.payload_max_bytes)
            elif command.streams and isinstance(value, Iterator):
                self._stream(call, value)
                payload, content_type = b"", ""
            elif isinstance(value, (Awaitable, AsyncIterator)) and _fork.generation == self._generation:
                return self._await_in_loop(call, command, value)
            else:
                payload, content_type = _result(value, self._line.payload_max_bytes)
        # Also SystemExit and the like: a command's end is not the worker's.
        except BaseException as exception:
            self._fail(call, exception)
        else:
            if _fork.generation != self._generation:
                _fork.end(None, f"command {call.command}")
            # In a pool the thread that comes next to this answer may be one that blocks.
            self._line.finish(call, payload, content_type, more=self._pool is None and bool(self._jobs))

    def _fail(self, call: Call, exception: BaseException) -> None:
        if _fork.generation != self._generation:
            _fork.end(exception, f"command {call.command}")
        error = describe(exception)
        # What describes an exception is its author's code again.
        if _fork.generation != self._generation:
            _fork.end(None, f"command {call.command}")
        self._line.fail(call, error)

    def _cannot_answer(self, call: Call, error: BaseException) -> None:
        # Its caller would wait for ever, and so would whoever waits for this worker to be idle.
        traceback.print_exception(type(error), error, error.__traceback__)
        self._broken(f"a request of {call.command} cannot be answered: {type(error).__name__}")

    def _stream(self, call: Call, values: Iterator[Any]) -> None:
        room = threading.Event()
        try:
            for value in values:
                payload, content_type = _result(value, self._line.payload_max_bytes)
                if _fork.generation != self._generation:
                    _fork.end(None, f"command {call.command}")
                while not call.cancelled and not self._line.offer(call, payload, content_type, room.set):
                    room.wait()
                    room.clear()
                if call.cancelled:
                    raise Refusal(_cancelled(call))
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _await_in_loop(self, call: Call, command: Command, value: Any) -> None:
        """A plain function returned something to await: the loop does, and this thread waits for the answer."""
        answered = threading.Event()
        context = contextvars.copy_context()
        self._app.loop.post(self._start_task, context, self._answer_awaited(call, command, value), call, answered.set)
        answered.wait()

    def _start_tasks(self, jobs: list[Job]) -> None:
        for call, command in jobs:
            self._start_task(self._home, self._answer_async(call, command), call)

    def _start_task(
        self,
        context: contextvars.Context,
        coroutine: Coroutine[Any, Any, None],
        call: Call,
        answered: Optional[Callable[[], object]] = None,
    ) -> None:
        # A task has a copy of the context variables to itself.
        task = context.run(asyncio.get_running_loop().create_task, coroutine)
        self._tasks[call.id] = task
        task.add_done_callback(functools.partial(self._task_ended, call, answered))

    def _cancel_tasks(self, ids: list[int]) -> None:
        for id in ids:
            task = self._tasks.get(id)
            if task is not None:
                task.cancel()

    def _task_ended(self, call: Call, answered: Optional[Callable[[], object]], task: asyncio.Task[None]) -> None:
        del self._tasks[call.id]
        # Here and not in the task: one that is cancelled before its first step never runs any of its own code.
        if task.cancelled():
            self._line.fail(call, _cancelled(call))
        elif (error := task.exception()) is not None:
            self._cannot_answer(call, error)
        if answered is not None:
            answered()

    async def _answer_async(self, call: Call, command: Command) -> None:
        enter(Context(call, self))
        try:
            args, kwargs = _arguments(call)
            value = command.invoke(args, kwargs)
        except BaseException as exception:
            self._fail(call, exception)
        else:
            await self._answer_awaited(call, command, value)

    async def _answer_awaited(self, call: Call, command: Command, value: Any) -> None:
        try:
            if isinstance(value, Awaitable):
                value = await value
            if command.streams and isinstance(value, (AsyncIterator, Iterator)):
                await self._stream_async(call, value if isinstance(value, AsyncIterator) else _one_by_one(value))
                payload, content_type = b"", ""
            else:
                payload, content_type = _result(value, self._line.payload_max_bytes)
        except asyncio.CancelledError:
            if _fork.generation != self._generation:
                _fork.end(None, f"command {call.command}")
            raise
        # SystemExit would end the loop, and with it every other request.
        except BaseException as exception:
            self._fail(call, exception)
        else:
            if _fork.generation != self._generation:
                _fork.end(None, f"command {call.command}")
            self._line.finish(call, payload, content_type)

    async def _stream_async(self, call: Call, values: AsyncIterator[Any]) -> None:
        room = asyncio.Event()
        wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, room.set)
        try:
            async for value in values:
                payload, content_type = _result(value, self._line.payload_max_bytes)
                if _fork.generation != self._generation:
                    _fork.end(None, f"command {call.command}")
                while not self._line.offer(call, payload, content_type, wake):
                    await room.wait()
                    room.clear()
                if call.cancelled:
                    raise Refusal(_cancelled(call))
                if not self._line.hears(call):
                    # Waiting for room lets the others on this loop have their turns, but here there always is room.
                    await asyncio.sleep(0)
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()

    def _unknown(self, call: Call) -> Error:
        try:
            self._app.find(call.command)
        except Error as error:
            return error
        raise AssertionError(f"command {call.command} is known")


async def _one_by_one(values: Iterator[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


def _arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    try:
        return _codec.decode_arguments(call.payload, call.content_type)
    except Error as error:
        raise Refusal(error) from None


def _result(value: Any, max_bytes: int) -> tuple[bytes, str]:
    """``max_bytes``: 0 for no bound."""
    try:
        payload, content_type = _codec.encode_result(value)
    except Error as error:
        raise Refusal(error) from None
    if 0 < max_bytes < len(payload):
        most = f"at most {max_bytes} bytes (message.max_bytes)"
        told = f"result: expected {most}, got {len(payload)}"
        raise Refusal(Error(told, code=Code.RESOURCE_EXHAUSTED))
    return payload, content_type


def _cancelled(call: Call) -> Error:
    if call.deadline_s is not None and time.monotonic() >= call.deadline_s:
        return Error("the deadline passed while the command ran", code=Code.DEADLINE_EXCEEDED)
    if call.cancelled:
        return Error("the caller cancelled the request", code=Code.CANCELLED)
    return Error("the command cancelled its own task", code=Code.CANCELLED)
