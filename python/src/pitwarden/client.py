"""The public Client: calls commands through an agent.

If a connection breaks, the client sends the request again under the same request_id. The agent, or its successor, then
returns the answer of the command that runs or has run under that id, and runs the command only if it does not know the
id. docs/delivery.md says what this guarantees and what it cannot.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, Optional

import grpc

from . import _codec, _grpc_forks
from ._address import unix_address
from ._agent_socket import socket_address, socket_path
from ._attempts import AgentState, Attempts, agent_error
from ._pb import execution_pb2 as pb
from ._socket_trust import SocketTrust
from .errors import Code, Error, FailedPrecondition, RemoteTraceback, error_class

_EXECUTE = "/pitwarden.v1.Execution/Execute"
_EXECUTE_STREAM = "/pitwarden.v1.Execution/ExecuteStream"

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
    # The trailer of an error has a traceback; gRPC's default limit is 8 KiB.
    ("grpc.max_metadata_size", 64 * 1024),
    # gRPC's default waits up to 2 minutes before it dials again, but an agent on this machine is back in a moment.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)

# What grpc-js reports for a message beyond its limit.
_TOO_LARGE = "message larger than max"


class _Options(NamedTuple):
    timeout_s: Optional[float] = None
    idempotent: bool = False
    session_id: str = ""
    request_id: str = ""
    repeat_for_s: Optional[float] = None
    on_progress: Optional[Callable[[float, str], None]] = None


class Client:
    """Calls the commands of an agent. Threads may share a client.

        with pitwarden.Client() as client:
            count = client.call("text", "count_words", text="a b a")
            for token in client.stream("text", "tokens", text="one by one"):
                ...
            client.options(timeout_s=5, idempotent=True).call("text", "count_words", text="a b a")

    All keyword arguments of ``call`` and ``stream`` go to the command; settings of the call itself go to ``options``. A
    request that fails raises pitwarden.Error, or its subclass for the error's code.

    Calls survive a restart of the agent. If the connection breaks, the client sends the request again under the same
    id, and gets the answer of the command that runs or has run under it. So a command runs once, unless its worker
    dies, or the next agent comes too late for the worker. If the command has run but its answer is lost, the call
    raises DataLoss. A client that has never reached an agent does not wait for one: its calls raise Unavailable.
    """

    def __init__(self, target: Optional[str] = None) -> None:
        """``target`` is a gRPC target or the path of a unix socket. Default: PITWARDEN_SOCKET, which is set in workers,
        or the default socket of this user's agent on this machine.

        Raises InvalidArgument or Unavailable for a path that cannot be dialled, and FailedPrecondition in a process
        that was forked while gRPC ran.

        The client does not dial a socket that another user may have put there: calls then raise FailedPrecondition. The
        socket must belong to root, to you, or, if you name its path, to the owner of its folder; and other users must
        not be able to write to the folder.
        """
        _refuse_after_fork()
        named = target or os.environ.get("PITWARDEN_SOCKET", "")
        path = socket_path(named)
        self.target = named if path is None else unix_address(path)
        self._address = None if path is None else socket_address(path)
        dialled, options = (self.target, ()) if self._address is None else (self._address.target, self._address.options)
        self._channel = grpc.insecure_channel(dialled, options=(*_CHANNEL_OPTIONS, *options))
        _grpc_forks.channel_opened(self._channel)
        encode, decode = pb.ExecuteRequest.SerializeToString, pb.ExecuteResponse.FromString
        self._execute = self._channel.unary_unary(_EXECUTE, encode, decode)
        self._execute_stream = self._channel.unary_stream(_EXECUTE_STREAM, encode, decode)
        self._options = _Options()
        self._agent = AgentState(None if path is None else SocketTrust(path, named=named != ""))

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
        """Returns a client with these options for its calls, on the same connection. Options that you do not give have
        their defaults, whatever this client's are.

        timeout_s     seconds until the call fails with DeadlineExceeded; None: the pool's ``request.timeout``
        idempotent    True: the command may run again if its worker dies
        session_id    a name that the command sees in its context
        request_id    the same; calls with one id are one request; default: a new id for each call
        repeat_for_s  seconds that the request may be without a connection while it is sent again; 0: it is never sent
                      again; None: 60 without a ``timeout_s``, and until ``timeout_s`` otherwise
        on_progress   called with the fraction (0 to 1; negative: unknown) and the message of the command's latest
                      ``context().progress()``, at most ten times a second, in the thread that waits for the result or
                      the stream's next value; if it raises, the request is cancelled and the call raises the same
        """
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__)
        other._options = _Options(timeout_s, idempotent, session_id, request_id, repeat_for_s, on_progress)
        return other

    def call(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a command and returns its result: a JSON value, or bytes.

        The arguments must be JSON values, or a single ``bytes`` object. Raises InvalidArgument for others, and for a
        command that streams.
        """
        if self._options.on_progress is not None:
            return _single_value(self.stream(pool, command, *args, **kwargs), command)
        _refuse_after_fork()
        request = self._request(pool, command, args, kwargs)
        attempts = self._attempts()
        while True:
            self._agent.check()
            try:
                with _open_channel():
                    response = self._execute(request, timeout=attempts.timeout_s)
            except grpc.RpcError as failure:
                if not attempts.wait_for_next(failure):
                    self._raise(failure)
            else:
                self._agent.was_reached = True
                return _codec.decode_result(response.payload, response.content_type)

    def stream(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Runs a generator command and yields its values as they come. Closing the iterator cancels the request.

        Arguments and errors are those of ``call``. After a broken connection the agent replays all values, and the
        client skips those that it has yielded.
        """
        _refuse_after_fork()
        request = self._request(pool, command, args, kwargs)
        attempts = self._attempts()
        self._agent.check()
        return self._values(request, attempts, self._execute_stream(request, timeout=attempts.timeout_s))

    def close(self) -> None:
        """Closes the connection and cancels all running calls, also those of clients made by ``options``."""
        self._channel.close()
        _grpc_forks.channel_closed(self._channel)
        if self._address is not None:
            self._address.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempts(self) -> Attempts:
        return Attempts(self._options.timeout_s, self._options.repeat_for_s, self._agent)

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

    def _values(self, request: pb.ExecuteRequest, attempts: Attempts, responses: Any) -> Iterator[Any]:
        yielded, worker_id = 0, ""
        try:
            while True:
                try:
                    for number, response in enumerate(self._value_responses(responses)):
                        self._agent.was_reached = True
                        if number < yielded and response.worker_id != worker_id and not request.idempotent:
                            raise _rerun_elsewhere()
                        if number == yielded:
                            yielded, worker_id = yielded + 1, response.worker_id
                            yield _codec.decode_result(response.payload, response.content_type)
                    return
                except grpc.RpcError as failure:
                    if not attempts.wait_for_next(failure):
                        self._raise(failure)
                self._agent.check()
                with _open_channel():
                    responses = self._execute_stream(request, timeout=attempts.timeout_s)
        finally:
            responses.cancel()

    def _value_responses(self, responses: Any) -> Iterator[pb.ExecuteResponse]:
        """Yields the responses with values. Passes the progress reports among them to ``on_progress``."""
        for response in responses:
            if not response.HasField("progress"):
                yield response
            elif self._options.on_progress is not None:
                self._options.on_progress(response.progress.fraction, response.progress.message)

    def _raise(self, failure: Any) -> NoReturn:
        error = agent_error(failure)
        if error is None:
            # gRPC itself has failed: the timeout passed in this process, or nobody listens at the socket.
            code = Code(failure.code().value[0])
            details = failure.details() or ""
            if code is Code.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
                details = (
                    f"{details}: message.max_bytes in the agent's configuration is what requests and results may have"
                )
            raise error_class(code)(f"{self.target}: {details}", code=code) from None
        self._agent.was_reached = True
        code = Code(error.code)
        raise error_class(code)(
            error.message,
            code=code,
            type=error.type,
            traceback=error.traceback,
            worker_id=error.worker_id,
            exit_reason=error.exit_reason,
            retry_after_s=error.retry_after_ms / 1000,
            # An agent that does not set the field does not know.
            may_have_begun=error.may_have_begun or not error.HasField("may_have_begun"),
        ) from (RemoteTraceback(error.traceback) if error.traceback else None)


def _single_value(values: Any, command: str) -> Any:
    """The only value of the stream. Raises InvalidArgument if the command streams more or none."""
    with contextlib.closing(values):
        found = list(itertools.islice(values, 2))
    if len(found) == 1:
        return found[0]
    message = f"command {command} streams its results: expected Client.stream, got Client.call"
    raise error_class(Code.INVALID_ARGUMENT)(message, code=Code.INVALID_ARGUMENT)


def _refuse_after_fork() -> None:
    if _grpc_forks.is_unusable():
        raise FailedPrecondition(
            "a Client does not work in this process: it was forked from one in which gRPC runs, as it does in every "
            'worker. Start it another way (multiprocessing.get_context("spawn")), make the call in the parent, or, '
            "outside of a worker, close every Client before the fork"
        )


def _rerun_elsewhere() -> Error:
    message = (
        "the stream was lost with its worker, and another worker began it again: "
        "the earlier values belong to the lost stream"
    )
    return error_class(Code.DATA_LOSS)(message, code=Code.DATA_LOSS)


@contextlib.contextmanager
def _open_channel() -> Iterator[None]:
    """Raises Cancelled if the client was closed, perhaps while this thread paused before another attempt."""
    try:
        yield
    except ValueError as error:
        # What grpcio raises for a closed channel.
        raise error_class(Code.CANCELLED)(f"the client is closed: {error}", code=Code.CANCELLED) from None
