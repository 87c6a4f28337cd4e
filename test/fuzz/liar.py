"""A worker that attaches as it should and then sends what the fuzzer wrote into the file FUZZ_LIES.

The agent starts it in place of the pool's Python, so its link has what the agent gave it to prove itself with. The
SDK attaches; only its stream is replaced by one that can also send bytes as they are. The file is JSON:
``hello`` (base64) is put behind the bytes of the hello, which merges its fields in; ``frames`` (base64) are sent
once the agent has answered the hello; ``ending`` says what comes
after the last one. The file FUZZ_LIES + ".told" is written then.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Optional, Union

import grpc

from pitwarden import _link, worker
from pitwarden._grpc_stream import ATTACH, StreamError
from pitwarden._pb.link_pb2 import AgentFrame, WorkerFrame

PATH = os.environ["FUZZ_LIES"]


def _lies() -> dict[str, Any]:
    try:
        with open(PATH) as file:
            return json.load(file)
    except FileNotFoundError:
        return {"hello": "", "frames": [], "ending": "serve"}


class LyingStream:
    def __init__(self, channel: grpc.Channel, on_sent: Callable[[], object]) -> None:
        self._lies = _lies()
        self._on_sent = on_sent
        self._queue: SimpleQueue[Optional[Union[WorkerFrame, bytes]]] = SimpleQueue()
        attach = channel.stream_stream(
            ATTACH,
            request_serializer=lambda frame: frame,
            response_deserializer=AgentFrame.FromString,
        )
        self._greeted = False
        self._received = attach(self._requests())

    def send(self, frame: WorkerFrame) -> None:
        self._queue.put(frame)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[AgentFrame]:
        try:
            for number, frame in enumerate(self._received):
                yield frame
                if number == 0:
                    for lie in self._lies["frames"]:
                        self._queue.put(base64.b64decode(lie))
                    self._queue.put(b"\0told")
        except grpc.RpcError as error:
            _told()
            raise StreamError(error.code().name, error.details() or "") from None

    def _requests(self) -> Iterator[bytes]:
        for frame in iter(self._queue.get, None):
            if frame == b"\0told":
                self._end_of_lies()
            elif isinstance(frame, bytes):
                yield frame
            else:
                more = b"" if self._greeted else base64.b64decode(self._lies["hello"])
                self._greeted = True
                yield frame.SerializeToString() + more
                self._on_sent()

    def _end_of_lies(self) -> None:
        _told()
        if self._lies["ending"] == "exit":
            threading.Timer(0.05, os._exit, (0,)).start()


def _told() -> None:
    with open(PATH + ".told", "w"):
        pass


# The link takes whatever has a stream's methods; the liar's sends bytes that are no frames.
_link.open_stream = LyingStream  # type: ignore[assignment]
sys.exit(worker.main())
