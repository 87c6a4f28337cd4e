"""Calls commands from Python.

A request whose connection broke is sent again under the same request_id. The agent, or its successor, then gives the
answer of the command that runs or has run under that id; only an id that it does not know begins one. docs/delivery.md
says what that promises and what it cannot.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, Optional

import grpc

from . import _codec, _grpc_forks
from ._address import Address, AddressError, path_of, unix_address
from ._pb import execution_pb2 as pb
from ._trust import SocketTrust
from .errors import Code, Error, FailedPrecondition, InvalidArgument, RemoteTraceback, Unavailable, error_class

_EXECUTE = "/pitwarden.v1.Execution/Execute"
_EXECUTE_STREAM = "/pitwarden.v1.Execution/ExecuteStream"

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
    # An error's trailer holds a traceback; gRPC would refuse more than 8 KiB.
    ("grpc.max_metadata_size", 64 * 1024),
    # gRPC waits up to 2 minutes before it tries a socket again, but an agent on this machine is back in a moment.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)

# Between two tries of one request.
_PAUSE_MIN_S = 0.02
_PAUSE_MAX_S = 0.5

_REPEAT_FOR_S = 60.0

# What gRPC says of a request whose connection broke, besides UNAVAILABLE: how a server closes its streams decides.
_BROKEN = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_BROKEN_WORDS = ("RST_STREAM", "Stream removed")
# And where there never was one.
# What grpc-js says of a message beyond its limit.
_TOO_LARGE = "message larger than max"
_REFUSED_WORDS = ("failed to connect", "DNS resolution failed", "empty address list")


class _Options(NamedTuple):
    timeout_s: Optional[float] = None
    idempotent: bool = False
    session_id: str = ""
    request_id: str = ""
    repeat_for_s: Optional[float] = None
    on_progress: Optional[Callable[[float, str], None]] = None


class _Agent:
    """What the clients of one channel know of their agent."""

    __slots__ = ("trust", "was_there")

    def __init__(self, trust: Optional[SocketTrust]) -> None:
        """``trust``: of its unix socket, if it has one with a path."""
        self.trust = trust
        self.was_there = False

    def check(self) -> None:
        """To be called before each attempt: by now somebody else may listen there."""
        problem = None if self.trust is None else self.trust.problem()
        if problem is not None:
            raise FailedPrecondition(problem)


class _Attempts:
    """Those of one request: how long the next may take, and whether there is one after a failure."""

    __slots__ = ("_agent", "_began_s", "_ends_s", "_left_s", "_pause_s")

    def __init__(self, options: _Options, agent: _Agent) -> None:
        self._agent = agent
        self._began_s = time.monotonic()
        self._ends_s = math.inf if options.timeout_s is None else self._began_s + options.timeout_s
        # Of the time without a connection.
        default_s = _REPEAT_FOR_S if options.timeout_s is None else math.inf
        self._left_s = default_s if options.repeat_for_s is None else options.repeat_for_s
        self._pause_s = _PAUSE_MIN_S

    @property
    def timeout_s(self) -> Optional[float]:
        return None if self._ends_s == math.inf else max(0.0, self._ends_s - time.monotonic())

    def goes_on(self, failure: Any) -> bool:
        """After a pause, True: try again. False: the failure is what the caller is to be told."""
        if not _is_broken(failure):
            return False
        now_s = time.monotonic()
        lasted_s, was_refused = now_s - self._began_s, _was_refused(failure)
        if was_refused and not self._agent.was_there:
            return False
        self._agent.was_there = True
        if was_refused:
            self._left_s -= lasted_s
        elif lasted_s > _PAUSE_MAX_S:
            self._pause_s = _PAUSE_MIN_S
        pause_s = min(self._pause_s * random.uniform(0.5, 1.0), self._ends_s - now_s)
        self._left_s -= pause_s
        if self._left_s < 0:
            return False
        self._pause_s = min(self._pause_s * 1.5, _PAUSE_MAX_S)
        time.sleep(max(0.0, pause_s))
        self._began_s = time.monotonic()
        return True


class Client:
    """Calls an agent's commands; may be shared by threads.

        with pitwarden.Client() as client:
            count = client.call("text", "count_words", text="a b a")
            for token in client.stream("text", "tokens", text="one by one"):
                ...
            client.options(timeout_s=5, idempotent=True).call("text", "count_words", text="a b a")

    A command's arguments are given as they are, so what concerns the call itself is said with ``options``. What fails
    raises pitwarden.Error, or the subclass of its code.

    A call lives through the death of the agent and the coming of its successor: when its connection breaks the client
    sends the request again, under the id that it gave it, and gets the answer of the command that runs or has run under
    it. So a command runs once, unless the worker itself died, or an agent came back too late for its workers. Where the
    answer is lost though the command has run, the call raises DataLoss. A client that has never reached an agent
    does not wait for one: its call raises Unavailable at once.
    """

    def __init__(self, target: Optional[str] = None) -> None:
        """``target`` is a gRPC target or the path of a unix socket; None: that of the agent on this machine, and in a
        worker that of its own agent.

        A socket that another user may have put there is not dialled: it must belong to root, to this user, or to the
        owner of its folder if you name it, and its folder must be closed to others.
        """
        _refuse_after_fork()
        named = target or os.environ.get("PITWARDEN_SOCKET", "")
        path = _socket_path(named)
        self.target = named if path is None else unix_address(path)
        self._address = None if path is None else _address_of(path)
        dialled, options = (self.target, ()) if self._address is None else (self._address.target, self._address.options)
        self._channel = grpc.insecure_channel(dialled, options=(*_OPTIONS, *options))
        _grpc_forks.opened(self._channel)
        encode, decode = pb.ExecuteRequest.SerializeToString, pb.ExecuteResponse.FromString
        self._execute = self._channel.unary_unary(_EXECUTE, encode, decode)
        self._execute_stream = self._channel.unary_stream(_EXECUTE_STREAM, encode, decode)
        self._options = _Options()
        self._agent = _Agent(None if path is None else SocketTrust(path, named=named != ""))

    def options(
        self,
        *,
        timeout_s: Optional[float] = None,
        idempotent: bool = False,
        session_id: str = "",
        request_id: str = "",
        repeat_for_s: Optional[float] = None,
        on_progress: Optional[Callable[[float, str], None]] = None,
    ) -> Client:
        """The same client, for calls with these options.

        Without ``timeout_s`` the pool's own timeout holds. An ``idempotent`` request may run again when the worker that
        had it died. ``session_id`` and ``request_id`` are names that the command sees in its context; without a
        ``request_id`` each call gets one of its own, and two calls of one id are one request.

        A request whose connection broke is sent again until ``timeout_s`` is over. ``repeat_for_s`` bounds the seconds
        without a connection meanwhile: None is 60 without a ``timeout_s``, and no bound of its own with one; 0 never
        sends anything again.

        ``on_progress`` is called with the fraction (0 to 1; negative: unknown) and the message that the command last
        reported by ``context().progress()``, at most ten times a second. It runs in the thread that waits for the
        result; for a stream, while the next value is waited for. What it raises cancels the request, and the call
        raises it.
        """
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__)
        other._options = _Options(timeout_s, idempotent, session_id, request_id, repeat_for_s, on_progress)
        return other

    def call(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Any:
        """The command's result. Give it positional and keyword arguments, or one bytes value alone."""
        if self._options.on_progress is not None:
            return _only(self.stream(pool, command, *args, **kwargs), command)
        _refuse_after_fork()
        request = self._request(pool, command, args, kwargs)
        attempts = _Attempts(self._options, self._agent)
        while True:
            self._agent.check()
            try:
                with _open_channel():
                    response = self._execute(request, timeout=attempts.timeout_s)
            except grpc.RpcError as failure:
                if not attempts.goes_on(failure):
                    self._raise(failure)
            else:
                self._agent.was_there = True
                return _codec.decode_result(response.payload, response.content_type)

    def stream(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The values that a generator command yields, as they come; leaving the loop early cancels the request.

        After a broken connection the agent says all of them again from the first; those that came before are left out.
        """
        _refuse_after_fork()
        request = self._request(pool, command, args, kwargs)
        attempts = _Attempts(self._options, self._agent)
        self._agent.check()
        return self._values(request, attempts, self._execute_stream(request, timeout=attempts.timeout_s))

    def close(self) -> None:
        """Ends what is still running, of every client that came from this one by ``options``."""
        self._channel.close()
        _grpc_forks.closed(self._channel)
        if self._address is not None:
            self._address.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, pool: str, command: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> pb.ExecuteRequest:
        payload, content_type = _codec.encode_arguments(args, kwargs)
        return pb.ExecuteRequest(
            pool=pool,
            command=command,
            payload=payload,
            content_type=content_type,
            request_id=self._options.request_id or uuid.uuid4().hex,
            session_id=self._options.session_id,
            idempotent=self._options.idempotent,
            progress=self._options.on_progress is not None,
        )

    def _values(self, request: pb.ExecuteRequest, attempts: _Attempts, responses: Any) -> Iterator[Any]:
        yielded, worker_id = 0, ""
        try:
            while True:
                try:
                    for number, response in enumerate(self._results(responses)):
                        self._agent.was_there = True
                        if number < yielded and response.worker_id != worker_id and not request.idempotent:
                            raise _another_run()
                        if number == yielded:
                            yielded, worker_id = yielded + 1, response.worker_id
                            yield _codec.decode_result(response.payload, response.content_type)
                    return
                except grpc.RpcError as failure:
                    if not attempts.goes_on(failure):
                        self._raise(failure)
                self._agent.check()
                with _open_channel():
                    responses = self._execute_stream(request, timeout=attempts.timeout_s)
        finally:
            responses.cancel()

    def _results(self, responses: Any) -> Iterator[pb.ExecuteResponse]:
        """Without the reports among them, which go where they are wanted."""
        for response in responses:
            if not response.HasField("progress"):
                yield response
            elif self._options.on_progress is not None:
                self._options.on_progress(response.progress.fraction, response.progress.message)

    def _raise(self, failure: Any) -> NoReturn:
        told = _told(failure)
        if told is None:
            # Not the agent's words: gRPC's own, for a deadline that passed here or a socket that nobody holds.
            code = Code(failure.code().value[0])
            details = failure.details() or ""
            if code is Code.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
                details = (
                    f"{details}: message.max_bytes in the agent's configuration is what requests and results may have"
                )
            raise error_class(code)(f"{self.target}: {details}", code=code) from None
        self._agent.was_there = True
        code = Code(told.code)
        raise error_class(code)(
            told.message,
            code=code,
            type=told.type,
            traceback=told.traceback,
            worker_id=told.worker_id,
            exit_reason=told.exit_reason,
            retry_after_s=told.retry_after_ms / 1000,
            # An agent that does not say may not know.
            may_have_begun=told.may_have_begun or not told.HasField("may_have_begun"),
        ) from (RemoteTraceback(told.traceback) if told.traceback else None)


def _only(values: Any, command: str) -> Any:
    """The value of a command that returns one; a generator command's values are for ``stream``."""
    with contextlib.closing(values):
        found = list(itertools.islice(values, 2))
    if len(found) == 1:
        return found[0]
    told = f"command {command} streams its results: expected Client.stream, got Client.call"
    raise error_class(Code.INVALID_ARGUMENT)(told, code=Code.INVALID_ARGUMENT)


def _refuse_after_fork() -> None:
    if _grpc_forks.is_lost():
        raise FailedPrecondition(
            "a Client does not work in this process: it was forked from one in which gRPC runs, as it does in every "
            'worker. Start it another way (multiprocessing.get_context("spawn")), make the call in the parent, or, '
            "outside of a worker, close every Client before the fork"
        )


def _another_run() -> Error:
    told = (
        "the stream was lost with its worker, and another worker began it again: "
        "the earlier values belong to the lost stream"
    )
    return error_class(Code.DATA_LOSS)(told, code=Code.DATA_LOSS)


@contextlib.contextmanager
def _open_channel() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # grpcio's way to say that `close` was called, perhaps while this thread waited for an agent.
        raise error_class(Code.CANCELLED)(f"the client is closed: {error}", code=Code.CANCELLED) from None


def _told(failure: Any) -> Optional[pb.Error]:
    for name, value in failure.trailing_metadata() or ():
        if name == "pitwarden-error-bin":
            return pb.Error.FromString(value)
    return None


def _is_broken(failure: Any) -> bool:
    """The connection failed, and not the request."""
    if _told(failure) is not None:
        return False
    code, words = failure.code(), failure.details() or ""
    if code in _BROKEN:
        return any(broken in words for broken in _BROKEN_WORDS)
    return code is grpc.StatusCode.UNAVAILABLE


def _was_refused(failure: Any) -> bool:
    """There was no connection on which the request could have been sent."""
    return (failure.details() or "").startswith(_REFUSED_WORDS)


def _socket_path(named: str) -> Optional[str]:
    """None: another kind of target."""
    if not named:
        return _default_socket()
    return named if named.startswith(("/", "./", "../")) else path_of(named)


def _address_of(path: str) -> Address:
    try:
        return Address(path)
    except AddressError as error:
        raise InvalidArgument(str(error)) from None
    except OSError as error:
        raise Unavailable(f"{unix_address(path)}: {error}") from None


def _default_socket() -> str:
    # As the agent chooses its runtime_dir.
    if os.getuid() == 0:
        return "/run/pitwarden/agent.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = os.path.join(runtime, "pitwarden") if runtime else f"{_temporary_folder()}/pitwarden-{os.getuid()}"
    return os.path.join(folder, "agent.sock")


def _temporary_folder() -> str:
    """As Node finds it, and so the agent. tempfile's is another where it cannot be written to."""
    folder = next(filter(None, map(os.environ.get, ("TMPDIR", "TMP", "TEMP"))), "/tmp")
    return folder.rstrip("/")
