"""The client against an Execution service of the tests' own."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

import pitwarden
from pitwarden import client as client_module
from pitwarden._pb import execution_pb2 as pb

JSON = "application/json"
PATIENCE_S = 30.0


class FakeExecution:
    """Answers by the command's name; remembers the requests and what became of its streams."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.path = str(self.dir / "agent.sock")
        self.requests: list[pb.ExecuteRequest] = []
        self.time_left_s: list[float] = []
        self.cancelled = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        coding = {
            "request_deserializer": pb.ExecuteRequest.FromString,
            "response_serializer": pb.ExecuteResponse.SerializeToString,
        }
        methods = {
            "Execute": grpc.unary_unary_rpc_method_handler(self._execute, **coding),
            "ExecuteStream": grpc.unary_stream_rpc_method_handler(self._stream, **coding),
        }
        handler = grpc.method_handlers_generic_handler("pitwarden.v1.Execution", methods)
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        shutil.rmtree(self.dir)

    def _execute(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> pb.ExecuteResponse:
        self._note(request, context)
        if request.command == "wait":
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(PATIENCE_S)
        if request.command == "fail":
            self._fail(context)
        # What came goes back as it is.
        return pb.ExecuteResponse(payload=request.payload, content_type=request.content_type, worker_id="w-1")

    def _stream(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> Iterator[pb.ExecuteResponse]:
        self._note(request, context)
        context.add_callback(self.cancelled.set)
        for number in range(3):
            yield pb.ExecuteResponse(payload=str(number).encode(), content_type=JSON)
        if request.command == "fail":
            self._fail(context)
        while request.command == "for_ever" and context.is_active():
            yield pb.ExecuteResponse(payload=b"3", content_type=JSON)

    def _note(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.time_left_s.append(context.time_remaining())

    def _fail(self, context: grpc.ServicerContext) -> None:
        error = pb.Error(
            code=14,
            message="the worker died with the request",
            traceback="é" * 10_000,
            worker_id="w-1",
            exit_reason="out_of_memory",
            retry_after_ms=250,
        )
        context.set_trailing_metadata((("pitwarden-error-bin", error.SerializeToString()),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "short")


@pytest.fixture
def agent() -> Iterator[FakeExecution]:
    agent = FakeExecution()
    yield agent
    agent.stop()


@pytest.fixture
def client(agent: FakeExecution) -> Iterator[pitwarden.Client]:
    with pitwarden.Client(agent.path) as client:
        yield client


def test_call(agent: FakeExecution, client: pitwarden.Client) -> None:
    assert client.call("text", "echo", text="é", timeout=3, pool="p", command="c") == {
        "text": "é",
        "timeout": 3,
        "pool": "p",
        "command": "c",
    }
    assert client.call("text", "echo", 1, None) == [1, None]
    assert client.call("text", "echo", b"\xff") == b"\xff"
    assert client.call("text", "echo") is None
    request = agent.requests[0]
    assert (request.pool, request.command, request.idempotent, request.request_id) == ("text", "echo", False, "")
    assert json.loads(request.payload)["text"] == "é"


def test_options(agent: FakeExecution, client: pitwarden.Client) -> None:
    named = client.options(timeout_s=20, idempotent=True, session_id="s", request_id="r")
    named.call("text", "echo")
    client.call("text", "echo")
    first, second = agent.requests
    assert (first.idempotent, first.session_id, first.request_id) == (True, "s", "r")
    assert (second.idempotent, second.session_id, second.request_id) == (False, "", "")
    # gRPC rounds what it sends.
    assert agent.time_left_s[0] < 21 < agent.time_left_s[1]


def test_stream(client: pitwarden.Client) -> None:
    assert list(client.stream("text", "tokens")) == [0, 1, 2]


def test_leaving_a_stream_early_cancels_it(agent: FakeExecution, client: pitwarden.Client) -> None:
    for value in client.stream("text", "for_ever"):
        if value == 3:
            break
    assert agent.cancelled.wait(PATIENCE_S)


def test_errors_carry_what_the_agent_told(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    with pytest.raises(pitwarden.Unavailable) as streamed:
        list(client.stream("text", "fail"))
    for error in (caught.value, streamed.value):
        assert (error.code, error.message) == (14, "the worker died with the request")
        assert (error.worker_id, error.exit_reason, error.retry_after_s) == ("w-1", "out_of_memory", 0.25)
        assert error.traceback == "é" * 10_000


def test_deadline(agent: FakeExecution, client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.DeadlineExceeded):
        client.options(timeout_s=0.05).call("text", "wait")
    assert agent.cancelled.wait(PATIENCE_S)


def test_nobody_listens() -> None:
    with pitwarden.Client("/nonexistent/agent.sock") as client:
        with pytest.raises(pitwarden.Unavailable, match=r"^unix:/nonexistent/agent\.sock: "):
            client.call("text", "echo")
        with pytest.raises(pitwarden.Unavailable):
            list(client.stream("text", "echo"))


def test_arguments_that_cannot_be_sent(agent: FakeExecution, client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.InvalidArgument):
        client.call("text", "echo", 1, b=2)
    with pytest.raises(pitwarden.InvalidArgument):
        client.stream("text", "tokens", {1})
    assert agent.requests == []


TARGETS = [
    ("/run/a.sock", {}, 0, "unix:/run/a.sock"),
    ("unix:a.sock", {}, 0, "unix:a.sock"),
    ("127.0.0.1:7070", {"PITWARDEN_SOCKET": "/x"}, 0, "127.0.0.1:7070"),
    (None, {"PITWARDEN_SOCKET": "/x"}, 0, "unix:/x"),
    (None, {"XDG_RUNTIME_DIR": "/run/user/7"}, 0, "unix:/run/pitwarden/agent.sock"),
    (None, {"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "unix:/run/user/7/pitwarden/agent.sock"),
    (None, {}, 7, "unix:/tmp/pitwarden-7/agent.sock"),
]


@pytest.mark.parametrize(("named", "env", "uid", "target"), TARGETS)
def test_target(monkeypatch: pytest.MonkeyPatch, named: str | None, env: dict[str, str], uid: int, target: str) -> None:
    for name in ("PITWARDEN_SOCKET", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client_module.os, "geteuid", lambda: uid)
    monkeypatch.setattr(client_module.os, "getuid", lambda: uid)
    monkeypatch.setattr(client_module.tempfile, "gettempdir", lambda: "/tmp")
    with pitwarden.Client(named) as client:
        assert client.target == target
