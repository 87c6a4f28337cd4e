"""Paths of sockets that need care in a gRPC address, and sockets that must not be dialled."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_agent import PATIENCE_S, FakeAgent
from test_client import FakeExecution

import pitwarden
from pitwarden import _socket_trust
from pitwarden._address import Address, path_of, unix_address
from pitwarden._socket_trust import SocketTrust

FOLDERS = ["plain", "with space", "C#", "what?", "50%25", "100%", "a,b", ",", "a\nb", "é", "x" * 150]
STRANGER = 4242


@pytest.fixture
def execution() -> Iterator[FakeExecution]:
    execution = FakeExecution()
    yield execution
    execution.stop()


def under(folder: Path, name: str, sock: Path) -> str:
    """A link to the socket, in a folder of this name."""
    (folder / name).mkdir()
    os.link(sock, folder / name / sock.name)
    return str(folder / name / sock.name)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_client_can_dial_a_path_with_any_characters_and_length(execution: FakeExecution, name: str) -> None:
    path = under(execution.dir, name, Path(execution.path))
    for target in (path, unix_address(path)):
        with pitwarden.Client(target) as client:
            assert client.call("text", "echo", 1) == [1]
            assert list(client.stream("text", "tokens")) == [0, 1, 2]
            assert path_of(client.target) == path


@pytest.mark.parametrize("name", FOLDERS)
def test_a_worker_can_dial_a_path_with_any_characters_and_length(agent: FakeAgent, name: str) -> None:
    link = agent.spawn(PITWARDEN_LINK=under(agent.dir, name, agent.path)).attach()
    assert link.value("add", a=1) == 1


def open_paths() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


def test_a_client_that_dials_through_a_descriptor_reaches_the_next_agent_and_closes_the_descriptor(
    execution: FakeExecution,
) -> None:
    path = under(execution.dir, "a,b", Path(execution.path))
    with pitwarden.Client(path) as client:
        assert client.call("text", "echo", 1) == [1]
        execution.kill()
        os.unlink(path)
        execution.start()
        os.link(execution.path, path)
        assert client.call("text", "echo", 2) == [2]
        assert os.path.dirname(path) in open_paths()
    assert os.path.dirname(path) not in open_paths()


def test_clients_whose_descriptors_have_the_same_number_do_not_share_a_connection() -> None:
    agents = [FakeExecution(), FakeExecution()]
    try:
        for each in agents:
            with pitwarden.Client(under(each.dir, "a,b", Path(each.path))) as client:
                client.call("text", "echo")
            assert len(each.requests) == 1
    finally:
        for each in agents:
            each.stop()


def test_the_topmost_folder_that_makes_the_path_fit_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a,b" / "run").mkdir(parents=True)
    address = Address(str(tmp_path / "a,b" / "run" / "agent.sock"))
    assert address.target.endswith("/run/agent.sock")
    address.close()


def test_an_error_for_a_path_that_cannot_be_dialled_names_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(pitwarden.InvalidArgument, match=r"a,b\.sock: expected .* no comma .*symbolic link"):
        pitwarden.Client(str(tmp_path / "a,b.sock"))
    with pytest.raises(pitwarden.Unavailable, match=r"^unix:/nonexistent/a%2Cb/agent\.sock: "):
        pitwarden.Client("/nonexistent/a,b/agent.sock")


ADDRESSES = [
    ("unix:/run/a.sock", "/run/a.sock"),
    ("unix:///run/a.sock", "/run/a.sock"),
    ("unix:a.sock", "a.sock"),
    ("unix:/C%23/a.sock#more", "/C#/a.sock"),
    ("unix-abstract:a", None),
    ("127.0.0.1:1", None),
    ("localhost", None),
]


@pytest.mark.parametrize(("address", "path"), ADDRESSES)
def test_path_of_returns_the_path_of_unix_addresses_only(address: str, path: str | None) -> None:
    assert path_of(address) == path


def test_a_path_that_begins_with_two_slashes_is_not_read_as_a_host(execution: FakeExecution) -> None:
    with pitwarden.Client("/" + execution.path) as client:
        assert client.call("text", "echo", 1) == [1]


def test_a_worker_that_cannot_dial_its_socket_reports_why_and_leaves(agent: FakeAgent) -> None:
    path = agent.dir / "a,b.sock"
    os.link(agent.path, path)
    worker = agent.spawn(PITWARDEN_LINK=str(path), PITWARDEN_ORPHAN_TIMEOUT_MS="1000")
    code, _, stderr = worker.exit()
    report, last = stderr.splitlines()
    assert report.startswith(
        f"pitwarden: the agent cannot be dialled: {path}: expected a socket whose own name has no comma"
    )
    assert (code, last.endswith("no agent for 1 s; leaving")) == (4, True)


def test_a_worker_whose_streams_keep_failing_reports_that_once_and_leaves(agent: FakeAgent) -> None:
    path = agent.dir / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(100)
        worker = agent.spawn(PITWARDEN_LINK=str(path), PITWARDEN_ORPHAN_TIMEOUT_MS="1500")
        listener.settimeout(0.05)
        while worker.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
        code, _, stderr = worker.exit()
    report, last = stderr.splitlines()
    assert report.startswith("pitwarden: the link to the agent broke: UNAVAILABLE: ")
    assert report.endswith("; trying on")
    assert (code, last.endswith("no agent for 1.5 s; leaving")) == (4, True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A socket in a folder as an agent makes it, inside a folder in which every user may create files."""
    tmp_path.chmod(0o1777)
    folder = tmp_path / "pitwarden-1"
    folder.mkdir(mode=0o750)
    with socket.socket(socket.AF_UNIX) as listener:
        # Through a descriptor, because the path may be too long for a socket.
        here = os.open(folder, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/agent.sock")
        os.close(here)
        (folder / "agent.sock").chmod(0o600)
        yield folder / "agent.sock"


def problem(path: Path, named: bool = False) -> str:
    return SocketTrust(str(path), named=named).problem() or ""


def test_a_socket_in_a_folder_of_this_user_that_is_closed_to_others_is_trusted(place: Path) -> None:
    assert problem(place) == problem(place, named=True) == ""
    assert problem(place.with_name("none.sock")) == problem(place.parent / "none" / "agent.sock") == ""


def test_a_socket_or_folder_that_others_may_write_to_is_not_trusted(place: Path) -> None:
    place.parent.chmod(0o777)
    for named in (False, True):
        assert f"{place.parent}: expected a folder that other users may not write to, got mode 0777" in problem(
            place, named
        )
        assert problem(place.with_name("none.sock"), named) != ""
    place.parent.chmod(0o1777)
    assert problem(place) == ""
    place.parent.chmod(0o755)
    place.chmod(0o666)
    assert f"{place}: expected a socket that other users may not write to, got mode 0666" in problem(place, True)
    # A closed folder protects the socket.
    place.parent.chmod(0o750)
    assert problem(place) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files are given to other users")
def test_a_socket_that_another_user_may_have_put_there_is_not_trusted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_socket_trust.os, "geteuid", lambda: 7)
    for path in (place.parent, place):
        os.chown(path, STRANGER, -1)
    # Others could have created the folder, so it must belong to this user.
    assert f"{place.parent}: expected a folder of user 0 or 7, got one of user {STRANGER}" in problem(place)
    # A user who names the path trusts the owner of its folder.
    assert problem(place, named=True) == ""
    # Only root could have created the folder, as with /run/pitwarden, which belongs to the agent's user.
    place.parent.parent.chmod(0o755)
    assert problem(place) == ""
    os.chown(place.parent, 0, -1)
    assert f"{place}: expected a socket of user 0 or 7, got one of user {STRANGER}" in problem(place, named=True)
    os.symlink(place, place.with_name("link.sock"))
    assert "got one of user 4242" in problem(place.with_name("link.sock"), named=True)


