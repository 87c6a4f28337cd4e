"""The client against an Execution service of the tests' own."""

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
    """Answers by the command's name; remembers the requests and what became of its streams."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.path = str(self.dir / "agent.sock")
        self.requests: list[pb.ExecuteRequest] = []
        self.time_left_s: list[float] = []
        self.cancelled = threading.Event()
        # Requests to swallow: they are noted, and never answered.
        self.swallows = 0
        self.swallowed = threading.Semaphore(0)
        self.may_have_begun: Optional[bool] = None
        self.start()

    def start(self) -> None:
        """Listens; again after ``kill``, as a successor would."""
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
        """Streams break, and the socket refuses."""
        self._server.stop(None).wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.dir)

    def _execute(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> pb.ExecuteResponse:
        self._note(request, context)
        if request.command == "wait":
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(PATIENCE_S)
        if request.command == "fail":
            self._fail(context)
        if request.command == "too_large":
            # As grpc-js says it.
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs 4)")
        if request.command == "ignore":
            return pb.ExecuteResponse()
        # What came goes back as it is.
        return pb.ExecuteResponse(payload=request.payload, content_type=request.content_type, worker_id="w-1")

    def _stream(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> Iterator[pb.ExecuteResponse]:
        self._note(request, context)
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

    def _note(self, request: pb.ExecuteRequest, context: grpc.ServicerContext) -> None:
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
    assert (request.pool, request.command, request.idempotent) == ("text", "echo", False)
    assert [len(request.request_id) for request in agent.requests] == [32] * 4
    assert len({request.request_id for request in agent.requests}) == 4
    assert json.loads(request.payload)["text"] == "é"


def test_options(agent: FakeExecution, client: pitwarden.Client) -> None:
    named = client.options(timeout_s=20, idempotent=True, session_id="s", request_id="r")
    named.call("text", "echo")
    client.call("text", "echo")
    first, second = agent.requests
    assert (first.idempotent, first.session_id, first.request_id) == (True, "s", "r")
    assert (second.idempotent, second.session_id, second.request_id == "r") == (False, "", False)
    # gRPC rounds what it sends.
    assert agent.time_left_s[0] < 21 < agent.time_left_s[1]


def test_progress_reaches_who_asks_for_it(agent: FakeExecution, client: pitwarden.Client) -> None:
    seen: list[tuple[float, str]] = []
    asking = client.options(on_progress=lambda fraction, message: seen.append((fraction, message)))
    assert asking.call("text", "report") == 7
    assert list(asking.stream("text", "report")) == [7]
    assert seen == [(0.1, "10 %"), (0.9, "90 %")] * 2
    client.call("text", "echo")
    assert [request.progress for request in agent.requests] == [True, True, False]


def test_a_call_with_progress_takes_one_value(agent: FakeExecution, client: pitwarden.Client) -> None:
    asking = client.options(on_progress=lambda fraction, message: None)
    with pytest.raises(pitwarden.InvalidArgument, match=r"expected Client\.stream, got Client\.call"):
        asking.call("text", "for_ever")
    assert agent.cancelled.wait(PATIENCE_S)


def test_what_a_progress_callback_raises_cancels_the_request(agent: FakeExecution, client: pitwarden.Client) -> None:
    def refuse(fraction: float, message: str) -> None:
        raise KeyError(message)

    with pytest.raises(KeyError, match="10 %"):
        client.options(on_progress=refuse).call("text", "report")
    assert agent.cancelled.wait(PATIENCE_S)


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


@pytest.mark.parametrize(("told", "may"), [(None, True), (True, True), (False, False)])
def test_a_command_may_have_begun_unless_the_agent_says_that_it_has_not(
    agent: FakeExecution, client: pitwarden.Client, told: Optional[bool], may: bool
) -> None:
    agent.may_have_begun = told
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    assert caught.value.may_have_begun is may


def test_an_error_that_nobody_catches_shows_where_the_command_raised_it(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.Unavailable) as caught:
        client.call("text", "fail")
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert "é" * 10_000 in shown
    assert "The above exception was the direct cause of the following exception" in shown


def test_a_command_gets_positional_and_keyword_arguments(agent: FakeExecution, client: pitwarden.Client) -> None:
    client.call("text", "ignore", 1, "a", b=2)
    request = agent.requests[0]
    assert request.content_type == "application/vnd.pitwarden.arguments+json"
    assert json.loads(request.payload) == {"args": [1, "a"], "kwargs": {"b": 2}}


def test_a_message_that_is_too_large_names_the_limit(client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.ResourceExhausted, match=r"message\.max_bytes"):
        client.call("text", "too_large")


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


class Wire:
    """Between client and agent, to be cut: what the kernel does to the sockets of an agent that is killed."""

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
        """Nobody listens."""
        os.unlink(self.path)
        # accept() in another thread returns only then.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Breaks what is connected."""
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


