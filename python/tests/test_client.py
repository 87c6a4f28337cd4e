"""The client with a FakeExecution in place of an agent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Optional

import grpc
import pytest

import pitwarden
from pitwarden import _agent_socket
from pitwarden._pb import execution_pb2 as pb

JSON = "application/json"
PATIENCE_S = 30.0


class FakeExecution:
    """Serves Execution. The name of the command says how it answers. Remembers the requests."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.path = str(self.dir / "agent.sock")
        self.requests: list[pb.ExecuteRequest] = []
        self.time_left_s: list[float] = []
        self.cancelled = threading.Event()
        # How many of the next requests are recorded and never answered.
        self.swallows = 0
        self.swallowed = threading.Semaphore(0)
        self.may_have_begun: Optional[bool] = None
        self.start()

    def start(self) -> None:
        """Listens. Call it again after ``kill``, as if the next agent had come."""
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

    def kill(self) -> None:
        """Breaks all streams and refuses connections."""
        self._server.stop(None).wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.dir)

    def _execute(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> pb.ExecuteResponse:
        self._record(request, context)
        if request.command == "wait":
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(PATIENCE_S)
        if request.command == "fail":
            self._fail(context)
        if request.command == "too_large":
            # The words of grpc-js.
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs 4)")
        if request.command == "ignore":
            return pb.ExecuteResponse()
        # An echo of the request.
        return pb.ExecuteResponse(payload=request.payload, content_type=request.content_type, worker_id="w-1")

    def _stream(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> Iterator[pb.ExecuteResponse]:
        self._record(request, context)
        context.add_callback(self.cancelled.set)
        if request.command == "report":
            for percent in (10, 90):
                yield pb.ExecuteResponse(progress=pb.ProgressReport(fraction=percent / 100, message=f"{percent} %"))
            yield pb.ExecuteResponse(payload=b"7", content_type=JSON)
            return
        for number in range(3):
            if request.command == "break" and number == 2:
                self._swallow(context)
            yield pb.ExecuteResponse(payload=str(number).encode(), content_type=JSON)
        if request.command == "fail":
            self._fail(context)
        while request.command == "for_ever" and context.is_active():
            yield pb.ExecuteResponse(payload=b"3", content_type=JSON)

    def _record(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.time_left_s.append(context.time_remaining())
        if request.command != "break":
            self._swallow(context)

    def _swallow(self, context: grpc.ServicerContext) -> None:
        if self.swallows:
            self.swallows -= 1
            over = threading.Event()
            context.add_callback(over.set)
            self.swallowed.release()
            over.wait(PATIENCE_S)

    def _fail(self, context: grpc.ServicerContext) -> None:
        error = pb.Error(
            code=14,
            message="the worker died with the request",
            traceback="é" * 10_000,
            worker_id="w-1",
            exit_reason="out_of_memory",
            retry_after_ms=250,
            may_have_begun=self.may_have_begun,
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


def test_call_sends_the_arguments_and_returns_the_result(agent: FakeExecution, client: pitwarden.Client) -> None:
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
    assert (request.pool, request.command, request.idempotent) == ("text", "echo", False)
    assert [len(request.request_id) for request in agent.requests] == [32] * 4
    assert len({request.request_id for request in agent.requests}) == 4
    assert json.loads(request.payload)["text"] == "é"


def test_options_apply_to_the_calls_of_the_client_that_they_return(
    agent: FakeExecution, client: pitwarden.Client
) -> None:
    named = client.options(timeout_s=20, idempotent=True, session_id="s", request_id="r")
    named.call("text", "echo")
    client.call("text", "echo")
    first, second = agent.requests
    assert (first.idempotent, first.session_id, first.request_id) == (True, "s", "r")
    assert (second.idempotent, second.session_id, second.request_id == "r") == (False, "", False)
    # gRPC rounds timeouts.
    assert agent.time_left_s[0] < 21 < agent.time_left_s[1]


def test_progress_reports_reach_a_caller_that_asks_for_them(agent: FakeExecution, client: pitwarden.Client) -> None:
    seen: list[tuple[float, str]] = []
    asking = client.options(on_progress=lambda fraction, message: seen.append((fraction, message)))
    assert asking.call("text", "report") == 7
    assert list(asking.stream("text", "report")) == [7]
    assert seen == [(0.1, "10 %"), (0.9, "90 %")] * 2
    client.call("text", "echo")
    assert [request.progress for request in agent.requests] == [True, True, False]


def test_a_call_with_progress_refuses_a_command_that_streams(agent: FakeExecution, client: pitwarden.Client) -> None:
    asking = client.options(on_progress=lambda fraction, message: None)
    with pytest.raises(pitwarden.InvalidArgument, match=r"expected Client\.stream, got Client\.call"):
        asking.call("text", "for_ever")
    assert agent.cancelled.wait(PATIENCE_S)


def test_an_exception_in_on_progress_cancels_the_request_and_reaches_the_caller(
    agent: FakeExecution, client: pitwarden.Client
) -> None:
    def refuse(fraction: float, message: str) -> None:
        raise KeyError(message)

    with pytest.raises(KeyError, match="10 %"):
        client.options(on_progress=refuse).call("text", "report")
    assert agent.cancelled.wait(PATIENCE_S)


def test_stream_yields_the_values_of_a_command(client: pitwarden.Client) -> None:
    assert list(client.stream("text", "tokens")) == [0, 1, 2]


def test_leaving_a_stream_early_cancels_it(agent: FakeExecution, client: pitwarden.Client) -> None:
    for value in client.stream("text", "for_ever"):
        if value == 3:
            break
    assert agent.cancelled.wait(PATIENCE_S)


def test_an_error_has_all_details_that_the_agent_sent(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    with pytest.raises(pitwarden.Unavailable) as streamed:
        list(client.stream("text", "fail"))
    for error in (caught.value, streamed.value):
        assert (error.code, error.message) == (14, "the worker died with the request")
        assert (error.worker_id, error.exit_reason, error.retry_after_s) == ("w-1", "out_of_memory", 0.25)
        assert error.traceback == "é" * 10_000


@pytest.mark.parametrize(("sent", "expected"), [(None, True), (True, True), (False, False)])
def test_may_have_begun_is_false_only_if_the_agent_says_so(
    agent: FakeExecution, client: pitwarden.Client, sent: Optional[bool], expected: bool
) -> None:
    agent.may_have_begun = sent
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    assert caught.value.may_have_begun is expected


def test_the_traceback_of_an_error_includes_the_one_in_the_worker(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert "é" * 10_000 in shown
    assert "The above exception was the direct cause of the following exception" in shown


def test_positional_and_keyword_arguments_can_be_mixed(agent: FakeExecution, client: pitwarden.Client) -> None:
    client.call("text", "ignore", 1, "a", b=2)
    request = agent.requests[0]
    assert request.content_type == "application/vnd.pitwarden.arguments+json"
    assert json.loads(request.payload) == {"args": [1, "a"], "kwargs": {"b": 2}}


def test_the_error_for_a_message_that_is_too_large_names_the_setting(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.ResourceExhausted, match=r"message\.max_bytes"):
        client.call("text", "too_large")


def test_a_call_beyond_its_timeout_raises_deadline_exceeded_and_is_cancelled(
    agent: FakeExecution, client: pitwarden.Client
) -> None:
    # Connects first: a call that times out while it connects never reaches the agent, which then sees no cancel.
    client.call("text", "echo")
    with pytest.raises(pitwarden.DeadlineExceeded):
        client.options(timeout_s=1).call("text", "wait")
    assert agent.cancelled.wait(PATIENCE_S)


def test_a_client_that_has_never_reached_an_agent_fails_at_once() -> None:
    with pitwarden.Client("/nonexistent/agent.sock") as client:
        with pytest.raises(pitwarden.Unavailable, match=r"^unix:/nonexistent/agent\.sock: "):
            client.call("text", "echo")
        with pytest.raises(pitwarden.Unavailable):
            list(client.stream("text", "echo"))


class Wire:
    """A connection between client and agent that a test can cut, as the kernel does if an agent is killed."""

    def __init__(self, agent: FakeExecution) -> None:
        self._agent = agent
        self.path = str(agent.dir / "wire.sock")
        self._ends: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cuts all connections and stops listening."""
        os.unlink(self.path)
        # Without this, accept() in another thread would not return.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cuts all connections."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._agent.path)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(agent: FakeExecution) -> Iterator[Wire]:
    wire = Wire(agent)
    yield wire
    wire.close()


BREAKS: dict[str, Callable[[FakeExecution, Wire], object]] = {
    "the connection is cut": lambda _, wire: wire.cut(),
    "the socket is gone for a while": lambda _, wire: (wire.close(), time.sleep(0.3), wire.open()),
    "the agent ends its streams": lambda agent, wire: (agent.kill(), agent.start()),
}


def break_when_swallowed(agent: FakeExecution, wire: Wire, breaks: Callable[[FakeExecution, Wire], object]) -> None:
    """Calls ``breaks`` as soon as the agent has swallowed a request."""

    def wait() -> None:
        assert agent.swallowed.acquire(timeout=PATIENCE_S)
        breaks(agent, wire)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
def test_a_request_whose_connection_breaks_is_sent_again_under_the_same_id(
    agent: FakeExecution, wire: Wire, breaks: Callable[[FakeExecution, Wire], object]
) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        break_when_swallowed(agent, wire, breaks)
        assert client.call("text", "echo", 1) == [1]
        first, second = agent.requests
        assert first == second
        # The client has reached an agent, so the next call waits while there is none.
        breaks(agent, wire)
        assert client.call("text", "echo", 2) == [2]


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("command", ["tokens", "break"])
def test_a_stream_whose_connection_breaks_is_sent_again_and_yields_each_value_once(
    agent: FakeExecution, wire: Wire, command: str, breaks: Callable[[FakeExecution, Wire], object]
) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 2
        break_when_swallowed(agent, wire, breaks)
        break_when_swallowed(agent, wire, breaks)
        assert list(client.stream("text", command)) == [0, 1, 2]
        assert len(agent.requests) == 3
        assert len({request.request_id for request in agent.requests}) == 1


def test_a_call_waits_for_an_agent_that_was_reached_before(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        client.call("text", "echo")
        wire.close()
        opening = threading.Timer(0.5, wire.open)
        opening.start()
        assert client.options(request_id="r").call("text", "echo", 1) == [1]
        opening.join()
    assert [request.request_id for request in agent.requests[1:]] == ["r"]


def test_the_timeout_of_a_call_includes_the_time_without_a_connection(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        break_when_swallowed(agent, wire, lambda *_: (time.sleep(0.5), wire.cut()))
        client.options(timeout_s=20).call("text", "echo")
        first_s, second_s = agent.time_left_s
        assert second_s < first_s - 0.4
        wire.close()
        began_s = time.monotonic()
        with pytest.raises(pitwarden.DeadlineExceeded):
            client.options(timeout_s=0.3).call("text", "echo")
        assert 0.25 < time.monotonic() - began_s < PATIENCE_S
        wire.open()


def test_a_request_is_sent_again_until_repeat_for_s_has_passed_without_a_connection(
    agent: FakeExecution, wire: Wire
) -> None:
    with pitwarden.Client(wire.path) as client:
        client.call("text", "echo")
        wire.close()
        for limited in (client.options(repeat_for_s=0.3), client.options(repeat_for_s=0.3, timeout_s=PATIENCE_S)):
            began_s = time.monotonic()
            with pytest.raises(pitwarden.Unavailable, match=r"^unix:.*wire\.sock: "):
                limited.call("text", "echo")
            with pytest.raises(pitwarden.Unavailable, match=r"^unix:.*wire\.sock: "):
                list(limited.stream("text", "tokens"))
            assert time.monotonic() - began_s < PATIENCE_S
        wire.open()


def test_a_request_with_repeat_for_s_0_is_never_sent_again(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        break_when_swallowed(agent, wire, BREAKS["the connection is cut"])
        with pytest.raises(pitwarden.Unavailable):
            client.options(repeat_for_s=0).call("text", "echo")
    assert len(agent.requests) == 1


def test_a_request_that_the_agent_has_answered_with_an_error_is_not_sent_again(
    agent: FakeExecution, client: pitwarden.Client
) -> None:
    with pytest.raises(pitwarden.Unavailable):
        client.call("text", "fail")
    assert len(agent.requests) == 1


def test_repeat_for_s_does_not_count_the_time_with_a_connection(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        break_when_swallowed(agent, wire, lambda *_: (time.sleep(1.0), wire.cut()))
        assert client.options(repeat_for_s=0.9).call("text", "echo", 1) == [1]


def test_closing_a_client_cancels_its_calls_and_sends_none_again(agent: FakeExecution, wire: Wire) -> None:
    client = pitwarden.Client(wire.path)
    agent.swallows = 1
    break_when_swallowed(agent, wire, lambda *_: client.close())
    with pytest.raises(pitwarden.Cancelled):
        client.call("text", "echo")
    assert len(agent.requests) == 1


def test_arguments_that_are_not_json_are_refused_before_anything_is_sent(
    agent: FakeExecution, client: pitwarden.Client
) -> None:
    with pytest.raises(pitwarden.InvalidArgument):
        client.call("text", "echo", b"x", b=2)
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
    (None, {"TMPDIR": "/none/", "TEMP": "/other"}, 7, "unix:/none/pitwarden-7/agent.sock"),
    ("/C#/50%/a.sock", {}, 7, "unix:/C%23/50%25/a.sock"),
    ("unix:/C%23/a.sock", {}, 7, "unix:/C%23/a.sock"),
]


@pytest.mark.parametrize(("named", "env", "uid", "target"), TARGETS)
def test_the_target_is_the_one_named_or_the_default_socket_of_this_users_agent(
    monkeypatch: pytest.MonkeyPatch, named: str | None, env: dict[str, str], uid: int, target: str
) -> None:
    for name in ("PITWARDEN_SOCKET", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_agent_socket.os, "getuid", lambda: uid)
    with pitwarden.Client(named) as client:
        assert client.target == target