def test_a_client_checks_its_socket_again_when_it_has_changed_and_sends_nothing_to_one_it_does_not_trust(
    execution: FakeExecution,
) -> None:
    with pitwarden.Client(execution.path) as client:
        assert client.call("text", "echo", 1) == [1]
        execution.dir.chmod(0o777)
        # The socket has not changed, so it is not checked again.
        assert client.call("text", "echo", 1) == [1]
        os.chmod(execution.path, 0o700)
        for call in (lambda: client.call("text", "echo"), lambda: list(client.stream("text", "tokens"))):
            with pytest.raises(pitwarden.FailedPrecondition, match=r"may not write to, got mode 0777.*chmod o-w"):
                call()
        assert len(execution.requests) == 2
        execution.dir.chmod(0o700)
        assert client.call("text", "echo", 1) == [1]


FORKED = """
import multiprocessing, sys
import pitwarden

def ask(queue):
    try:
        with pitwarden.Client(sys.argv[1]) as client:
            queue.put(client.call("text", "echo", 1))
    except pitwarden.Error as error:
        queue.put(type(error).__name__)

def in_child():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=ask, args=(queue,), daemon=True)
    child.start()
    return queue.get()

client = pitwarden.Client(sys.argv[1])
client.call("text", "echo", 1)
answers = [in_child()]
client.close()
for _ in range(5):
    answers.append(in_child())
    with pitwarden.Client(sys.argv[1]) as client:
        client.call("text", "echo", 1)
del client
print(answers)
"""


def test_a_forked_child_can_use_a_client_if_its_parent_had_closed_its_own_before_the_fork(
    execution: FakeExecution,
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    command = [sys.executable, "-W", "ignore", "-c", FORKED, execution.path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "['FailedPrecondition', [1], [1], [1], [1], [1]]\n"
