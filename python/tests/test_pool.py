from __future__ import annotations

import threading
from collections.abc import Callable

from pitwarden._pool import Pool

PATIENCE_S = 30.0


def run(jobs: list[Callable[[], object]], threads_max: int) -> Pool[Callable[[], object]]:
    pool: Pool[Callable[[], object]] = Pool(lambda job: job(), threads_max)
    pool.put(jobs)
    return pool


def test_jobs_that_block_all_run_at_once() -> None:
    together = threading.Barrier(20 + 1)
    run([lambda: together.wait(PATIENCE_S)] * 20, threads_max=20)
    together.wait(PATIENCE_S)
    assert not together.broken


def test_no_more_threads_than_allowed() -> None:
    go, first_two, all_done = threading.Event(), threading.Barrier(2 + 1), threading.Barrier(2 + 1)
    running = threading.Semaphore(2)

    def job() -> None:
        assert running.acquire(blocking=False)
        if not go.is_set():
            first_two.wait(PATIENCE_S)
        go.wait(PATIENCE_S)
        running.release()

    pool = run([job] * 10, threads_max=2)
    first_two.wait(PATIENCE_S)
    go.set()
    pool.put([lambda: all_done.wait(PATIENCE_S)] * 2)
    all_done.wait(PATIENCE_S)
    assert not all_done.broken


def test_threads_that_are_idle_are_called_again() -> None:
    rounds = 200
    done = threading.Semaphore(0)
    pool: Pool[int] = Pool(lambda _: done.release(), 4)
    before = threading.active_count()
    for number in range(rounds):
        pool.put([number])
        assert done.acquire(timeout=PATIENCE_S)
    assert threading.active_count() - before <= 2


def test_no_job_is_lost_among_many_givers() -> None:
    done = threading.Semaphore(0)
    pool: Pool[int] = Pool(lambda _: done.release(), 8)

    def give() -> None:
        for number in range(500):
            pool.put([number, number])

    givers = [threading.Thread(target=give) for _ in range(4)]
    for giver in givers:
        giver.start()
    for _ in range(4 * 500 * 2):
        assert done.acquire(timeout=PATIENCE_S)
