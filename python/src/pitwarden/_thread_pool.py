"""Threads for sync commands: as many as block at once, not as many as there are requests.

One thread finishes a batch of short commands fastest, since all of them need the GIL. Commands that block need a thread
each. Nobody knows beforehand which commands block. So a thread that takes a job wakes one other thread: while the first
computes, the second waits for the GIL and the first goes on with the next job; when the first blocks, the second takes
over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ._unpatched import SimpleQueue

Job = TypeVar("Job")


class ThreadPool(Generic[Job]):
    def __init__(
        self,
        run: Callable[[Job], object],
        threads_max: int,
        on_no_thread: Callable[[BaseException], object] = lambda _: None,
    ) -> None:
        """``run`` must not raise. ``on_no_thread`` is called when the pool has no thread and cannot start one, so that
        nothing would run the waiting jobs."""
        self._on_no_thread = on_no_thread
        self._run = run
        self._threads_max = threads_max
        # Whoever takes a job out of the queue runs it.
        self.jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        # True: a thread was woken or started, and has not taken a job yet.
        self._waking = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def put(self, jobs: list[Job]) -> None:
        self.jobs.extend(jobs)
        self._wake_thread()

    def _wake_thread(self) -> None:
        with self._lock:
            if self._waking or not self.jobs:
                return
            starts_thread = self._idle == 0
            if starts_thread and self._threads == self._threads_max:
                return
            self._waking = True
            if starts_thread:
                self._threads += 1
            else:
                self._idle -= 1
        if starts_thread:
            self._start_thread()
        else:
            self._wakes.put(None)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"pitwarden-{self._threads}", daemon=True).start()
        # The system has no more threads for this user, or no memory for one. The existing threads run what waits.
        except Exception as error:
            with self._lock:
                self._threads -= 1
                self._waking = False
                has_no_thread = self._threads == 0
            if has_no_thread:
                self._on_no_thread(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._waking = False
            while True:
                try:
                    job = self.jobs.popleft()
                except IndexError:
                    break
                if self.jobs and not self._waking:
                    self._wake_thread()
                self._run(job)
            with self._lock:
                # A job that was put since then found no idle thread to wake.
                if self.jobs:
                    continue
                self._idle += 1
            self._wakes.get()
