"""The gRPC stream to the agent: frames are sent one at a time, and received by whoever iterates.

grpcio's own stream has three threads, and each frame wakes two of them on its way in and two on its way out; they take
three quarters of the CPU time of a worker that echoes. So, where grpcio's inner module is as we know it, one thread
waits for the completion queue and does the rest, and a frame is sent from the thread that has something to say. That
module is not public: where something in it is missing, grpcio's own stream serves.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Optional, Protocol

import grpc

from ._originals import SimpleQueue
from ._pb.link_pb2 import AgentFrame, WorkerFrame

ATTACH = "/pitwarden.v1.WorkerLink/Attach"


class StreamError(Exception):
    """The stream ended with another status than OK."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


class Stream(Protocol):
    def send(self, frame: WorkerFrame) -> None:
        """To be called again once the frame was sent, which ``on_sent`` tells, from any thread."""

    def end(self) -> None:
        """No more frames. Like ``send``, not while one is being sent."""

    def __iter__(self) -> Iterator[AgentFrame]:
        """What the agent sends, until it ends the stream; raises StreamError."""


def open_stream(channel: grpc.Channel, on_sent: Callable[[], object]) -> Stream:
    try:
        return DirectStream(channel, on_sent)
    except (ImportError, AttributeError, TypeError):
        return PublicStream(channel, on_sent)


class DirectStream:
    """On grpcio's inner module, as 1.60 to 1.85 have it; its own stream-unary calls are made in the same way."""

    def __init__(self, channel: Any, on_sent: Callable[[], object]) -> None:
        cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
        self._on_sent = on_sent
        # All that is used later is looked up now, where its absence can still be helped.
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
            # No message comes before these are asked for.
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
                    # None: no more messages, but the status.
                    if message is not None:
                        yield AgentFrame.FromString(message)
                        self._operate(self._receive_message(0))
                elif kind == self._ended:
                    if operation.code() != self._ok:
                        raise StreamError(_name_of(operation.code()), operation.details())
                    return

    def _operate(self, operation: Any) -> None:
        # False, or a ValueError: the stream is over, which its status tells.
        try:
            self._start((operation,), None)
        except ValueError:
            return


class PublicStream:
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
        # The next one is asked for when the one before was sent.
        for frame in iter(self._frames.get, None):
            yield frame
            self._on_sent()


def _name_of(code: int) -> str:
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), str(code))
