"""How a worker gets its secret, and the tokens that it makes from it."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Union

import pytest
from fake_agent import PATIENCE_S, SECRET, WORKER_ID, FakeAgent, secret_line

from pitwarden._peer import listener_problem
from pitwarden._secret import DIALS_MAX, Secret, SecretError

# Prints the first token, and what descriptor 0 is afterwards.
TAKE = f"""
import os, sys
from pitwarden._secret import take_secret
print(take_secret("{WORKER_ID}").next_token(), os.readlink("/proc/self/fd/0"), flush=True)
"""


def first_token() -> str:
    return Secret(SECRET).next_token()


def take(stdin: Union[socket.socket, int]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKE], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_each_of_the_thousand_tokens_is_the_hash_of_the_next() -> None:
    secret = Secret(SECRET)
    tokens = [bytes.fromhex(secret.next_token()) for _ in range(DIALS_MAX)]
    assert all(hashlib.sha256(later).digest() == token for token, later in itertools.pairwise(tokens))
    assert tokens[-1] == SECRET
    with pytest.raises(SecretError, match="dialled 1000 times"):
        secret.next_token()


def test_the_secret_may_arrive_late_and_in_parts() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = take(theirs)
        line = secret_line()
        ours.sendall(line[:20])
        threading.Timer(0.2, ours.sendall, [line[20:]]).start()
        stdout, stderr = worker.communicate(timeout=PATIENCE_S)
    assert (stdout, stderr) == (f"{first_token()} /dev/null\n", "")


def test_data_of_another_program_is_not_taken_for_a_secret_and_stays_unread() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello\n")
        _, stderr = take(theirs).communicate(timeout=PATIENCE_S)
        assert "SecretError: the agent's secret did not arrive: expected it on file descriptor 3 or 0" in stderr
        assert theirs.recv(6) == b"hello\n"


@pytest.mark.parametrize("ended", [True, False])
def test_without_an_agent_at_the_other_end_taking_the_secret_fails_at_once(ended: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if ended:
            ours.close()
        _, stderr = take(theirs if ended else subprocess.DEVNULL).communicate(timeout=PATIENCE_S)
    assert "the agent's secret did not arrive" in stderr


def test_a_secret_for_another_worker_is_not_accepted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(secret_line("w-2"))
        _, stderr = take(theirs).communicate(timeout=PATIENCE_S)
    assert "the agent's secret did not arrive" in stderr


def test_a_worker_without_its_secret_reports_that_and_exits_with_2(agent: FakeAgent) -> None:
    worker = agent.spawn(PITWARDEN_WORKER_ID="w-other")
    code, _, stderr = worker.exit()
    assert code == 2
    assert stderr.startswith("pitwarden: the agent's secret did not arrive")


def test_with_pitwarden_token_every_hello_has_that_token(agent: FakeAgent) -> None:
    worker = agent.spawn(PITWARDEN_TOKEN="00ff" * 16)
    first = worker.attach()
    first.cut()
    assert [first.hello.token, agent.next_link().hello.token] == ["00ff" * 16] * 2


def test_a_worker_that_has_no_token_left_leaves(agent: FakeAgent) -> None:
    script = "import sys\nfrom pitwarden import _secret, worker\n_secret.DIALS_MAX = 1\nsys.exit(worker.main())"
    worker = agent.spawn(args=("-c", script))
    worker.attach().cut()
    code, _, stderr = worker.exit()
    assert code == 4
    assert "this worker has dialled 1 times, which uses up its secret; leaving" in stderr


def test_a_socket_whose_listener_runs_as_another_user_is_not_dialled(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        uid = os.geteuid()
        assert listener_problem(path, path, {uid}) is None
        problem = listener_problem(path, path, {uid + 1, uid + 2})
    assert problem == f"who listens at {path} is not the agent: expected user {uid + 1} or {uid + 2}, got {uid}"