def later(agent: FakeExecution, wire: Wire, breaks: Callable[[FakeExecution, Wire], object]) -> None:
    """Breaks the connection as soon as the agent has swallowed a request."""

    def wait() -> None:
        assert agent.swallowed.acquire(timeout=PATIENCE_S)
        breaks(agent, wire)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
def test_a_request_is_repeated_under_its_id(
    agent: FakeExecution, wire: Wire, breaks: Callable[[FakeExecution, Wire], object]
) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        later(agent, wire, breaks)
        assert client.call("text", "echo", 1) == [1]
        first, second = agent.requests
        assert first == second
        # The first one shows that an agent was there, so the next may come while there is none.
        breaks(agent, wire)
        assert client.call("text", "echo", 2) == [2]


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("command", ["tokens", "break"])
def test_a_stream_is_repeated_without_what_came_before(
    agent: FakeExecution, wire: Wire, command: str, breaks: Callable[[FakeExecution, Wire], object]
) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 2
        later(agent, wire, breaks)
        later(agent, wire, breaks)
        assert list(client.stream("text", command)) == [0, 1, 2]
        assert len(agent.requests) == 3
        assert len({request.request_id for request in agent.requests}) == 1


def test_a_call_waits_for_an_agent_that_was_there(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        client.call("text", "echo")
        wire.close()
        opening = threading.Timer(0.5, wire.open)
        opening.start()
        assert client.options(request_id="r").call("text", "echo", 1) == [1]
        opening.join()
    assert [request.request_id for request in agent.requests[1:]] == ["r"]


def test_the_deadline_goes_on_while_there_is_no_connection(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        later(agent, wire, lambda *_: (time.sleep(0.5), wire.cut()))
        client.options(timeout_s=20).call("text", "echo")
        first_s, second_s = agent.time_left_s
        assert second_s < first_s - 0.4
        wire.close()
        began_s = time.monotonic()
        with pytest.raises(pitwarden.DeadlineExceeded):
            client.options(timeout_s=0.3).call("text", "echo")
        assert 0.25 < time.monotonic() - began_s < PATIENCE_S
        wire.open()


def test_it_is_repeated_for_so_long_and_no_longer(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        client.call("text", "echo")
        wire.close()
        for patient in (client.options(repeat_for_s=0.3), client.options(repeat_for_s=0.3, timeout_s=PATIENCE_S)):
            began_s = time.monotonic()
            with pytest.raises(pitwarden.Unavailable, match=r"^unix:.*wire\.sock: "):
                patient.call("text", "echo")
            with pytest.raises(pitwarden.Unavailable, match=r"^unix:.*wire\.sock: "):
                list(patient.stream("text", "tokens"))
            assert time.monotonic() - began_s < PATIENCE_S
        wire.open()


def test_it_is_not_repeated_where_that_is_not_wanted(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        later(agent, wire, BREAKS["the connection is cut"])
        with pytest.raises(pitwarden.Unavailable):
            client.options(repeat_for_s=0).call("text", "echo")
    assert len(agent.requests) == 1


def test_what_the_agent_says_is_not_repeated(agent: FakeExecution, client: pitwarden.Client) -> None:
    with pytest.raises(pitwarden.Unavailable):
        client.call("text", "fail")
    assert len(agent.requests) == 1


def test_a_long_connected_time_does_not_count(agent: FakeExecution, wire: Wire) -> None:
    with pitwarden.Client(wire.path) as client:
        agent.swallows = 1
        later(agent, wire, lambda *_: (time.sleep(1.0), wire.cut()))
        assert client.options(repeat_for_s=0.9).call("text", "echo", 1) == [1]


def test_closing_a_client_is_no_broken_connection(agent: FakeExecution, wire: Wire) -> None:
    client = pitwarden.Client(wire.path)
    agent.swallows = 1
    later(agent, wire, lambda *_: client.close())
    with pytest.raises(pitwarden.Cancelled):
        client.call("text", "echo")
    assert len(agent.requests) == 1


def test_arguments_that_cannot_be_sent(agent: FakeExecution, client: pitwarden.Client) -> None:
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
def test_target(monkeypatch: pytest.MonkeyPatch, named: str | None, env: dict[str, str], uid: int, target: str) -> None:
    for name in ("PITWARDEN_SOCKET", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_agent_socket.os, "getuid", lambda: uid)
    with pitwarden.Client(named) as client:
        assert client.target == target
