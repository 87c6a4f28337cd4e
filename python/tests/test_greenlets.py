"""Workers under gevent and eventlet. Tests are skipped if these are not installed: `pip install gevent eventlet`."""

from __future__ import annotations

import pytest
from fake_agent import FakeAgent

from pitwarden import _unpatched


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
@pytest.mark.parametrize("args", [None, ("patched.py",)], ids=["loaded", "run"])
def test_a_worker_whose_threads_are_greenlets_does_not_start(
    agent: FakeAgent, package: str, args: tuple[str, ...] | None
) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    code, _, stderr = agent.spawn("patched:app", args=args, TEST_PATCH=f"{package} threads").exit()
    assert code == 3
    assert f"{package} has put greenlets in the place of threads" in stderr


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_worker_runs_with_everything_but_threads_patched(agent: FakeAgent, package: str, concurrency: int) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    worker = agent.spawn("patched:app", TEST_PATCH=package, PYTHONWARNINGS="ignore")
    link = worker.attach(concurrency)
    for _ in range(5):
        assert link.value("hi") == "hi"
        assert link.value("later") == "later"
    assert link.ping(1).in_flight == 0
    agent.kill()
    agent.start()
    again = worker.attach(concurrency)
    assert again.value("hi") == "hi"
    again.stop()
    assert worker.exit()[0] == 0


@pytest.mark.parametrize(
    ("module", "package"),
    [("_thread", ""), ("gevent.thread", "gevent"), ("eventlet.green.thread", "eventlet"), ("debugger.threads", "")],
)
def test_only_gevent_and_eventlet_count_as_thread_patchers(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    def start_new_thread() -> None: ...

    start_new_thread.__module__ = module
    monkeypatch.setattr("_thread.start_new_thread", start_new_thread)
    assert _unpatched.thread_patcher() == package
