"""Worker processes with a FakeAgent."""

from __future__ import annotations

import json
import signal
import time

import grpc
import pytest
from fake_agent import FakeAgent

from pitwarden._pb.link_pb2 import AgentFrame, LinkRequest, Ping, Welcome


def test_the_hello_lists_the_commands_of_the_application(agent: FakeAgent) -> None:
    worker = agent.spawn()
    hello = worker.attach().hello
    assert (hello.protocol, hello.worker_id, hello.pid) == (1, "w-1", worker.process.pid)
    commands = {command.name: command for command in hello.commands}
    assert commands["add"].summary == "Adds."
    streams = {name for name, command in commands.items() if command.streams}
    assert streams == {
        "count",
        "count_when",
        "count_then_fail",
        "blobs",
        "for_ever",
        "async_count",
        "async_count_when",
        "async_for_ever",
    }


def test_with_a_concurrency_of_1_sync_commands_run_in_the_main_thread(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=1)
    assert link.value("add", a=1, b=2) == 3
    assert link.value("add", 4) == 4
    assert link.value("thread") is True
    assert link.value("environment") == [f"PITWARDEN_{name}" for name in ("APP", "LINK", "POOL", "SLOT", "WORKER_ID")]
    assert link.value("about") == ["r-5", "s", False, False]
    assert link.value("about", timeout_ms=60_000) == ["r-6", "s", True, True]


