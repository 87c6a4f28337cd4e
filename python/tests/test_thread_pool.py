from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pitwarden._thread_pool import ThreadPool

PATIENCE_S = 30.0


def run(jobs: list[Callable[[], object]], threads_max: int) -> ThreadPool[Callable[[], object]]:
    pool: ThreadPool[Callable[[], object]] = ThreadPool(lambda job: job(), threads_max)
    pool.put(jobs)
    return pool


def test_jobs_that_block_all_run_at_once() -> None:
    together = threading.Barrier(20 + 1)
    run([lambda: together.wait(PATIENCE_S)] * 20, threads_max=20)
    together.wait(PATIENCE_S)
    assert not together.broken


def test_a_thread_pool_starts_no_more_threads_than_allowed() -> None:
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


def test_idle_threads_are_woken_before_new_ones_are_started() -> None:
    rounds = 200
    done = threading.Semaphore(0)
    pool: ThreadPool[int] = ThreadPool(lambda _: done.release(), 4)
    before = threading.active_count()
    for number in range(rounds):
        pool.put([number])
        assert done.acquire(timeout=PATIENCE_S)
    assert threading.active_count() - before <= 2


def test_no_job_is_lost_when_many_threads_put_jobs() -> None:
    done = threading.Semaphore(0)
    pool: ThreadPool[int] = ThreadPool(lambda _: done.release(), 8)

    def put_jobs() -> None:
        for number in range(500):
            pool.put([number, number])

    threads = [threading.Thread(target=put_jobs) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4 * 500 * 2):
        assert done.acquire(timeout=PATIENCE_S)


def test_a_job_is_not_lost_when_a_thread_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    first_runs, go, done = threading.Event(), threading.Event(), threading.Semaphore(0)

    def first() -> None:
        first_runs.set()
        assert go.wait(PATIENCE_S)
        done.release()

    pool = run([first], threads_max=4)
    assert first_runs.wait(PATIENCE_S)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more_threads)
        pool.put([done.release, done.release])
        go.set()
        for _ in range(3):
            assert done.acquire(timeout=PATIENCE_S)
    # Once threads can be started again, jobs that block run at the same time.
    together = threading.Barrier(4 + 1)
    pool.put([lambda: together.wait(PATIENCE_S)] * 4)
    together.wait(PATIENCE_S)


def test_a_thread_pool_that_cannot_start_its_first_thread_reports_that(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[str] = []
    pool: ThreadPool[int] = ThreadPool(lambda _: None, 4, lambda error: reports.append(str(error)))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more_threads)
        pool.put([1, 2])
    assert reports == ["can't start new thread"]
    assert list(pool.jobs) == [1, 2]


def no_more_threads(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
