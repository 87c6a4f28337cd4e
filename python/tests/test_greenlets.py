"""gevent and eventlet: a worker lives with what they replace, and refuses where it cannot. They are no requirements of
the tests, which are skipped without them: `pip install gevent eventlet`."""

from __future__ import annotations

import pytest
from fake_agent import FakeAgent

from pitwarden import _unpatched


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
@pytest.mark.parametrize("args", [None, ("patched.py",)], ids=["loaded", "run"])
def test_greenlets_for_threads_are_refused_at_once(
    agent: FakeAgent, package: str, args: tuple[str, ...] | None
) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    code, _, stderr = agent.spawn("patched:app", args=args, TEST_PATCH=f"{package} threads").exit()
    assert code == 3
    assert f"{package} has put greenlets in the place of threads" in stderr


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_all_but_threads_may_be_replaced(agent: FakeAgent, package: str, concurrency: int) -> None:
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
def test_a_debugger_that_wraps_threads_is_no_greenlet(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    def start_new_thread() -> None: ...

    start_new_thread.__module__ = module
    monkeypatch.setattr("_thread.start_new_thread", start_new_thread)
    assert _unpatched.thread_patcher() == package
