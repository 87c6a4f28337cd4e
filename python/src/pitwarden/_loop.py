"""One asyncio loop in a thread of its own, for async commands and hooks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, Callable, Optional


class LoopThread:
    """Started by its first use, for most applications never need it."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._starting = threading.Lock()
        self._probe_sent_s: Optional[float] = None
        self._lag_ms = 0

    def post(self, function: Callable[..., object], *args: object) -> None:
        self._running_loop().call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for the coroutine, which sees the caller's context variables."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop()).result()

    def lag_ms(self) -> int:
        """How long the loop last took to come round; asking also measures again, so nothing polls."""
        loop, now_s = self._loop, time.monotonic()
        if loop is None:
            return 0
        if self._probe_sent_s is not None:
            return max(self._lag_ms, int((now_s - self._probe_sent_s) * 1000))
        self._probe_sent_s = now_s
        loop.call_soon_threadsafe(self._probed, now_s)
        return self._lag_ms

    def _probed(self, sent_s: float) -> None:
        self._lag_ms = int((time.monotonic() - sent_s) * 1000)
        self._probe_sent_s = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._serve, args=(self._loop,), name="pitwarden-asyncio", daemon=True).start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
