"""An agent that sends what a test wants, also what is wrong: on a real socket, to real worker processes."""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import IO, Any, Optional, TypeVar, Union

import grpc

from pitwarden._pb.link_pb2 import (
    AgentFrame,
    Drain,
    Hello,
    LinkRequest,
    LinkResult,
    Ping,
    Pong,
    Progress,
    Recall,
    Stop,
    Welcome,
    WorkerFrame,
)

WORKER = ("-m", "pitwarden.worker")
# A worker in which grpcio's inner module is missing, so that it uses the public stream.
PUBLIC = (
    "-c",
    """
import importlib, sys
real = importlib.import_module
def without(name, *rest):
    if name == "grpc._cython.cygrpc":
        raise ImportError(name)
    return real(name, *rest)
importlib.import_module = without
from pitwarden import worker
sys.exit(worker.main())
""",
)
APPS = Path(__file__).parent / "apps"
WORKER_ID = "w-1"
# The same for every worker; a real agent makes a new secret for each.
SECRET = bytes(range(32))

# Long enough for a busy machine. Only a test that fails waits as long.
PATIENCE_S = 30.0

Value = TypeVar("Value")


class FakeAgent:
    """Serves WorkerLink. Refuses every worker with the status ``refusal`` if that is set."""

    def __init__(self, worker: tuple[str, ...] = WORKER) -> None:
        self._worker = worker
        # Not pytest's tmp_path, which may be too long for the address of a socket.
        self.dir = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.path = self.dir / "link.sock"
        self.begun_path = self.dir / "begun"
        self.refusal: Optional[tuple[grpc.StatusCode, str]] = None
        self._links: queue.Queue[FakeLink] = queue.Queue()
        self._workers: list[Worker] = []
        self.start()

    def start(self) -> None:
        """Listens. Call it again after ``kill``, as if the next agent had come."""
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        attach = grpc.stream_stream_rpc_method_handler(
            self._attach,
            request_deserializer=WorkerFrame.FromString,
            response_serializer=AgentFrame.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler("pitwarden.v1.WorkerLink", {"Attach": attach})
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def spawn(
        self,
        app: str = "basic:app",
        *,
        args: Optional[tuple[str, ...]] = None,
        stdout: Union[int, IO[bytes]] = subprocess.PIPE,
        **env: str,
    ) -> Worker:
        """Starts a worker process with an application in apps/."""
        self.begun_path.write_bytes(bytes(4))
        contract = {
            "PITWARDEN_BEGUN": str(self.begun_path),
            "PITWARDEN_LINK": str(self.path),
            "PITWARDEN_WORKER_ID": WORKER_ID,
            "PITWARDEN_POOL": "test",
            "PITWARDEN_SLOT": "0",
            "PITWARDEN_APP": app,
            "TEST_DIR": str(self.dir),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        worker = Worker(self, [sys.executable, *(args or self._worker)], {**inherited, **contract, **env}, stdout)
        self._workers.append(worker)
        return worker

    def begun(self) -> int:
        """The begun mark of the newest worker: the id of the newest request to begin."""
        return int.from_bytes(self.begun_path.read_bytes(), sys.byteorder)

    def wait_begun(self, id: int) -> None:
        """Waits until this request is the newest to begin."""
        ends_s = time.monotonic() + PATIENCE_S
        while self.begun() != id:
            assert time.monotonic() < ends_s, f"expected request {id} to begin, got {self.begun()}"
            time.sleep(0.001)

    def next_link(self) -> FakeLink:
        """Waits for the next link with a hello. It has no welcome yet."""
        return self._links.get(timeout=PATIENCE_S)

    def stop(self) -> None:
        for worker in self._workers:
            worker.end()
        self._server.stop(None).wait()
        shutil.rmtree(self.dir)

    def kill(self) -> None:
        """Breaks all streams and refuses connections, as a crash would."""
        self._server.stop(None).wait()

    def _attach(self, frames: Iterator[WorkerFrame], context: grpc.ServicerContext) -> Iterator[AgentFrame]:
        if self.refusal is not None:
            context.abort(*self.refusal)
        try:
            link = FakeLink(next(frames).hello, context.cancel)
        # The worker ended before it had sent a hello.
        except (StopIteration, grpc.RpcError):
            return
        context.add_callback(link.hang_up)
        threading.Thread(target=link.read, args=(frames,), daemon=True).start()
        self._links.put(link)
        yield from iter(link.down.get, None)


class FakeLink:
    """The agent's end of one link."""

    def __init__(self, hello: Hello, cut: Callable[[], object]) -> None:
        self.hello = hello
        # Breaks the stream at once.
        self.cut = cut
        self.down: queue.SimpleQueue[Optional[AgentFrame]] = queue.SimpleQueue()
        self.frames: list[WorkerFrame] = []
        self.ended = False
        self._changed = threading.Condition()
        self._ids = itertools.count(hello.resumed.last_id + 1)

    def welcome(self, concurrency: int = 1, **fields: int) -> None:
        """Sends a welcome, with generous limits where the test gives none."""
        defaults = {
            "protocol": 1,
            "orphan_timeout_ms": 60_000,
            "drain_timeout_ms": 30_000,
            "keep_results": 1000,
            "keep_bytes": 64 * 1024 * 1024,
            "keep_ms": 600_000,
        }
        self.send(AgentFrame(welcome=Welcome(concurrency=concurrency, **{**defaults, **fields})))

    def send(self, frame: AgentFrame) -> None:
        self.down.put(frame)

    def hang_up(self) -> None:
        self.down.put(None)

    def request(self, command: str, *args: Any, timeout_ms: int = 0, keep: bool = False, **kwargs: Any) -> int:
        """Sends a request; returns its id."""
        request = self.make(command, *args, timeout_ms=timeout_ms, keep=keep, **kwargs)
        self.send(AgentFrame(requests=[request]))
        return request.id

    def make(self, command: str, *args: Any, timeout_ms: int = 0, keep: bool = False, **kwargs: Any) -> LinkRequest:
        payload = json.dumps(list(args) if args else kwargs).encode()
        id = next(self._ids)
        return LinkRequest(
            id=id,
            command=command,
            payload=payload,
            request_id=f"r-{id}",
            session_id="s",
            timeout_ms=timeout_ms,
            keep=keep,
        )

    def call(self, command: str, *args: Any, **kwargs: Any) -> LinkResult:
        return self.result(self.request(command, *args, **kwargs))

    def value(self, command: str, *args: Any, **kwargs: Any) -> Any:
        result = self.call(command, *args, **kwargs)
        assert not result.HasField("error"), result
        return json.loads(result.payload)

    def cancel(self, id: int) -> None:
        self.send(AgentFrame(cancels=[id]))

    def held(self) -> list[tuple[int, bool, bool]]:
        """The held requests of the hello: id, keep, ended."""
        return [(held.id, held.keep, held.ended) for held in self.hello.resumed.held]

    def ack(self, *ids: int) -> None:
        self.send(AgentFrame(acks=ids))

    def replay(self, id: int) -> LinkResult:
        """Asks for a replay and waits for its result. After that ``chunks`` returns the replayed chunks."""
        with self._changed:
            before = len(self.frames)
        self.send(AgentFrame(replays=[id]))

        def find_result() -> Optional[LinkResult]:
            start = next((n for n, f in enumerate(self.frames) if n >= before and id in f.replayed), None)
            if start is None:
                return None
            # Parts from before the replay do not count.
            for frame in self.frames[:start]:
                _remove(frame.chunks, id)
                _remove(frame.results, id)
            return next((r for f in self.frames[start:] for r in f.results if r.id == id), None)

        return self.wait(find_result)

    def stop(self, grace_ms: int = 10_000) -> None:
        self.send(AgentFrame(stop=Stop(grace_ms=grace_ms)))

    def drain(self) -> None:
        self.send(AgentFrame(drain=Drain()))

    def ping(self, sequence: int) -> Pong:
        self.send(AgentFrame(ping=Ping(sequence=sequence)))
        return self.wait(lambda: next((f.pong for f in self.frames if f.pong.sequence == sequence), None))

    def leaving(self) -> bool:
        return self.wait(lambda: any(f.leaving for f in self.frames) or None)

    def result(self, id: int) -> LinkResult:
        return self.wait(lambda: next((r for f in self.frames for r in f.results if r.id == id), None))

    def results(self, id: int) -> list[LinkResult]:
        return [r for f in list(self.frames) for r in f.results if r.id == id]

    def chunks(self, id: int) -> list[Any]:
        return [json.loads(c.payload) for f in list(self.frames) for c in f.chunks if c.id == id]

    def recall(self) -> None:
        self.send(AgentFrame(recall=Recall()))

    def returned(self) -> list[int]:
        """Waits for the first returned requests, and returns their ids."""
        return self.wait(lambda: [id for f in self.frames for id in f.returned] or None)

    def progress(self, id: int) -> Progress:
        """Waits for the first progress report: the command runs."""
        return self.wait(lambda: next((p for f in self.frames for p in f.progress if p.id == id), None))

    def wait(self, find: Callable[[], Optional[Value]]) -> Value:
        """Calls ``find`` after each frame until it returns something true, and returns that."""
        with self._changed:
            found = self._changed.wait_for(lambda: find() or self.ended, PATIENCE_S)
            value = find()
            assert value, f"the link ended: {self.ended}, found: {found}, frames: {self.frames[-20:]}"
            return value

    def read(self, frames: Iterator[WorkerFrame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self.frames.append(frame)
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        self.hang_up()


def secret_line(worker_id: str = WORKER_ID) -> bytes:
    return f"pitwarden-secret {worker_id} {SECRET.hex()}\n".encode()


def secret_socket() -> socket.socket:
    """The socket that an agent gives to a worker at its start, with the secret in it."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(secret_line())
    return theirs


def _remove(parts: Any, id: int) -> None:
    kept = [part for part in parts if part.id != id]
    del parts[:]
    parts.extend(kept)


class Worker:
    def __init__(self, agent: FakeAgent, argv: list[str], env: dict[str, str], stdout: Union[int, IO[bytes]]) -> None:
        self._agent = agent
        with secret_socket() as stdin:
            self.process = subprocess.Popen(
                argv, cwd=APPS, env=env, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True
            )

    def attach(self, concurrency: int = 1, **fields: int) -> FakeLink:
        link = self._agent.next_link()
        link.welcome(concurrency, **fields)
        return link

    def wait_for_stderr(self, words: str) -> None:
        """Reads the worker's stderr up to a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"the worker ended without printing: {words}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit(self) -> tuple[int, str, str]:
        """Waits for the end of the worker. Returns exit code, stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stdout, stderr

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            # Not for the end of its pipes: processes that it forked may have them open.
            self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
