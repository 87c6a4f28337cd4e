"""Paths of sockets that mean something else in a gRPC address, and sockets that are not to be dialled at all."""

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
    """The same socket, by a path with such a name in it."""
    (folder / name).mkdir()
    os.link(sock, folder / name / sock.name)
    return str(folder / name / sock.name)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_client_dials_any_path(execution: FakeExecution, name: str) -> None:
    path = under(execution.dir, name, Path(execution.path))
    for target in (path, unix_address(path)):
        with pitwarden.Client(target) as client:
            assert client.call("text", "echo", 1) == [1]
            assert list(client.stream("text", "tokens")) == [0, 1, 2]
            assert path_of(client.target) == path


@pytest.mark.parametrize("name", FOLDERS)
def test_a_worker_dials_any_path(agent: FakeAgent, name: str) -> None:
    link = agent.spawn(PITWARDEN_LINK=under(agent.dir, name, agent.path)).attach()
    assert link.value("add", a=1) == 1


def opened() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


def test_a_client_and_its_descriptor_find_the_agent_that_comes_after(execution: FakeExecution) -> None:
    path = under(execution.dir, "a,b", Path(execution.path))
    with pitwarden.Client(path) as client:
        assert client.call("text", "echo", 1) == [1]
        execution.kill()
        os.unlink(path)
        execution.start()
        os.link(execution.path, path)
        assert client.call("text", "echo", 2) == [2]
        assert os.path.dirname(path) in opened()
    assert os.path.dirname(path) not in opened()


def test_two_clients_by_descriptors_of_the_same_number_do_not_share_a_connection() -> None:
    agents = [FakeExecution(), FakeExecution()]
    try:
        for each in agents:
            with pitwarden.Client(under(each.dir, "a,b", Path(each.path))) as client:
                client.call("text", "echo")
            assert len(each.requests) == 1
    finally:
        for each in agents:
            each.stop()


def test_a_folder_that_is_as_far_up_as_can_be_is_held(tmp_path: Path) -> None:
    (tmp_path / "a,b" / "run").mkdir(parents=True)
    address = Address(str(tmp_path / "a,b" / "run" / "agent.sock"))
    assert address.target.endswith("/run/agent.sock")
    address.close()


def test_a_path_that_cannot_be_dialled_is_refused_with_a_remedy(tmp_path: Path) -> None:
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
def test_the_path_in_an_address(address: str, path: str | None) -> None:
    assert path_of(address) == path


def test_two_slashes_are_no_host(execution: FakeExecution) -> None:
    with pitwarden.Client("/" + execution.path) as client:
        assert client.call("text", "echo", 1) == [1]


def test_a_worker_that_cannot_dial_says_so(agent: FakeAgent) -> None:
    path = agent.dir / "a,b.sock"
    os.link(agent.path, path)
    worker = agent.spawn(PITWARDEN_LINK=str(path), PITWARDEN_ORPHAN_TIMEOUT_MS="1000")
    code, _, stderr = worker.exit()
    told, left = stderr.splitlines()
    assert told.startswith(
        f"pitwarden: the agent cannot be dialled: {path}: expected a socket whose own name has no comma"
    )
    assert (code, left.endswith("no agent for 1 s; leaving")) == (4, True)


def test_a_worker_whose_stream_fails_says_so_once(agent: FakeAgent) -> None:
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
    told, left = stderr.splitlines()
    assert told.startswith("pitwarden: the link to the agent broke: UNAVAILABLE: ")
    assert told.endswith("; trying on")
    assert (code, left.endswith("no agent for 1.5 s; leaving")) == (4, True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder as an agent makes it, with a socket in it, in one where every user may make things."""
    tmp_path.chmod(0o1777)
    folder = tmp_path / "pitwarden-1"
    folder.mkdir(mode=0o750)
    with socket.socket(socket.AF_UNIX) as listener:
        # Its path may be longer than a socket's may be.
        here = os.open(folder, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/agent.sock")
        os.close(here)
        (folder / "agent.sock").chmod(0o600)
        yield folder / "agent.sock"


def problem(path: Path, named: bool = False) -> str:
    return SocketTrust(str(path), named=named).problem() or ""


def test_a_socket_in_a_closed_folder_of_this_user_may_be_dialled(place: Path) -> None:
    assert problem(place) == problem(place, named=True) == ""
    assert problem(place.with_name("none.sock")) == problem(place.parent / "none" / "agent.sock") == ""


def test_a_socket_or_folder_that_others_may_write_to_is_not_dialled(place: Path) -> None:
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
    # Nobody else can reach it.
    place.parent.chmod(0o750)
    assert problem(place) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files are given to other users")
def test_what_another_user_may_have_put_there_is_not_dialled(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_socket_trust.os, "geteuid", lambda: 7)
    for path in (place.parent, place):
        os.chown(path, STRANGER, -1)
    # The folder of the agent of this user has to be its own, where others could have made it.
    assert f"{place.parent}: expected a folder of user 0 or 7, got one of user {STRANGER}" in problem(place)
    # Who names it knows whose it is.
    assert problem(place, named=True) == ""
    # So does root, who made the folder above: /run/pitwarden belongs to the user that the agent runs as.
    place.parent.parent.chmod(0o755)
    assert problem(place) == ""
    os.chown(place.parent, 0, -1)
    assert f"{place}: expected a socket of user 0 or 7, got one of user {STRANGER}" in problem(place, named=True)
    os.symlink(place, place.with_name("link.sock"))
    assert "got one of user 4242" in problem(place.with_name("link.sock"), named=True)


def test_a_client_refuses_before_it_sends_anything(execution: FakeExecution) -> None:
    with pitwarden.Client(execution.path) as client:
        assert client.call("text", "echo", 1) == [1]
        execution.dir.chmod(0o777)
        # It is the same socket as before.
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
told = [in_child()]
client.close()
for _ in range(5):
    told.append(in_child())
    with pitwarden.Client(sys.argv[1]) as client:
        client.call("text", "echo", 1)
del client
print(told)
"""


def test_a_forked_child_may_use_clients_when_those_of_its_parent_were_closed_before(execution: FakeExecution) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    command = [sys.executable, "-W", "ignore", "-c", FORKED, execution.path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "['FailedPrecondition', [1], [1], [1], [1], [1]]\n"
