"""One asyncio loop in a thread of its own, for async commands and hooks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Optional

from . import _fork
from ._originals import new_event_loop
from ._output import say

_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()


class LoopThread:
    """Started by its first use, for most applications never need it."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread_id = 0
        self._ended = False
        self._starting = threading.Lock()
        self._probe_sent_s: Optional[float] = None
        self._lag_ms = 0
        # Called with a sentence, from the loop's thread, when the loop cannot go on.
        self.on_end: Optional[Callable[[str], object]] = None
        _all.add(self)

    @property
    def started(self) -> bool:
        return self._loop is not None

    def post(self, function: Callable[..., object], *args: object) -> None:
        self._running_loop().call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for the coroutine, which sees the caller's context variables."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop()).result()

    def cancel_tasks(self) -> None:
        """Cancels what still runs on the loop, as asyncio.run does at its end, and waits until it has ended."""
        if self._answers:
            self.run(_cancel_all_but_this())

    def close_generators(self) -> None:
        """The same for async generators that nobody has read to their end. The loop is not used any more after that."""
        loop = self._loop
        if loop is not None and self._answers:
            self.run(loop.shutdown_asyncgens())

    @property
    def _answers(self) -> bool:
        return self._loop is not None and not self._ended and self._thread_id != threading.get_ident()

    def lag_ms(self) -> int:
        """How long the loop last took to come round; asking also measures again, so nothing polls."""
        loop, now_s = self._loop, time.monotonic()
        if loop is None:
            return 0
        if self._probe_sent_s is not None:
            return max(self._lag_ms, int((now_s - self._probe_sent_s) * 1000))
        self._probe_sent_s = now_s
        try:
            loop.call_soon_threadsafe(self._probed, now_s)
        except RuntimeError:
            # The application closed the loop: the probe is never answered, so the lag grows from here.
            return self._lag_ms
        return self._lag_ms

    def _probed(self, sent_s: float) -> None:
        self._lag_ms = int((time.monotonic() - sent_s) * 1000)
        self._probe_sent_s = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                loop = new_event_loop()
                try:
                    threading.Thread(target=self._serve, args=(loop,), name="pitwarden-asyncio", daemon=True).start()
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._thread_id = threading.get_ident()
        asyncio.set_event_loop(loop)
        reason = ""
        while not reason:
            reason = self._serve_once(loop)
        self._ended = True
        say(reason)
        if self.on_end is not None:
            self.on_end(reason)

    @staticmethod
    def _serve_once(loop: asyncio.AbstractEventLoop) -> str:
        """Runs the loop until the application stops it; returns why it cannot go on, or nothing."""
        try:
            with _fork.children_end_here("the asyncio loop"):
                loop.run_forever()
            what = "the application stopped the asyncio loop of its async commands"
        # asyncio lets these two, and only these, out of a task that the application started.
        except (SystemExit, KeyboardInterrupt) as exception:
            traceback.print_exc()
            what = f"a task of the application raised {type(exception).__name__} in the asyncio loop"
        except BaseException as exception:
            traceback.print_exc()
            return f"the asyncio loop of the async commands broke: {type(exception).__name__}"
        if loop.is_closed():
            return "the application closed the asyncio loop of its async commands"
        say(f"{what}; it goes on")
        return ""

    def _forked(self) -> None:
        """In a child of the process that runs the loop: the child has no such thread, or is nothing but that thread."""
        loop, self._loop, self._ended = self._loop, None, False
        self._starting = threading.Lock()
        self._probe_sent_s, self._lag_ms = None, 0
        if loop is None or self._thread_id != threading.get_ident():
            return
        # The task that forked may go on to its next await. The loop would then run other tasks, as the parent does too,
        # and take events out of the parent's selector. So the loop's next step ends the child.
        ready = getattr(loop, "_ready", None)
        if isinstance(ready, deque):
            ready.appendleft(asyncio.Handle(_fork.end, (None, "an async command"), loop))
        else:
            loop.call_soon(_fork.end, None, "an async command")


async def _cancel_all_but_this() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            message = "a task failed when it was cancelled at the end of the application"
            loop.call_exception_handler({"message": message, "exception": error, "task": task})


def _after_fork_in_child() -> None:
    for thread in _all:
        thread._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
