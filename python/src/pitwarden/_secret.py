"""How this process proves to an agent that it is a worker that an agent started.

The agent writes a secret to two unix sockets that the worker inherits as descriptors 3 and 0, because a wrapper around
the interpreter may close one of them. Both are closed before the application is imported. Each hello carries another
token: the secret hashed 999 times, then 998 times, and so on. An agent recognizes the next token by its hash, but
cannot compute it.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import stat
import time
from typing import Optional

from ._peer import peer_of

DIALS_MAX = 1000

# A shell closes 0 for a command in the background; sudo and Python's subprocess close all descriptors from 3 on.
DESCRIPTORS = (3, 0)

# The agent writes the secret right after the start, but may be a busy process on a busy machine.
SECRET_TIMEOUT_S = 10.0

_SECRET_HEX_DIGITS = 64


class SecretError(Exception):
    """There is no secret, or no token is left."""


class Secret:
    def __init__(self, secret: bytes, *, is_token: bool = False, agent_uid: Optional[int] = None) -> None:
        """``is_token``: the secret itself is the token of every dial, as an agent that sets PITWARDEN_TOKEN expects.
        ``agent_uid``: the user who wrote the secret; None: this user."""
        self._is_token = is_token
        # Used from the end. Does not contain the secret hashed 1,000 times: the agent has that.
        self._tokens = [secret]
        while not is_token and len(self._tokens) < DIALS_MAX:
            self._tokens.append(hashlib.sha256(self._tokens[-1]).digest())
        # Users whose processes may be the worker's agent. Root could read the secret anyway.
        self.agent_uids = frozenset({0, os.geteuid() if agent_uid is None else agent_uid})

    def next_token(self) -> str:
        """The token of the next hello, 64 hexadecimal digits. Raises SecretError when none is left."""
        if not self._tokens:
            raise SecretError(f"this worker has dialled {DIALS_MAX} times, which uses up its secret")
        return (self._tokens[0] if self._is_token else self._tokens.pop()).hex()


def take_secret(worker_id: str) -> Secret:
    """Reads the secret and closes the descriptors. Raises SecretError if it does not arrive within SECRET_TIMEOUT_S."""
    # Set by earlier versions of the agent, which write no secret.
    token = os.environ.pop("PITWARDEN_TOKEN", "")
    if token:
        return Secret(_unhex(token, "PITWARDEN_TOKEN"), is_token=True)
    prefix = f"pitwarden-secret {worker_id} ".encode()
    found = _wait_for_secret(prefix, [fd for fd in DESCRIPTORS if _is_socket(fd)])
    if found is None:
        names = " or ".join(str(fd) for fd in DESCRIPTORS)
        raise SecretError(
            f"the agent's secret did not arrive: expected it on file descriptor {names}. If the pool's `python` is a"
            " wrapper, it must pass its standard input or descriptor 3 on to the interpreter (with `conda run` add"
            " --no-capture-output)"
        )
    fd, secret = found
    agent = peer_of(fd)
    # The other descriptor is the agent's as well, unless another program has put something else in its place.
    agents_descriptors = [each for each in DESCRIPTORS if each == fd or (_is_socket(each) and peer_of(each) == agent)]
    for each in agents_descriptors:
        _close(each)
    return Secret(secret, agent_uid=None if agent is None else agent.uid)


def _wait_for_secret(prefix: bytes, descriptors: list[int]) -> Optional[tuple[int, bytes]]:
    """The descriptor on which the secret arrived, and the secret; None: no descriptor is left, or the time is up."""
    size = len(prefix) + _SECRET_HEX_DIGITS + 1
    ends_s = time.monotonic() + SECRET_TIMEOUT_S
    waiting = list(descriptors)
    while waiting and time.monotonic() < ends_s:
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(100):
            line = _peek(fd, size)
            if line is None:
                continue
            if len(line) == size and line.startswith(prefix) and line.endswith(b"\n"):
                return fd, _unhex(line[len(prefix) : -1].decode("latin-1"), f"file descriptor {fd}")
            # The stream has ended, or another program wrote to it: its data stays unread.
            if not line or len(line) == size or not line.startswith(prefix[: len(line)]):
                waiting.remove(fd)
        if waiting:
            # A line that has arrived in part makes poll return at once.
            time.sleep(0.001)
    return None


def _peek(fd: int, size: int) -> Optional[bytes]:
    """Reads without consuming, for other processes may share the socket. Empty: the end. None: nothing yet."""
    try:
        with socket.socket(fileno=os.dup(fd)) as duplicate:
            return duplicate.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _unhex(text: str, source: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise SecretError(f"{source}: expected a secret in hexadecimal digits, got something else") from None


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _close(fd: int) -> None:
    if fd > 2:
        os.close(fd)
        return
    # Otherwise the next open() would become the standard input.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, fd)
    os.close(null)
