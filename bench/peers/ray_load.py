"""Ray peer: actors called by this driver, on a local Ray which it starts and ends; prints one JSON line.

python ray_load.py --function echo --payload-bytes 128 --in-flight 32 --seconds 2 --workers 2
python ray_load.py --kill
python ray_load.py --start 20
python ray_load.py --idle 20
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import peer_measure
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

WARM_UP_S = 1


@ray.remote(max_restarts=-1, max_task_retries=0)
class Worker:
    """An actor; it runs one call at a time (the default, max_concurrency=1)."""

    def echo(self, body: bytes) -> bytes:
        return body

    def handler_5ms(self, body: bytes) -> bytes:
        time.sleep(0.005)
        return body

    def pid(self) -> int:
        return os.getpid()


def start_workers(count: int, directory: str) -> list[ActorHandle]:
    """Starts a local Ray and its actors, and returns when each has answered."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=directory,
    )
    actors = [Worker.remote() for _ in range(count)]
    ray.get([actor.pid.remote() for actor in actors])
    return actors


def load(actors: list[ActorHandle], asked: argparse.Namespace, seconds: float) -> dict[str, float]:
    """A thread for each request in flight: of threads, asyncio and ray.wait the way with the most requests a second."""
    body = os.urandom(asked.payload_bytes)
    latencies_s: list[list[float]] = [[] for _ in range(asked.in_flight)]
    failures: list[BaseException] = []
    started = time.perf_counter()

    def ask_again_and_again(mine: list[float], actor: ActorHandle) -> None:
        method = getattr(actor, asked.function)
        try:
            while (sent_at := time.perf_counter()) - started < seconds:
                if ray.get(method.remote(body), timeout=60) != body:
                    raise RuntimeError("a worker answered other bytes than it was sent")
                mine.append(time.perf_counter() - sent_at)
        except BaseException as failure:
            failures.append(failure)

    pairs = zip(latencies_s, itertools.cycle(actors))
    threads = [threading.Thread(target=ask_again_and_again, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return peer_measure.load_summary(list(itertools.chain(*latencies_s)), time.perf_counter() - started)


def kill(actor: ActorHandle) -> dict[str, float]:
    """Kills the idle actor's process, and measures until a call to that actor is answered."""
    killed = ray.get(actor.pid.remote())
    time.sleep(1)
    os.kill(killed, signal.SIGKILL)
    return peer_measure.next_answer(
        killed, lambda seconds: ray.get(actor.pid.remote(), timeout=seconds), (RayActorError, GetTimeoutError)
    )


def supervisors() -> list[int]:
    """The pids of Ray's own processes (driver, gcs_server, raylet, agents, monitors), not of the workers."""
    own = [pid for pid in peer_measure.descendants(os.getpid()) if is_supervisor(peer_measure.command_line(pid))]
    return [os.getpid(), *own]


def is_supervisor(command: str) -> bool:
    """Workers are called ray::Worker, ray::Worker.echo or ray::IDLE."""
    return not command.startswith("ray::") or command.endswith("Agent")


def measure(asked: argparse.Namespace, directory: str) -> dict[str, float]:
    actors = start_workers(peer_measure.workers_of(asked), directory)
    if asked.start:
        return {"ms": 1e3 * peer_measure.process_age_s(os.getpid())}
    if asked.idle:
        return peer_measure.idle_cost(supervisors())
    if asked.kill:
        return kill(actors[0])
    load(actors, asked, WARM_UP_S)
    return load(actors, asked, asked.seconds)


def main() -> None:
    """Ray's own messages, which it prints to stdout, go to stderr."""
    asked = peer_measure.options(__doc__)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray_peer_", ignore_cleanup_errors=True))
        stack.callback(ray.shutdown)
        result = measure(asked, directory)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
