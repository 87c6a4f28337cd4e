"""User code that misbehaves: the worker goes on, or reports why it cannot."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from fake_agent import FakeAgent

from pitwarden._pb.link_pb2 import AgentFrame


@pytest.mark.parametrize("concurrency", [1, 4])
def test_each_request_has_its_own_copy_of_the_context_variables(agent: FakeAgent, concurrency: int) -> None:
    link = agent.spawn("hostile:app").attach(concurrency)
    for command in ("login", "alogin"):
        assert link.value(command, "alice") == "alice"
    streamed = link.request("login_stream", "alice")
    link.result(streamed)
    assert link.chunks(streamed) == ["alice"]
    # All requests see what the import has set. What one request sets is not seen by the next.
    for command in ("who", "awho"):
        assert (command, link.value(command)) == (command, ["nobody", "billing"])
    streamed = link.request("who_stream")
    link.result(streamed)
    assert link.chunks(streamed) == ["nobody", "billing"]


FAILURES = {
    "fail": (2, "hostile.Odd", "(its message could not be made: SystemExit)"),
    "async_fail": (2, "hostile.Odd", "(its message could not be made: SystemExit)"),
    "named": (2, "hostile.Caf\\udce9", "closed"),
    "unsendable": (13, "", "a result must be bytes or JSON, got Cafexxx"),
    "odd_items": (2, "builtins.SystemExit", "9"),
    "nameless": (2, "(its name could not be made: SystemExit)", "so?"),
}


def test_failures_that_cannot_be_described_are_still_reported(agent: FakeAgent) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    for command, (code, type, message) in FAILURES.items():
        error = link.call(command).error
        assert (command, error.code, error.type) == (command, code, type)
        assert error.message.startswith(message)
        assert len(error.message) < 5000
    assert "odd_default takes" in link.call("odd_default", b=1).error.message
    reported = link.request("report", "reported")
    assert len(link.progress(reported).message) < 1100
    (agent.dir / "reported").touch()
    link.result(reported)
    assert link.value("pid") == worker.process.pid


def test_every_stop_hook_runs_even_if_one_calls_sys_exit(agent: FakeAgent) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    link.stop()
    code, stdout, stderr = worker.exit()
    assert (code, stdout) == (0, "first stop hook\n")
    assert "a stop hook failed" in stderr


@pytest.mark.parametrize(
    ("command", "notice"),
    [
        ("task_that_exits", "a task of the application raised SystemExit in the asyncio loop; it goes on"),
        ("stop_loop", "the application stopped the asyncio loop of its async commands; it goes on"),
    ],
)
def test_the_asyncio_loop_goes_on_when_a_task_exits_or_stops_it(agent: FakeAgent, command: str, notice: str) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    assert link.value(command) == "here"
    assert link.value("awho") == ["nobody", "billing"]
    worker.wait_for_stderr(notice)


def test_a_worker_whose_asyncio_loop_breaks_reports_that_and_leaves(agent: FakeAgent) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    link.request("break_loop")
    code, _, stderr = worker.exit()
    assert code == 4
    assert "the asyncio loop of the async commands broke: OSError" in stderr


def test_the_reported_lag_of_a_blocked_loop_grows(agent: FakeAgent) -> None:
    link = agent.spawn("hostile:app").attach(concurrency=2)
    link.progress(link.request("block_loop"))
    link.ping(1)
    first = link.ping(2).loop_lag_ms
    assert link.value("pid")
    assert link.ping(3).loop_lag_ms >= first
    link.wait(lambda: link.ping(4).loop_lag_ms > first or None)


KINDS: dict[str, tuple[Any, Any]] = {
    "sync_over_async": (4, 4),
    "passed_async": (4, [4, True, False]),
    "async_over_sync": (4, 4),
    "passed_async_stream": (3, [0, 1, 2]),
    "async_over_stream": (3, [0, 1, 2]),
}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_decorated_command_is_run_as_what_its_function_returned(agent: FakeAgent, concurrency: int) -> None:
    link = agent.spawn("hostile:app").attach(concurrency)
    streams = {command.name: command.streams for command in link.hello.commands}
    for command, (argument, value) in KINDS.items():
        id = link.request(command, argument)
        result = link.result(id)
        assert (command, result.error.message) == (command, "")
        got = link.chunks(id) if streams[command] else json.loads(result.payload)
        assert (command, got) == (command, value)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_coroutine_that_a_sync_wrapper_returned_can_be_cancelled(agent: FakeAgent, concurrency: int) -> None:
    link = agent.spawn("hostile:app").attach(concurrency)
    id = link.request("passed_for_ever")
    link.progress(id)
    link.cancel(id)
    assert link.result(id).error.code == 1
    assert link.value("passed_async", 4) == [4, True, False]


@pytest.mark.parametrize("command", ["retire", "aretire"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_worker_that_retires_finishes_its_request_and_leaves_with_the_reason(
    agent: FakeAgent, command: str, concurrency: int
) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach(concurrency)
    assert link.value(command, "worn out") == "the last answer"
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "first stop hook\n")
    assert [frame.leaving_reason for frame in link.frames if frame.leaving] == ["worn out"]


def test_a_worker_that_retires_announces_that_to_the_next_agent_too(agent: FakeAgent) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    running = link.request("retire", reason="worn out \udce9" + "x" * 2000, file="go", keep=True)
    assert link.leaving()
    late = link.request("pid")
    assert link.returned() == [late]
    link.cut()
    again = worker.attach()
    assert again.leaving()
    reason = next(frame.leaving_reason for frame in again.frames if frame.leaving)
    assert reason.startswith("worn out \\udce9xxx")
    assert len(reason) < 1100
    again.send(AgentFrame(replays=[running]))
    again.ping(1)
    (agent.dir / "go").touch()
    assert json.loads(again.result(running).payload) == "the last answer"
    assert worker.exit()[0] == 0


def test_sigterm_stops_a_worker_whose_wakeup_descriptor_was_closed(agent: FakeAgent) -> None:
    worker = agent.spawn("hostile:app")
    link = worker.attach()
    assert not link.call("close_wakeup").HasField("error")
    worker.signal(signal.SIGTERM)
    assert link.leaving()
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "first stop hook\n")
