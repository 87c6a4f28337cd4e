"""The gRPC stream to the agent. It sends one frame at a time; whoever iterates over it receives the agent's frames.

grpcio's public stream has three threads, and wakes two of them for each frame in and two for each frame out. That takes
three quarters of the CPU time of a worker that echoes. So, if grpcio's inner module looks as expected, one thread waits
for the completion queue, and each frame is sent from the thread that made it. The inner module is not public: if
anything in it is missing, grpcio's public stream is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Optional, Protocol

import grpc

from ._pb.link_pb2 import AgentFrame, WorkerFrame
from ._unpatched import SimpleQueue

ATTACH = "/pitwarden.v1.WorkerLink/Attach"


class StreamError(Exception):
    """The stream ended with a status other than OK."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


class Stream(Protocol):
    def send(self, frame: WorkerFrame) -> None:
        """Sends a frame. Must not be called again before ``on_sent`` was, which comes from any thread."""

    def end(self) -> None:
        """Sends no more frames. Like ``send``, must not be called while a frame is being sent."""

    def __iter__(self) -> Iterator[AgentFrame]:
        """Yields the agent's frames until the agent ends the stream. Raises StreamError."""


def open_stream(channel: grpc.Channel, on_sent: Callable[[], object]) -> Stream:
    try:
        return DirectStream(channel, on_sent)
    except (ImportError, AttributeError, TypeError):
        return PublicStream(channel, on_sent)


class DirectStream:
    """Uses grpcio's inner module, as grpcio 1.60 to 1.85 have it and as grpcio itself does for stream-unary calls."""

    def __init__(self, channel: Any, on_sent: Callable[[], object]) -> None:
        cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
        self._on_sent = on_sent
        # Everything that is needed later is looked up now, while the public stream can still be used instead.
        types = cygrpc.OperationType
        self._sent, self._received, self._ended = (
            types.send_message,
            types.receive_message,
            types.receive_status_on_client,
        )
        self._ok = cygrpc.StatusCode.ok
        self._send_message = cygrpc.SendMessageOperation
        self._receive_message = cygrpc.ReceiveMessageOperation
        self._send_close = cygrpc.SendCloseFromClientOperation
        operations = (
            cygrpc.SendInitialMetadataOperation(None, 0),
            # gRPC delivers no message before the initial metadata were asked for.
            cygrpc.ReceiveInitialMetadataOperation(0),
            self._receive_message(0),
            cygrpc.ReceiveStatusOnClientOperation(0),
        )
        self._call = channel._channel.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            ATTACH.encode(),
            None,
            None,
            None,
            None,
            tuple(((operation,), None) for operation in operations),
            None,
        )
        self._next_event, self._start = self._call.next_event, self._call.operate

    def send(self, frame: WorkerFrame) -> None:
        self._operate(self._send_message(frame.SerializeToString(), 0))

    def end(self) -> None:
        self._operate(self._send_close(0))

    def __iter__(self) -> Iterator[AgentFrame]:
        while True:
            for operation in self._next_event().batch_operations:
                kind = operation.type()
                if kind == self._sent:
                    self._on_sent()
                elif kind == self._received:
                    message = operation.message()
                    # None: no message is left, and the status follows.
                    if message is not None:
                        yield AgentFrame.FromString(message)
                        self._operate(self._receive_message(0))
                elif kind == self._ended:
                    if operation.code() != self._ok:
                        raise StreamError(_code_name(operation.code()), operation.details())
                    return

    def _operate(self, operation: Any) -> None:
        # ValueError, or False returned: the stream has ended, and __iter__ gets its status.
        try:
            self._start((operation,), None)
        except ValueError:
            return


class PublicStream:
    """Uses grpcio's public API."""

    def __init__(self, channel: grpc.Channel, on_sent: Callable[[], object]) -> None:
        self._on_sent = on_sent
        self._frames: SimpleQueue[Optional[WorkerFrame]] = SimpleQueue()
        attach = channel.stream_stream(
            ATTACH, request_serializer=WorkerFrame.SerializeToString, response_deserializer=AgentFrame.FromString
        )
        self._received = attach(self._requests())

    def send(self, frame: WorkerFrame) -> None:
        self._frames.put(frame)

    def end(self) -> None:
        self._frames.put(None)

    def __iter__(self) -> Iterator[AgentFrame]:
        try:
            yield from self._received
        except grpc.RpcError as error:
            raise StreamError(error.code().name, error.details() or "") from None

    def _requests(self) -> Iterator[WorkerFrame]:
        # grpcio asks for the next frame when it has sent the one before.
        for frame in iter(self._frames.get, None):
            yield frame
            self._on_sent()


def _code_name(code: int) -> str:
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), str(code))
