"""Runs calls: sync commands in the main thread or a thread pool, async commands on the application's asyncio loop.

With a concurrency of 1 the main thread runs the sync commands, because much code (signal handlers, GUI toolkits, some C
libraries) expects to run there.
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

from . import _codec, _fork_guard
from ._application import Application
from ._call import Call
from ._command import Command
from ._locked_session import LockedSession
from ._thread_pool import ThreadPool
from ._unpatched import SimpleQueue
from .context import Context, Request, enter
from .errors import Code, Error, Refusal, describe

Job = tuple[Call, Command]

# With Python's default of 5 ms, a command that releases the GIL often but briefly can starve the threads that answer
# pings for seconds. With many commands at once the default stays, because frames would otherwise get too small.
SWITCH_INTERVAL_S = 0.0002

# Types of most results. A value of these types cannot be awaited or iterated over asynchronously.
_PLAIN_TYPES = frozenset({dict, list, str, int, float, bool, type(None), tuple, bytes})


class Executor:
    def __init__(
        self,
        application: Application,
        session: LockedSession,
        *,
        retire: Callable[[str], object],
        on_broken: Callable[[str], object],
    ) -> None:
        """To be made in the main thread once the application is loaded: every request begins with a copy of the context
        variables that are set then. ``retire`` gets the reason why the worker should be replaced, ``on_broken`` the
        reason why it cannot go on."""
        self._application = application
        self._session = session
        self._retire = retire
        self._on_broken = on_broken
        self._base_context = contextvars.copy_context()
        # The fork depth of this process. A child that a command forked has a greater depth.
        self._fork_depth = _fork_guard.fork_depth
        # Sync calls that have not begun, for the main thread or the pool.
        self._jobs: deque[Job] = deque()
        self._main_sleeps = False
        self._main_wakes: SimpleQueue[None] = SimpleQueue()
        self._main_released = False
        self._thread_pool: Optional[ThreadPool[Job]] = None
        # Used on the loop only.
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def set_concurrency(self, concurrency: int) -> None:
        """To be called once, before the first ``start``."""
        if concurrency > 1:
            self._thread_pool = ThreadPool(self._run_job, concurrency, self._on_no_thread)
            self._jobs = self._thread_pool.jobs
        else:
            sys.setswitchinterval(SWITCH_INTERVAL_S)

    def run_main_thread(self) -> None:
        """Runs the main thread's calls until ``release_main_thread``."""
        while not self._main_released:
            try:
                job = self._jobs.popleft()
            except IndexError:
                # A result may have been held back for a call that was then returned.
                self._session.flush()
                self._sleep()
            else:
                self._run_job(job)

    def release_main_thread(self) -> None:
        self._main_released = True
        self._main_wakes.put(None)

    def start(self, calls: list[Call]) -> None:
        """Begins the async calls, and queues the sync ones. An unknown command is answered with an error."""
        tasks: list[Job] = []
        jobs: list[Job] = []
        for call in calls:
            command = self._application.commands.get(call.command)
            if command is None:
                self._session.fail(call, self._application.not_found(call.command))
            elif not command.is_async:
                jobs.append((call, command))
            elif self._session.begin(call):
                tasks.append((call, command))
        if tasks:
            self._application.loop.post(self._start_tasks, tasks)
        if self._thread_pool is not None:
            self._thread_pool.put(jobs)
        elif jobs:
            self._jobs.extend(jobs)
            if self._main_sleeps:
                self._main_sleeps = False
                self._main_wakes.put(None)

    def return_waiting(self) -> None:
        """Returns the calls that have not begun to the agent."""
        # A job is handled by the one that takes it out of the queue: this method, or a thread that runs jobs.
        calls: list[Call] = []
        with contextlib.suppress(IndexError):
            while True:
                calls.append(self._jobs.pop()[0])
        self._session.return_calls(calls[::-1])

    def cancel(self, calls: list[Call]) -> None:
        """Cancels the tasks of async calls. Sync commands see the mark in their context, generators between values."""
        if calls and self._application.loop.started:
            self._application.loop.post(self._cancel_tasks, [call.id for call in calls])

    def report(self, request: Request, fraction: float, message: str) -> None:
        # A forked child has the context of its parent's request, but not the parent's link.
        if _fork_guard.fork_depth == self._fork_depth and isinstance(request, Call):
            self._session.report(request, fraction, message)

    def retire(self, reason: str) -> None:
        if _fork_guard.fork_depth == self._fork_depth:
            self._retire(reason)

    def _on_no_thread(self, error: BaseException) -> None:
        self.return_waiting()
        self._retire(f"no thread can be started for its requests: {error}")

    def _sleep(self) -> None:
        self._main_sleeps = True
        # Jobs that came before the flag was set have woken nobody.
        if not self._jobs and not self._main_released:
            self._main_wakes.get()
        self._main_sleeps = False

    def _run_job(self, job: Job) -> None:
        call, command = job
        try:
            if self._session.begin(call):
                # In a copy, so that context variables that one request sets are not seen by the next.
                self._base_context.copy().run(self._run_sync, call, command)
        except BaseException as error:
            self._report_unanswered(call, error)

    def _run_sync(self, call: Call, command: Command) -> None:
        try:
            enter(Context(call, self))
            args, kwargs = _decode_arguments(call)
            value = command.invoke(args, kwargs)
            if type(value) in _PLAIN_TYPES:
                payload, content_type = self._encode_result(value)
            elif command.streams and isinstance(value, Iterator):
                self._send_values(call, value)
                payload, content_type = b"", ""
            elif isinstance(value, (Awaitable, AsyncIterator)) and _fork_guard.fork_depth == self._fork_depth:
                return self._run_on_loop(call, command, value)
            else:
                payload, content_type = self._encode_result(value)
        # BaseException, so that a command that raises SystemExit does not end the worker.
        except BaseException as exception:
            self._fail(call, exception)
        else:
            self._end_if_forked(call)
            # Not with a pool: the thread that takes the next job may run a command that blocks.
            self._session.finish(call, payload, content_type, more=self._thread_pool is None and bool(self._jobs))

    def _send_values(self, call: Call, values: Iterator[Any]) -> None:
        room = threading.Event()
        try:
            for value in values:
                payload, content_type = self._encode_result(value)
                self._end_if_forked(call)
                while not call.cancelled and not self._session.try_add_chunk(call, payload, content_type, room.set):
                    room.wait()
                    room.clear()
                if call.cancelled:
                    raise Refusal(_cancellation(call))
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _run_on_loop(self, call: Call, command: Command, value: Any) -> None:
        """Answers with what a sync function returned to be awaited or iterated over. This happens on the loop, and this
        thread waits for it."""
        answered = threading.Event()
        context = contextvars.copy_context()
        coroutine = self._answer_async(call, command, value)
        self._application.loop.post(self._start_task, context, coroutine, call, answered.set)
        answered.wait()

    def _start_tasks(self, jobs: list[Job]) -> None:
        for call, command in jobs:
            self._start_task(self._base_context, self._run_async(call, command), call)

    def _start_task(
        self,
        context: contextvars.Context,
        coroutine: Coroutine[Any, Any, None],
        call: Call,
        on_answered: Optional[Callable[[], object]] = None,
    ) -> None:
        # A task runs in a copy of the context.
        task = context.run(asyncio.get_running_loop().create_task, coroutine)
        self._tasks[call.id] = task
        task.add_done_callback(functools.partial(self._on_task_done, call, on_answered))

    def _cancel_tasks(self, ids: list[int]) -> None:
        for id in ids:
            task = self._tasks.get(id)
            if task is not None:
                task.cancel()

    def _on_task_done(self, call: Call, on_answered: Optional[Callable[[], object]], task: asyncio.Task[None]) -> None:
        del self._tasks[call.id]
        # Not in the task itself: one that is cancelled before its first step runs none of its code.
        if task.cancelled():
            self._session.fail(call, _cancellation(call))
        elif (error := task.exception()) is not None:
            self._report_unanswered(call, error)
        if on_answered is not None:
            on_answered()

    async def _run_async(self, call: Call, command: Command) -> None:
        enter(Context(call, self))
        try:
            args, kwargs = _decode_arguments(call)
            value = command.invoke(args, kwargs)
        except BaseException as exception:
            self._fail(call, exception)
        else:
            await self._answer_async(call, command, value)

    async def _answer_async(self, call: Call, command: Command, value: Any) -> None:
        try:
            if isinstance(value, Awaitable):
                value = await value
            if command.streams and isinstance(value, (AsyncIterator, Iterator)):
                await self._send_values_async(call, value if isinstance(value, AsyncIterator) else _as_async(value))
                payload, content_type = b"", ""
            else:
                payload, content_type = self._encode_result(value)
        except asyncio.CancelledError:
            self._end_if_forked(call)
            raise
        # SystemExit would end the loop, and every other request on it.
        except BaseException as exception:
            self._fail(call, exception)
        else:
            self._end_if_forked(call)
            self._session.finish(call, payload, content_type)

    async def _send_values_async(self, call: Call, values: AsyncIterator[Any]) -> None:
        room = asyncio.Event()
        wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, room.set)
        try:
            async for value in values:
                payload, content_type = self._encode_result(value)
                self._end_if_forked(call)
                while not self._session.try_add_chunk(call, payload, content_type, wake):
                    await room.wait()
                    room.clear()
                if call.cancelled:
                    raise Refusal(_cancellation(call))
                if not self._session.sends_chunks_of(call):
                    # There always is room for these chunks, so nothing else would let other tasks have their turn.
                    await asyncio.sleep(0)
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()

    def _fail(self, call: Call, exception: BaseException) -> None:
        self._end_if_forked(call, exception)
        error = describe(exception)
        # ``describe`` calls user code, such as the exception's __str__.
        self._end_if_forked(call)
        self._session.fail(call, error)

    def _end_if_forked(self, call: Call, exception: Optional[BaseException] = None) -> None:
        """Ends this process if the command has forked it."""
        if _fork_guard.fork_depth != self._fork_depth:
            _fork_guard.end_child(exception, f"command {call.command}")

    def _report_unanswered(self, call: Call, error: BaseException) -> None:
        """The worker cannot go on: the caller would wait for ever, and so would a stop for the last answer."""
        traceback.print_exception(type(error), error, error.__traceback__)
        self._on_broken(f"a request of {call.command} cannot be answered: {type(error).__name__}")

    def _encode_result(self, value: Any) -> tuple[bytes, str]:
        """Payload and content type. Raises Refusal if the value cannot be encoded or is too large."""
        try:
            payload, content_type = _codec.encode_result(value)
        except Error as error:
            raise Refusal(error) from None
        max_bytes = self._session.payload_max_bytes
        if 0 < max_bytes < len(payload):
            message = f"result: expected at most {max_bytes} bytes (message.max_bytes), got {len(payload)}"
            raise Refusal(Error(message, code=Code.RESOURCE_EXHAUSTED))
        return payload, content_type


async def _as_async(values: Iterator[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


def _decode_arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    try:
        return _codec.decode_arguments(call.payload, call.content_type)
    except Error as error:
        raise Refusal(error) from None


def _cancellation(call: Call) -> Error:
    if call.deadline_s is not None and time.monotonic() >= call.deadline_s:
        return Error("the deadline passed while the command ran", code=Code.DEADLINE_EXCEEDED)
    if call.cancelled:
        return Error("the caller cancelled the request", code=Code.CANCELLED)
    return Error("the command cancelled its own task", code=Code.CANCELLED)
