"""Calls commands from Python."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn, Optional

import grpc

from . import _codec
from ._pb import execution_pb2 as pb
from .errors import Code, error_class

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
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class _Options(NamedTuple):
    timeout_s: Optional[float] = None
    idempotent: bool = False
    session_id: str = ""
    request_id: str = ""


class Client:
    """Calls an agent's commands; may be shared by threads.

        with pitwarden.Client() as client:
            count = client.call("text", "count_words", text="a b a")
            for token in client.stream("text", "tokens", text="one by one"):
                ...
            client.options(timeout_s=5, idempotent=True).call("text", "count_words", text="a b a")

    A command's arguments are given as they are, so what concerns the call itself is said with ``options``. What fails
    raises pitwarden.Error, or the subclass of its code.
    """

    def __init__(self, target: Optional[str] = None) -> None:
        """``target`` is a gRPC target or the path of a unix socket; None: that of the agent on this machine."""
        self.target = _target(target)
        self._channel = grpc.insecure_channel(self.target, options=_OPTIONS)
        encode, decode = pb.ExecuteRequest.SerializeToString, pb.ExecuteResponse.FromString
        self._execute = self._channel.unary_unary(_EXECUTE, encode, decode)
        self._execute_stream = self._channel.unary_stream(_EXECUTE_STREAM, encode, decode)
        self._options = _Options()

    def options(
        self,
        *,
        timeout_s: Optional[float] = None,
        idempotent: bool = False,
        session_id: str = "",
        request_id: str = "",
    ) -> Client:
        """The same client, for calls with these options.

        Without ``timeout_s`` the pool's own timeout holds. An ``idempotent`` request may run again when the worker that
        had it died. ``session_id`` and ``request_id`` are names that the command sees in its context.
        """
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__)
        other._options = _Options(timeout_s, idempotent, session_id, request_id)
        return other

    def call(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Any:
        """The command's result. Give it positional or keyword arguments, or one bytes value."""
        request = self._request(pool, command, args, kwargs)
        try:
            response = self._execute(request, timeout=self._options.timeout_s)
        except grpc.RpcError as error:
            self._raise(error)
        return _codec.decode_result(response.payload, response.content_type)

    def stream(self, pool: str, command: str, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The values that a generator command yields, as they come; leaving the loop early cancels the request."""
        request = self._request(pool, command, args, kwargs)
        return self._values(self._execute_stream(request, timeout=self._options.timeout_s))

    def close(self) -> None:
        """Ends what is still running, of every client that came from this one by ``options``."""
        self._channel.close()

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
            request_id=self._options.request_id,
            session_id=self._options.session_id,
            idempotent=self._options.idempotent,
        )

    def _values(self, responses: Any) -> Iterator[Any]:
        try:
            for response in responses:
                yield _codec.decode_result(response.payload, response.content_type)
        except grpc.RpcError as error:
            self._raise(error)
        finally:
            responses.cancel()

    def _raise(self, failure: Any) -> NoReturn:
        told = _told(failure.trailing_metadata() or ())
        if told is None:
            # Not the agent's words: gRPC's own, for a deadline that passed here or a socket that nobody holds.
            code = Code(failure.code().value[0])
            raise error_class(code)(f"{self.target}: {failure.details()}", code=code) from None
        code = Code(told.code)
        raise error_class(code)(
            told.message,
            code=code,
            type=told.type,
            traceback=told.traceback,
            worker_id=told.worker_id,
            exit_reason=told.exit_reason,
            retry_after_s=told.retry_after_ms / 1000,
        ) from None


def _told(trailers: Iterable[tuple[str, Any]]) -> Optional[pb.Error]:
    for name, value in trailers:
        if name == "pitwarden-error-bin":
            return pb.Error.FromString(value)
    return None


def _target(named: Optional[str]) -> str:
    target = named or os.environ.get("PITWARDEN_SOCKET", "") or _default_socket()
    return f"unix:{target}" if target.startswith(("/", "./", "../")) else target


def _default_socket() -> str:
    # As the agent chooses its runtime_dir.
    if os.geteuid() == 0:
        return "/run/pitwarden/agent.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = os.path.join(tempfile.gettempdir(), f"pitwarden-{os.getuid()}")
    return os.path.join(runtime, "pitwarden", "agent.sock") if runtime else os.path.join(own, "agent.sock")
