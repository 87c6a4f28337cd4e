"""Processes that user code forks: they end when they leave the user code, and gRPC does not hang in them."""

from __future__ import annotations

import os

import pytest
from fake_agent import FakeAgent, FakeLink

STATUS = {"exit": 3, "raise": 1, "return": 0, "report": 0}
COMMANDS = ["fork", "async_fork"]


def assert_no_child_is_left(agent: FakeAgent, link: FakeLink) -> None:
    pids = [int(line) for line in (agent.dir / "children").read_text().split()]
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    # Each request has one result, from the worker.
    ids = [result.id for frame in link.frames for result in frame.results]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_forked_child_ends_when_it_returns_or_raises_out_of_its_command(
    agent: FakeAgent, command: str, concurrency: int
) -> None:
    worker = agent.spawn("forking:app")
    link = worker.attach(concurrency)
    for how, status in STATUS.items():
        assert (how, link.value(command, how)) == (how, status)
    assert_no_child_is_left(agent, link)
    assert not any(frame.progress or frame.leaving for frame in link.frames)
    link.stop()
    code, _, stderr = worker.exit()
    assert code == 0
    assert "RuntimeError: of a child" in stderr
    assert f"a process that was forked in command {command} returned from it, and ends here" in stderr


@pytest.mark.parametrize("command", ["fork_in_stream", "async_fork_in_stream"])
def test_a_forked_child_of_a_generator_sends_no_chunks(agent: FakeAgent, command: str) -> None:
    link = agent.spawn("forking:app").attach()
    for how, status in STATUS.items():
        id = link.request(command, how)
        assert not link.result(id).HasField("error")
        assert link.chunks(id) == [status]
    assert_no_child_is_left(agent, link)


def test_a_child_that_is_forked_in_an_exceptions_str_ends(agent: FakeAgent) -> None:
    link = agent.spawn("forking:app").attach()
    assert link.call("fork_in_str").error.message == "status 0"
    assert_no_child_is_left(agent, link)


@pytest.mark.parametrize("command", ["async_fork", "fork_in_task"])
def test_a_forked_child_does_not_run_its_parents_tasks(agent: FakeAgent, command: str) -> None:
    link = agent.spawn("forking:app").attach(concurrency=8)
    others = [link.request("nap", file="go") for _ in range(4)]
    for id in others:
        link.progress(id)
    assert link.value(command, "await" if command == "async_fork" else "return") == 0
    (agent.dir / "go").touch()
    for id in others:
        link.result(id)
    assert_no_child_is_left(agent, link)


def test_a_forked_child_takes_no_requests(agent: FakeAgent) -> None:
    link = agent.spawn("forking:app").attach(concurrency=4)
    requests = [link.make("fork", "exit") if n % 10 == 0 else link.make("one") for n in range(200)]
    for request in requests:
        link.result(link.request(request.command, *(["exit"] if request.command == "fork" else [])))
    assert_no_child_is_left(agent, link)
    assert link.ping(1).requests_finished == 200


def test_children_forked_by_hooks_and_by_the_import_end_when_they_leave_that_code(agent: FakeAgent) -> None:
    worker = agent.spawn("forking:app", FORK_IN="import start stop")
    link = worker.attach()
    assert link.value("one") == 1
    link.stop()
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "hook's child: 3\n")
    assert_no_child_is_left(agent, link)


def test_a_forked_child_can_run_an_async_command_on_a_loop_of_its_own(agent: FakeAgent) -> None:
    link = agent.spawn("forking:app").attach()
    assert link.value("one") == 1
    assert link.value("loop_in_child") == 1


def test_a_client_in_a_forked_child_of_a_worker_raises_failed_precondition(agent: FakeAgent) -> None:
    link = agent.spawn("forking:app", PYTHONWARNINGS="ignore").attach()
    for inherited in (False, True):
        error = link.value("client_in_child", "fork", inherited=inherited)
        assert error.startswith("FailedPrecondition: a Client does not work in this process: it was forked")
    # A spawned child can use a client: it fails only because there is no agent.
    assert link.value("client_in_child", "spawn").startswith("Unavailable: ")


@pytest.mark.parametrize("app", ["forking:app", "uses_grpc:app"])
def test_grpc_settings_override_the_users_and_are_then_removed_from_the_environment(agent: FakeAgent, app: str) -> None:
    users_settings = {"GRPC_ENABLE_FORK_SUPPORT": "1", "GRPC_VERBOSITY": "NONE"}
    worker = agent.spawn(app, PYTHONWARNINGS="ignore", **users_settings)
    link = worker.attach()
    assert link.value("grpc_environment") == users_settings
    # With gRPC's fork support on, such a child hangs or aborts.
    assert link.value("fork_pool") == [1, 2, 3]
    link.stop()
    code, _, stderr = worker.exit()
    assert (code, stderr) == (0, "")


def test_processes_that_an_application_starts_while_it_loads_do_not_inherit_grpc_settings(agent: FakeAgent) -> None:
    assert agent.spawn("forking:app").attach().value("environment_of_early_child") == []


def test_a_worker_reports_that_grpc_was_imported_with_fork_support(agent: FakeAgent) -> None:
    worker = agent.spawn(args=("uses_grpc.py",), PITWARDEN_APP="", GRPC_ENABLE_FORK_SUPPORT="1")
    worker.attach()
    worker.wait_for_stderr("gRPC was imported with GRPC_ENABLE_FORK_SUPPORT before the worker could turn it off")
