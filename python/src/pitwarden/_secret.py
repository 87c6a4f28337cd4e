"""How this process proves to an agent that it is the worker that an agent started.

The agent writes a secret to two unix sockets that the worker inherits, as descriptors 3 and 0: a wrapper around the
interpreter may close one of them. Both are closed before the application is imported. Each hello then carries another
token: the secret hashed 999 times, then 998 times, and so on. An agent knows the next token by its hash, and cannot
make it.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import stat
import struct
import time
from typing import Optional

DIALS_MAX = 1000

# A shell closes 0 for a command in the background; sudo and Python's subprocess close all from 3 on.
DESCRIPTORS = (3, 0)

# The agent writes the secret right after the start, but may be a busy process on a busy machine.
PATIENCE_S = 10.0

_SECRET_HEX = 64
_CREDENTIALS = struct.Struct("3i")


class SecretError(Exception):
    """There is no secret, or no token is left."""


class Secret:
    def __init__(self, secret: bytes, *, repeats: bool = False, agent_uid: Optional[int] = None) -> None:
        """``repeats``: the secret itself is the token, always; an agent that sets PITWARDEN_TOKEN expects that.
        ``agent_uid``: the user that the secret came from."""
        self._repeats = repeats
        # Used from the end. Without the secret hashed 1,000 times, which the agent has.
        self._tokens = [secret]
        while not repeats and len(self._tokens) < DIALS_MAX:
            self._tokens.append(hashlib.sha256(self._tokens[-1]).digest())
        # Users that may be the worker's agent. Root can read the secret anyway.
        self.agent_uids = frozenset({0, os.geteuid() if agent_uid is None else agent_uid})

    def next_token(self) -> str:
        if not self._tokens:
            raise SecretError(f"this worker has dialled {DIALS_MAX} times, which uses up its secret")
        return (self._tokens[0] if self._repeats else self._tokens.pop()).hex()


def take_secret(worker_id: str) -> Secret:
    """Reads what the agent wrote, and closes the descriptors that it wrote to."""
    # Of an earlier agent, which writes no secret.
    token = os.environ.pop("PITWARDEN_TOKEN", "")
    if token:
        return Secret(_unhex(token, "PITWARDEN_TOKEN"), repeats=True)
    prefix = f"pitwarden-secret {worker_id} ".encode()
    found = _find(prefix, [fd for fd in DESCRIPTORS if _is_socket(fd)])
    if found is None:
        names = " or ".join(str(fd) for fd in DESCRIPTORS)
        raise SecretError(
            f"the agent's secret did not arrive: expected it on file descriptor {names}. If the pool's `python` is a"
            " wrapper, it must pass its standard input or descriptor 3 on to the interpreter (with `conda run` add"
            " --no-capture-output)"
        )
    fd, secret = found
    agent = peer_of(fd)
    # The other one was made by the same process, if nothing else took its place.
    given = [each for each in DESCRIPTORS if each == fd or (_is_socket(each) and peer_of(each) == agent)]
    for each in given:
        _close(each)
    return Secret(secret, agent_uid=None if agent is None else agent[1])


def _find(prefix: bytes, descriptors: list[int]) -> Optional[tuple[int, bytes]]:
    size = len(prefix) + _SECRET_HEX + 1
    ends_s = time.monotonic() + PATIENCE_S
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
            # It ended, or another program wrote to it, whose words are left where they are.
            if not line or len(line) == size or not line.startswith(prefix[: len(line)]):
                waiting.remove(fd)
        if waiting:
            # A part of the line keeps poll from waiting.
            time.sleep(0.001)
    return None


def _peek(fd: int, size: int) -> Optional[bytes]:
    """What can be read, which stays there: other processes that share the socket may look for it too. Empty: the end.
    None: nothing yet."""
    try:
        with socket.socket(fileno=os.dup(fd)) as peeked:
            return peeked.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _unhex(text: str, source: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise SecretError(f"{source}: expected a secret in hexadecimal digits, got something else") from None


def peer_of(fd: int) -> Optional[tuple[int, ...]]:
    """Who made the other end of a unix socket, as the kernel says: pid, uid, gid. None: the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    try:
        with socket.socket(fileno=os.dup(fd)) as held:
            if option is None or held.family != socket.AF_UNIX:
                return None
            raw = held.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    except OSError:
        return None
    return _CREDENTIALS.unpack(raw) if len(raw) == _CREDENTIALS.size else None


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _close(fd: int) -> None:
    if fd > 2:
        os.close(fd)
        return
    # A later open() must not become the standard input.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, fd)
    os.close(null)
