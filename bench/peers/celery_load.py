"""Celery peer's driver: starts its own Redis and Celery worker, and ends both; prints one JSON line.

export PEER_REDIS_URL=redis://127.0.0.1:6390/0
python celery_load.py --function echo --payload-bytes 128 --in-flight 32 --seconds 2 --workers 2
python celery_load.py --kill
python celery_load.py --start 20
python celery_load.py --idle 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import celery_app
import peer_measure
from celery.exceptions import TimeoutError as NoAnswerError
from celery.exceptions import WorkerLostError
from celery.result import AsyncResult

HERE = Path(__file__).parent
WARM_UP_S = 1
REDIS_PORT = int(celery_app.REDIS_URL.rpartition(":")[2].partition("/")[0])


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {seconds} s")
        time.sleep(0.005)


@contextlib.contextmanager
def running(command: list[str], directory: Path) -> Iterator[int]:
    """Runs a process, its output in a log file, and ends it with SIGTERM, or SIGKILL when it does not end."""
    with (directory / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                # After the loss of a child Celery's parent may wait for it without an end.
                for pid in [process.pid, *peer_measure.descendants(process.pid)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


def redis_listens() -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", REDIS_PORT)) == 0


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[int]:
    """Runs a Redis which keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        sys.exit("redis-server is missing (Debian: apt install redis-server)")
    if redis_listens():
        raise RuntimeError(f"port {REDIS_PORT} is in use; set PEER_REDIS_URL")
    options = ["--bind", "127.0.0.1", "--port", str(REDIS_PORT), "--save", "", "--dir", str(directory)]
    with running(["redis-server", *options], directory) as pid:
        wait_until(redis_listens, "Redis")
        yield pid


def worker_command(workers: int) -> list[str]:
    """A prefork worker; gossip and mingle serve clusters only, and mingle delays the start."""
    options = ["--pool", "prefork", "--concurrency", str(workers), "--without-gossip", "--without-mingle"]
    return [sys.executable, "-m", "celery", "--app", "celery_app", "worker", *options, "--loglevel", "WARNING"]


def wait_for_children(parent: int, workers: int) -> None:
    """Returns when a task was answered and all prefork children are there (a ping sent too early would cost 1 s)."""
    celery_app.echo.delay(b"x").get(timeout=60)
    wait_until(lambda: len(peer_measure.descendants(parent)) >= workers, "children")


def load(asked: argparse.Namespace, seconds: float) -> dict[str, float]:
    """Keeps calls outstanding and takes the answers in their order: threads or callbacks on results halve the rate."""
    body = os.urandom(asked.payload_bytes)
    task = celery_app.app.tasks[asked.function]
    latencies_s: list[float] = []
    calls: deque[tuple[AsyncResult, float]] = deque()
    started = time.perf_counter()
    while True:
        while len(calls) < asked.in_flight and time.perf_counter() - started < seconds:
            sent_at = time.perf_counter()
            calls.append((task.delay(body), sent_at))
        if not calls:
            return peer_measure.load_summary(latencies_s, time.perf_counter() - started)
        result, sent_at = calls.popleft()
        if result.get(timeout=60) != body:
            raise RuntimeError("a worker answered other bytes than it was sent")
        latencies_s.append(time.perf_counter() - sent_at)


def kill(parent: int) -> dict[str, float]:
    """Kills the idle child, and measures until a task sent after that is answered."""
    killed = celery_app.pid.delay().get(timeout=60)
    if killed not in peer_measure.descendants(parent):
        raise RuntimeError(f"process {killed} answered, which is no child of Celery's parent {parent}")
    time.sleep(1)
    os.kill(killed, signal.SIGKILL)
    return peer_measure.next_answer(
        killed, lambda seconds: celery_app.pid.delay().get(timeout=seconds), (NoAnswerError, WorkerLostError)
    )


def measure(asked: argparse.Namespace) -> dict[str, float]:
    workers = peer_measure.workers_of(asked)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celery_peer_")))
        redis_pid = stack.enter_context(redis(directory))
        started = time.perf_counter()
        parent = stack.enter_context(running(worker_command(workers), directory))
        wait_for_children(parent, workers)
        if asked.start:
            return {"ms": 1e3 * (time.perf_counter() - started)}
        if asked.idle:
            return peer_measure.idle_cost([parent, redis_pid])
        if asked.kill:
            return kill(parent)
        load(asked, WARM_UP_S)
        return load(asked, asked.seconds)


if __name__ == "__main__":
    print(json.dumps(measure(peer_measure.options(__doc__))))