def test_bytes_are_passed_to_and_from_a_command_unchanged(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    octets = "application/octet-stream"
    link.send(AgentFrame(requests=[LinkRequest(id=9, command="reverse", payload=b"\x00\xff", content_type=octets)]))
    result = link.result(9)
    assert (result.payload, result.content_type) == (b"\xff\x00", octets)


def test_with_a_concurrency_of_8_eight_sync_commands_run_at_once(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=8)
    requests = [link.make("wait", file="all") for _ in range(8)]
    link.send(AgentFrame(requests=requests))
    for request in requests:
        link.progress(request.id)
    (agent.dir / "all").touch()
    for request in requests:
        assert json.loads(link.result(request.id).payload) == "all"
    assert link.value("thread") is False


def test_fifty_async_commands_run_at_once(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=50)
    requests = [link.make("nap", file="all") for _ in range(50)]
    link.send(AgentFrame(requests=requests))
    for request in requests:
        link.progress(request.id)
    assert link.ping(1).in_flight == 50
    (agent.dir / "all").touch()
    for request in requests:
        assert json.loads(link.result(request.id).payload) == request.request_id
    pong = link.ping(2)
    assert (pong.in_flight, pong.requests_started, pong.requests_finished) == (0, 50, 50)


@pytest.mark.parametrize("command", ["count", "async_count"])
def test_a_generator_command_streams_its_values_in_order(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach()
    id = link.request(command, to=2000)
    result = link.result(id)
    assert not result.HasField("error")
    assert result.payload == b""
    assert link.chunks(id) == list(range(2000))


def test_chunks_of_1_mib_are_streamed(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    id = link.request("blobs", number=16, size=1024 * 1024)
    link.result(id)
    assert sum(len(chunk.payload) for frame in link.frames for chunk in frame.chunks) == 16 * 1024 * 1024


@pytest.mark.parametrize("command", ["count", "async_count"])
def test_a_paused_stream_sends_nothing_until_it_is_resumed(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach()
    request = link.make(command, to=100)
    link.send(AgentFrame(requests=[request], pauses=[request.id]))
    assert link.ping(1).in_flight <= 1
    assert link.chunks(request.id) == []
    link.send(AgentFrame(resumes=[request.id]))
    link.result(request.id)
    assert link.chunks(request.id) == list(range(100))


@pytest.mark.parametrize("command", ["count", "async_count"])
def test_a_paused_stream_can_be_cancelled(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach()
    request = link.make(command, to=100)
    link.send(AgentFrame(requests=[request], pauses=[request.id]))
    link.cancel(request.id)
    assert link.result(request.id).error.code == 1


def test_a_result_that_was_held_back_for_the_next_is_sent_at_a_recall(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=1)
    quick, slow = link.make("add", a=1, b=2), link.make("sleep", seconds=60)
    link.send(AgentFrame(requests=[quick, slow]))
    agent.wait_begun(slow.id)
    # The agent sends a recall if it gets no result for some time.
    link.recall()
    assert link.result(quick.id).payload == b"3"
    assert link.results(slow.id) == []


def test_with_a_pool_of_threads_a_result_is_sent_at_once(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=4)
    quick, *slow = link.make("add", a=1, b=2), *(link.make("wait", file="never") for _ in range(3))
    link.send(AgentFrame(requests=[quick, *slow]))
    assert link.result(quick.id).payload == b"3"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_commands_can_use_multiprocessing(agent: FakeAgent, method: str) -> None:
    worker = agent.spawn(PYTHONWARNINGS="ignore")
    link = worker.attach()
    for _ in range(3):
        assert link.value("fork", method=method) == [1, 2, 3]
    assert link.ping(1).in_flight == 0
    link.stop()
    code, stdout, stderr = worker.exit()
    assert (code, stdout, stderr) == (0, "started\nstopped\n", "")


FAILURES = {
    "an exception": ("fail", {"message": "no"}, 2, "builtins.ValueError", "no"),
    "an error with a code": ("refuse", {}, 9, "pitwarden.FailedPrecondition", "not today"),
    "an exception in a task": ("async_fail", {}, 2, "builtins.ValueError", "from a task"),
    "sys.exit": ("leave", {}, 2, "builtins.SystemExit", "7"),
    "sys.exit in a task": ("async_leave", {}, 2, "builtins.SystemExit", "7"),
    "an unknown command": ("ad", {}, 5, "", "no command named 'ad'; did you mean 'add'?"),
    "arguments that do not fit": ("add", {"c": 1}, 3, "", "add takes (a, b=0), got keyword arguments c: "),
    "a result that cannot be encoded": ("unsendable", {}, 13, "", "a result must be bytes or JSON, got set: "),
    "a stream that raises": ("count_then_fail", {}, 2, "builtins.KeyError", "'two'"),
}


def test_every_kind_of_failure_reaches_the_caller_with_code_type_and_message(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    for name, (command, arguments, code, type, message) in FAILURES.items():
        error = link.call(command, **arguments).error
        assert (name, error.code, error.type) == (name, code, type)
        assert error.message.startswith(message)
        assert bool(error.traceback) == bool(type)
        assert "_executor.py" not in error.traceback
    assert link.value("add", a=1) == 1


def test_the_traceback_of_a_failure_names_file_and_line(agent: FakeAgent) -> None:
    error = agent.spawn().attach().call("fail", message="no").error
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert 'basic.py", line' in error.traceback
    assert error.traceback.endswith("ValueError: no\n")


@pytest.mark.parametrize("command", ["wait", "spin"])
def test_pings_are_answered_while_a_command_runs(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach()
    id = link.request(command, file="go")
    assert link.progress(id).message in ("waiting", "spinning")
    first, second = link.ping(1), link.ping(2)
    assert (first.in_flight, first.requests_started, first.requests_finished) == (1, 1, 0)
    assert second.oldest_request_ms >= first.oldest_request_ms
    (agent.dir / "go").touch()
    assert json.loads(link.result(id).payload) == "go"


CANCELS = {
    "a command that checks its context": "until_cancelled",
    "a generator": "for_ever",
    "a task": "sleep_for_ever",
    "an async generator": "async_for_ever",
}
CLOSING_LINES = ["closed", "task cancelled", "async closed"]


def test_a_cancel_ends_commands_of_every_kind(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    for name, command in CANCELS.items():
        id = link.request(command)
        link.wait(lambda id=id: link.chunks(id) or any(p.id == id for f in link.frames for p in f.progress))
        link.cancel(id)
        assert (name, link.result(id).error.code) == (name, 1)
    assert link.value("add", a=1) == 1
    link.stop()
    code, stdout, _ = worker.exit()
    assert code == 0
    assert [line for line in stdout.splitlines() if line in CLOSING_LINES] == CLOSING_LINES


def test_a_cancel_after_the_answer_changes_nothing(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    id = link.request("add", a=1)
    link.result(id)
    link.cancel(id)
    assert link.value("add", a=2) == 2
    assert len(link.results(id)) == 1


def test_an_async_command_can_be_cancelled_before_its_first_step(agent: FakeAgent) -> None:
    link = agent.spawn().attach(concurrency=2)
    request = link.make("sleep_for_ever")
    link.send(AgentFrame(requests=[request], cancels=[request.id]))
    assert link.result(request.id).error.code == 1
    # With two frames the task may exist and not have run yet.
    late = link.make("sleep_for_ever")
    link.send(AgentFrame(requests=[late]))
    link.cancel(late.id)
    assert link.result(late.id).error.code == 1


def test_a_command_whose_deadline_passes_while_it_runs_fails_with_deadline_exceeded(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    # The command sees the deadline in its context. The agent sends no cancel.
    assert link.call("until_cancelled", timeout_ms=30).error.code == 4
    id = link.request("sleep_for_ever", timeout_ms=1)
    link.progress(id)
    # The worker counts from when it had the request, so the deadline has passed this long after its progress.
    time.sleep(0.001)
    link.cancel(id)
    assert link.result(id).error.code == 4


def test_a_stop_lets_the_running_request_end_and_returns_later_ones(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    running = link.request("wait", file="go")
    link.progress(running)
    link.stop()
    late = link.request("add", a=1)
    assert link.returned() == [late]
    (agent.dir / "go").touch()
    assert json.loads(link.result(running).payload) == "go"
    code, stdout, stderr = worker.exit()
    assert (code, stderr) == (0, "")
    assert stdout.splitlines() == ["started", "stopped"]


def test_a_stop_cancels_running_requests_at_the_end_of_the_grace(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    id = link.request("until_cancelled")
    link.progress(id)
    link.stop(grace_ms=1)
    assert link.result(id).error.code == 1
    assert worker.exit()[0] == 0


def test_every_stop_hook_runs_even_if_one_raises(agent: FakeAgent) -> None:
    worker = agent.spawn("slow_stop:app")
    link = worker.attach()
    assert link.value("ok") is True
    link.stop()
    code, stdout, stderr = worker.exit()
    assert (code, stdout) == (0, "first hook, run last\n")
    assert "RuntimeError: second hook fails" in stderr


@pytest.mark.parametrize(
    ("lingers", "report"),
    [
        ("thread", "pitwarden: the end waits for threads that are no daemons: housekeeping\n"),
        ("atexit", "pitwarden: the end waits for exit handlers (atexit)\n"),
        ("nothing", ""),
    ],
)
def test_a_worker_ends_the_applications_tasks_and_reports_what_delays_its_exit(
    agent: FakeAgent, lingers: str, report: str
) -> None:
    worker = agent.spawn("lingering:app", LINGERS=lingers)
    worker.attach().stop()
    code, stdout, stderr = worker.exit()
    # In the order of asyncio.run: tasks, then generators.
    assert (code, stdout) == (0, "last batch flushed\ngenerator closed\n")
    assert stderr == report


def test_a_drain_does_not_affect_running_requests(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    id = link.request("wait", file="go")
    link.progress(id)
    link.drain()
    link.ping(1)
    (agent.dir / "go").touch()
    assert json.loads(link.result(id).payload) == "go"
    link.stop()
    assert worker.exit()[0] == 0


@pytest.mark.parametrize("concurrency", [1, 4])
def test_sigterm_stops_a_worker_as_an_agent_would(agent: FakeAgent, concurrency: int) -> None:
    worker = agent.spawn()
    link = worker.attach(concurrency)
    id = link.request("wait", file="go")
    link.progress(id)
    worker.signal(signal.SIGTERM)
    assert link.leaving()
    late = link.request("add", a=1)
    assert link.returned() == [late]
    (agent.dir / "go").touch()
    assert json.loads(link.result(id).payload) == "go"
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "started\nstopped\n")


def test_sigterm_stops_a_worker_whichever_thread_gets_it(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach(concurrency=4)
    link.request("terminate_here")
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "started\nstopped\n")


def test_sigterm_stops_a_worker_whose_application_has_set_a_wakeup_descriptor(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    link.progress(link.request("take_wakeup"))
    worker.signal(signal.SIGTERM)
    assert link.leaving()
    (agent.dir / "go").touch()
    assert worker.exit()[0] == 0


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_recall_returns_the_requests_that_have_not_begun(agent: FakeAgent, concurrency: int) -> None:
    link = agent.spawn().attach(concurrency)
    running = [link.request("wait", file="go") for _ in range(concurrency)]
    for id in running:
        link.progress(id)
    waiting = [link.request("add", a=id) for id in range(3)]
    link.recall()
    assert link.returned() == waiting
    assert agent.begun() == running[-1]
    last = link.request("add", a=1)
    (agent.dir / "go").touch()
    assert json.loads(link.result(last).payload) == 1
    assert not any(link.results(id) for id in waiting)


def test_requests_run_in_the_order_in_which_they_came(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    requests = [link.make("add", a=n) for n in range(200)]
    link.send(AgentFrame(requests=requests))
    link.result(requests[-1].id)
    assert [r.id for f in link.frames for r in f.results] == [request.id for request in requests]


def test_a_stop_returns_the_requests_that_have_not_begun(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    running = link.request("wait", file="go")
    link.progress(running)
    waiting = link.request("add", a=1)
    link.stop()
    assert link.returned() == [waiting]
    (agent.dir / "go").touch()
    assert json.loads(link.result(running).payload) == "go"
    assert worker.exit()[0] == 0


def test_the_begun_mark_of_a_killed_worker_has_the_newest_request_that_began(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    assert link.hello.marks_begun
    assert agent.begun() == 0
    first = link.request("add", a=1)
    link.result(first)
    assert agent.begun() == first
    running = link.request("wait", file="never")
    link.progress(running)
    link.request("add", a=1)
    worker.signal(signal.SIGKILL)
    worker.exit()
    assert agent.begun() == running


def test_a_worker_that_cannot_write_the_begun_mark_says_so_in_its_hello(agent: FakeAgent) -> None:
    link = agent.spawn(PITWARDEN_BEGUN="/nowhere/begun").attach()
    assert not link.hello.marks_begun
    assert link.value("add", a=1) == 1


def test_a_sigterm_after_a_stop_cancels_running_requests(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    id = link.request("until_cancelled")
    link.progress(id)
    link.stop(grace_ms=3_600_000)
    link.ping(1)
    worker.signal(signal.SIGTERM)
    assert link.result(id).error.code == 1
    assert worker.exit()[0] == 0


def test_a_worker_ignores_sigint(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    id = link.request("wait", file="go")
    link.progress(id)
    worker.signal(signal.SIGINT)
    link.ping(1)
    (agent.dir / "go").touch()
    assert json.loads(link.result(id).payload) == "go"


@pytest.mark.parametrize("command", ["", "wait", "nap", "spin"])
def test_with_an_orphan_timeout_of_0_a_worker_exits_when_it_loses_its_link(agent: FakeAgent, command: str) -> None:
    worker = agent.spawn()
    link = worker.attach(orphan_timeout_ms=0, drain_timeout_ms=0)
    if command:
        link.progress(link.request(command, file="never"))
    link.hang_up()
    code, _, stderr = worker.exit()
    assert code == 4
    assert stderr.startswith("pitwarden: the agent closed the link; leaving\n")


def test_a_worker_whose_token_is_refused_exits_with_4(agent: FakeAgent) -> None:
    agent.refusal = (grpc.StatusCode.UNAUTHENTICATED, "unknown token")
    code, _, stderr = agent.spawn().exit()
    assert code == 4
    assert stderr == "pitwarden: the link to the agent broke: UNAUTHENTICATED: unknown token; leaving\n"


def test_a_worker_that_reaches_no_agent_stops_as_an_orphan(agent: FakeAgent) -> None:
    nowhere = str(agent.dir / "none.sock")
    code, stdout, stderr = agent.spawn(PITWARDEN_LINK=nowhere, PITWARDEN_ORPHAN_TIMEOUT_MS="100").exit()
    assert (code, stdout) == (4, "started\nstopped\n")
    reason = f"nobody listens at {nowhere}: [Errno 2] No such file or directory"
    assert stderr == f"pitwarden: {reason}; no agent for 0.1 s; leaving\n"


WRONG_FIRST_FRAMES = {
    "another protocol": (
        AgentFrame(welcome=Welcome(protocol=2, concurrency=1)),
        "speaks link protocol 1, the agent speaks 2",
    ),
    "no welcome": (AgentFrame(ping=Ping(sequence=1)), "the agent's first frame must be a welcome"),
}


@pytest.mark.parametrize("name", WRONG_FIRST_FRAMES)
def test_a_worker_exits_at_a_frame_that_the_protocol_does_not_allow(agent: FakeAgent, name: str) -> None:
    frame, message = WRONG_FIRST_FRAMES[name]
    worker = agent.spawn()
    agent.next_link().send(frame)
    code, _, stderr = worker.exit()
    assert code == 4
    assert message in stderr


LOAD_FAILURES = {
    "broken:app": ["could not import 'broken'", "broken.py", "No module named 'no_such_module'"],
    "absent:app": ["could not import 'absent'", "No module named 'absent'"],
    "basic:ap": ["'basic:ap' must be a pitwarden.App, got nothing of that name"],
    "basic:add": ["'basic:add' must be a pitwarden.App, got function"],
    "basic": ["PITWARDEN_APP must be \"module:attribute\", got 'basic'"],
    "bad_start:app": ["a start hook failed", "in load_model", "FileNotFoundError: model.bin"],
}


@pytest.mark.parametrize("app", LOAD_FAILURES)
def test_a_worker_whose_application_cannot_be_loaded_prints_why_and_exits_with_3(agent: FakeAgent, app: str) -> None:
    code, _, stderr = agent.spawn(app).exit()
    assert code == 3
    for words in LOAD_FAILURES[app]:
        assert words in stderr


def test_app_run_serves_the_agent(agent: FakeAgent) -> None:
    worker = agent.spawn(args=("basic.py",), PITWARDEN_APP="")
    link = worker.attach()
    assert link.value("add", a=1) == 1
    link.stop()
    assert worker.exit()[0] == 0


def test_a_worker_that_no_agent_started_prints_what_to_do_and_exits_with_2(agent: FakeAgent) -> None:
    for args in (("-m", "pitwarden.worker"), ("basic.py",)):
        code, _, stderr = agent.spawn(args=args, PITWARDEN_LINK="", PITWARDEN_WORKER_ID="").exit()
        assert code == 2
        assert "PITWARDEN_LINK, PITWARDEN_WORKER_ID are not set" in stderr
        assert "pitwarden agent" in stderr
