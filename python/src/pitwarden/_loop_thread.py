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

from . import _fork_guard
from ._notices import notify
from ._unpatched import new_event_loop

_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()


class LoopThread:
    """Starts the thread when it is first used: most applications never need it."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread_id = 0
        self._ended = False
        self._start_lock = threading.Lock()
        # When the probe that is on its way was sent; None: none is.
        self._probe_sent_s: Optional[float] = None
        self._lag_ms = 0
        # Called from the loop's thread, with the reason in a sentence, when the loop cannot go on.
        self.on_end: Optional[Callable[[str], object]] = None
        _all.add(self)

    @property
    def started(self) -> bool:
        return self._loop is not None

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Calls the function on the loop, without waiting for it."""
        self._running_loop().call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs the coroutine on the loop, with the caller's context variables, and waits for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop()).result()

    def cancel_tasks(self) -> None:
        """Cancels all tasks of the loop, as asyncio.run does at its end, and waits until they have ended."""
        if self._is_usable:
            self.run(_cancel_other_tasks())

    def close_generators(self) -> None:
        """Closes async generators that nobody has read to their end. The loop must not be used after that."""
        loop = self._loop
        if loop is not None and self._is_usable:
            self.run(loop.shutdown_asyncgens())

    @property
    def _is_usable(self) -> bool:
        return self._loop is not None and not self._ended and self._thread_id != threading.get_ident()

    def lag_ms(self) -> int:
        """How long the loop took to run the last probe, or has left the present one waiting, in milliseconds; 0 without
        a loop. Also sends the next probe: the lag is measured only when somebody asks for it."""
        loop, now_s = self._loop, time.monotonic()
        if loop is None:
            return 0
        if self._probe_sent_s is not None:
            return max(self._lag_ms, int((now_s - self._probe_sent_s) * 1000))
        self._probe_sent_s = now_s
        try:
            loop.call_soon_threadsafe(self._on_probe, now_s)
        except RuntimeError:
            # The application has closed the loop. The probe never arrives, so the lag grows from here.
            return self._lag_ms
        return self._lag_ms

    def _on_probe(self, sent_s: float) -> None:
        self._lag_ms = int((time.monotonic() - sent_s) * 1000)
        self._probe_sent_s = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._start_lock:
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
            reason = self._run_until_stopped(loop)
        self._ended = True
        notify(reason)
        if self.on_end is not None:
            self.on_end(reason)

    @staticmethod
    def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> str:
        """Runs the loop until the application stops it. Returns the reason why it cannot go on; empty: it can."""
        try:
            with _fork_guard.ending_children("the asyncio loop"):
                loop.run_forever()
            cause = "the application stopped the asyncio loop of its async commands"
        # The only exceptions of a task that asyncio lets out of run_forever.
        except (SystemExit, KeyboardInterrupt) as exception:
            traceback.print_exc()
            cause = f"a task of the application raised {type(exception).__name__} in the asyncio loop"
        except BaseException as exception:
            traceback.print_exc()
            return f"the asyncio loop of the async commands broke: {type(exception).__name__}"
        if loop.is_closed():
            return "the application closed the asyncio loop of its async commands"
        notify(f"{cause}; it goes on")
        return ""

    def _reset_in_child(self) -> None:
        """After a fork, the child has either no loop thread or no other thread."""
        loop, self._loop, self._ended = self._loop, None, False
        self._start_lock = threading.Lock()
        self._probe_sent_s, self._lag_ms = None, 0
        if loop is None or self._thread_id != threading.get_ident():
            return
        # The task that forked may go on until its next await. The loop would then run the parent's other tasks again,
        # and take events from the parent's selector. So the loop's next step ends the child.
        ready = getattr(loop, "_ready", None)
        if isinstance(ready, deque):
            ready.appendleft(asyncio.Handle(_fork_guard.end_child, (None, "an async command"), loop))
        else:
            loop.call_soon(_fork_guard.end_child, None, "an async command")


async def _cancel_other_tasks() -> None:
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
        thread._reset_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
