"""The worker's one stream to its agent. Of the worker's side only this file and _stream.py know gRPC."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable
from typing import Callable, Literal, Optional

import grpc

from ._crew import Crew
from ._line import Line
from ._pb.link_pb2 import AgentFrame
from ._session import ProtocolError, Received, Session
from ._stream import StreamError, open_stream
from .app import App

# How long the agent may take to end the stream after we did; it has nothing to do but to read what was sent.
PARTING_S = 1.0

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The socket is on this machine, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # Older grpc makes the authority of the socket's path, which some servers refuse.
    ("grpc.default_authority", "localhost"),
    # The token is good once, so a second attempt could only be refused.
    ("grpc.enable_retries", 0),
    # The kernel tells when the other side is gone, and the agent pings: HTTP/2 pings could only do harm.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
)


class Link:
    def __init__(self, app: App, path: str, session: Session, lost: Callable[[str], object]) -> None:
        """``lost`` is called in another thread, with the reason, when the agent goes before ``leave``."""
        self._app = app
        self._line = Line(session)
        self._crew = Crew(app, self._line)
        self._path = path
        self._lost = lost
        self._stopping = threading.Lock()
        self._phase: Literal["serving", "stopping", "overdue", "leaving"] = "serving"
        self._ended = threading.Event()
        self._channel: Optional[grpc.Channel] = None

    def serve(self) -> None:
        """Runs requests until one side wants the worker to stop and the last request is answered.

        Call it in the main thread. Pings are answered until ``leave``.
        """
        self._channel = grpc.insecure_channel(f"unix:{self._path}", options=_OPTIONS)
        frames = open_stream(self._channel, self._line.sent)
        self._line.open(frames)
        threading.Thread(target=self._read, args=(frames,), name="pitwarden-link", daemon=True).start()
        self._crew.work()

    def stop(self, grace_s: Optional[float] = None) -> None:
        """Lets no request begin. Asked again, or when the grace is over, cancels those that run."""
        with self._stopping:
            if self._phase == "stopping":
                self._phase = "overdue"
                self._crew.cancel(self._line.cancel_all())
            if self._phase != "serving":
                return
            self._phase = "stopping"
        self._line.refuse(when_idle=self._crew.dismiss)
        self._crew.take_back()
        if grace_s is not None:
            overdue = threading.Timer(grace_s, self.stop)
            overdue.daemon = True
            overdue.start()

    def leave(self) -> None:
        """Says what is left to say, and hangs up."""
        self._phase = "leaving"
        self._line.close()
        # Closing the channel at once would cancel the stream, and the agent might drop what it has not read yet.
        self._ended.wait(PARTING_S)
        if self._channel is not None:
            self._channel.close()

    def _read(self, frames: Iterable[AgentFrame]) -> None:
        try:
            for frame in frames:
                # Only asked for with a ping, for measuring the lag wakes the loop.
                lag_ms = self._app.loop.lag_ms() if frame.HasField("ping") else 0
                self._act(self._line.receive(frame, lag_ms))
            reason = "the agent closed the link"
        except ProtocolError as error:
            reason = str(error)
        except StreamError as error:
            reason = f"the link to the agent broke: {error}"
        # A worker that no longer listens must not look as if it did.
        except BaseException as error:
            traceback.print_exc()
            reason = f"the link to the agent cannot be served: {error!r}"
        self._ended.set()
        if self._phase != "leaving":
            self._lost(reason)

    def _act(self, received: Received) -> None:
        if received.concurrency is not None:
            self._crew.resize(received.concurrency)
        if received.starts:
            self._crew.start(received.starts)
        if received.recalled:
            self._crew.take_back()
        if received.cancelled:
            self._crew.cancel(received.cancelled)
        if received.stop_grace_ms is not None:
            self.stop(received.stop_grace_ms / 1000)
