"""Threads for sync commands: as many as block at once, not as many as requests arrive at once.

A batch of short commands is done fastest by one thread, for all of them want the GIL; blocking ones need a thread each.
Nobody knows beforehand which they are. So one thread is called at a time: it takes a job and calls the next. While a
thread computes, the one it called waits for the GIL and the jobs go on in the first; when it blocks, the next comes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ._originals import SimpleQueue

Job = TypeVar("Job")


class Pool(Generic[Job]):
    def __init__(
        self,
        run: Callable[[Job], object],
        threads_max: int,
        stranded: Callable[[BaseException], object] = lambda _: None,
    ) -> None:
        """``run`` must not raise. ``stranded`` is called when there is no thread and none can be started: nobody runs
        the jobs that wait."""
        self._stranded = stranded
        self._run = run
        self._threads_max = threads_max
        # Who takes one out of it, runs it.
        self.jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        # A thread was called and has not come yet.
        self._coming = False
        self._calls: SimpleQueue[None] = SimpleQueue()

    def put(self, jobs: list[Job]) -> None:
        self.jobs.extend(jobs)
        self._call()

    def _call(self) -> None:
        with self._lock:
            if self._coming or not self.jobs:
                return
            hiring = self._idle == 0
            if hiring and self._threads == self._threads_max:
                return
            self._coming = True
            if hiring:
                self._threads += 1
            else:
                self._idle -= 1
        if hiring:
            self._hire()
        else:
            self._calls.put(None)

    def _hire(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"pitwarden-{self._threads}", daemon=True).start()
        # The system has no more threads for this user, or no memory for one. Those that are there run what waits.
        except Exception as error:
            with self._lock:
                self._threads -= 1
                self._coming = False
                stranded = self._threads == 0
            if stranded:
                self._stranded(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._coming = False
            while True:
                try:
                    job = self.jobs.popleft()
                except IndexError:
                    break
                if self.jobs and not self._coming:
                    self._call()
                self._run(job)
            with self._lock:
                # One that came since would have found nobody idle.
                if self.jobs:
                    continue
                self._idle += 1
            self._calls.get()
