"""The worker's one stream to its agent, and the next one when that is lost. Of the worker's side only this file and
_stream.py know gRPC."""

from __future__ import annotations

import functools
import random
import socket
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import Literal, Optional, Union

import grpc

from . import _grpc_forks, _grpc_settings, _output
from ._absence import Absence, Limits
from ._address import Address, AddressError
from ._crew import Crew
from ._limits import raise_tasks
from ._line import Line
from ._pb.link_pb2 import Limits as LinkLimits
from ._pb.link_pb2 import Welcome
from ._secret import SecretError, peer_of
from ._session import ProtocolError, Received, Session
from ._stream import Stream, StreamError, open_stream
from .app import App

# How long the agent may take to end the stream after we did; it has nothing to do but to read what was sent.
PARTING_S = 1.0

# Between two tries to reach an agent: soon after the first, for a successor is often there in a moment.
PAUSE_MIN_S = 0.02
PAUSE_MAX_S = 0.2
PAUSE_GROWTH = 1.5
# A line that held for less is no reason to try the next one sooner again.
LINE_MIN_S = 1.0

# The agent is at its end, or stopped, when its socket takes no connection for so long.
CONNECT_S = 1.0

# A worker that has tried to reach its agent for so long says why it cannot.
WHY_NOT_AFTER_S = 0.5

# Statuses by which an agent says that it will never have this worker.
REFUSALS = ("UNAUTHENTICATED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The socket is on this machine, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # Older grpc makes the authority of the socket's path, which some servers refuse.
    ("grpc.default_authority", "localhost"),
    # It is dialled again from here, with another hello.
    ("grpc.enable_retries", 0),
    # Channels to one socket would share their connection, and how long they wait after one that failed.
    ("grpc.use_local_subchannel_pool", 1),
    # The kernel tells when the other side is gone, and the agent pings: HTTP/2 pings could only do harm.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
)


class Refused(Exception):
    """No agent will have this worker, or it cannot go on with one: it leaves at once."""


class Link:
    def __init__(
        self,
        app: App,
        path: str,
        session: Session,
        limits: Limits,
        agent_uids: Collection[int],
        *,
        lost: Callable[[str], object],
        overdue: Callable[[str], object],
        tell: Callable[[str], object],
    ) -> None:
        """``limits`` hold until an agent says others. Nobody is dialled who does not run as one of ``agent_uids``. All
        three functions are called from threads, with words for who reads the worker's stderr: ``lost`` when an agent
        refuses it, or goes while it stops; ``overdue`` when it was to be gone by now; ``tell`` otherwise."""
        self._app = app
        self._line = Line(session)
        self._crew = Crew(app, self._line, retire=self.retire, broken=self._leave_at_once)
        app.loop.on_end = self._leave_at_once
        self._path = path
        self._agent_uids = agent_uids
        self._lost = lost
        self._tell = tell
        self._absence = Absence(limits, self._give_up, lambda: overdue("something still runs and is not waited for"))
        self._stopping = threading.Lock()
        self._phase: Literal["serving", "retiring", "stopping", "overdue", "leaving"] = "serving"
        # Why there is no agent.
        self._reason = ""
        # The last attempt reached a socket that somebody listens at, and failed after that.
        self._somebody_listens = False
        # No stream is open.
        self._hung_up = threading.Event()
        self._hung_up.set()

    @property
    def orphaned(self) -> bool:
        """It stopped because it had no agent for too long."""
        return self._absence.orphaned

    def serve(self) -> None:
        """Runs requests until one side wants the worker to stop and the last request is answered.

        Call it in the main thread. Pings are answered until ``leave``.
        """
        threading.Thread(target=self._stay_attached, name="pitwarden-link", daemon=True).start()
        self._crew.work()

    def stop(self, grace_s: Optional[float] = None) -> None:
        """Lets no request begin. Asked again, or when the grace is over, cancels those that run."""
        with self._stopping:
            if self._phase == "stopping":
                self._phase = "overdue"
                self._crew.cancel(self._line.cancel_all())
            if self._phase not in ("serving", "retiring"):
                return
            self._phase = "stopping"
        self._begin_no_more("")
        if grace_s is not None:
            overdue = threading.Timer(grace_s, self.stop)
            overdue.daemon = True
            overdue.start()

    def retire(self, reason: str) -> None:
        """Leaves as after ``stop``, for the application wants a fresh worker; the agent is told the reason."""
        with self._stopping:
            if self._phase != "serving":
                return
            self._phase = "retiring"
        self._begin_no_more(reason)

    def leave(self) -> None:
        """Says what is left to say, and hangs up."""
        self._phase = "leaving"
        self._line.close()
        # Ending at once would cancel the stream, and the agent might drop what it has not read yet.
        self._hung_up.wait(PARTING_S)

    def _begin_no_more(self, reason: str) -> None:
        self._line.refuse(when_idle=self._crew.dismiss, reason=reason)
        self._crew.take_back()

    @property
    def _leaves(self) -> bool:
        return self._phase == "leaving"

    def _stay_attached(self) -> None:
        try:
            self._absence.begin()
            pause_s = PAUSE_MIN_S
            absent_s, was_attached, said_why = time.monotonic(), False, False
            while not self._leaves:
                dialled_s = time.monotonic()
                attached = self._attach()
                if attached:
                    absent_s, was_attached, said_why = time.monotonic(), True, False
                    if not self._leaves:
                        self._begin_absence()
                # That the agent is away was said when it went.
                elif not said_why and (self._somebody_listens or not was_attached):
                    said_why = time.monotonic() - absent_s > WHY_NOT_AFTER_S
                    if said_why:
                        self._tell(f"{self._reason}; trying on")
                if attached and time.monotonic() - dialled_s > LINE_MIN_S:
                    pause_s = PAUSE_MIN_S
                # So that the workers of one agent do not all come at once.
                time.sleep(pause_s * random.uniform(0.75, 1.25))
                pause_s = min(pause_s * PAUSE_GROWTH, PAUSE_MAX_S)
        except Refused as refused:
            self._leave_at_once(str(refused))
        # A worker that no longer listens must not look as if it did.
        except BaseException as error:
            traceback.print_exc()
            self._leave_at_once(f"the link to the agent cannot be served: {error!r}")

    def _attach(self) -> bool:
        """Serves one stream until it ends; True: its agent had said welcome."""
        self._somebody_listens = False
        try:
            address = Address(self._path)
        except (AddressError, OSError) as error:
            self._reason = f"the agent cannot be dialled: {error}"
            return False
        try:
            try:
                problem = _look(self._path, address.path, self._agent_uids)
            except OSError as error:
                self._reason = f"nobody listens at {self._path}: {error}"
                return False
            self._somebody_listens = True
            if problem is not None:
                self._reason = problem
                return False
            return self._serve_stream(address)
        finally:
            address.close()

    def _serve_stream(self, address: Address) -> bool:
        channel = grpc.insecure_channel(address.target, options=_OPTIONS)
        _grpc_forks.opened(channel)
        _grpc_settings.restore()
        frames = open_stream(channel, functools.partial(self._line.sent, self._line.next_number))
        self._hung_up.clear()
        try:
            self._line.open(frames)
            return self._read(frames)
        except SecretError as error:
            raise Refused(str(error)) from None
        finally:
            self._line.detach()
            # Lets go of who waits for the next frame to send.
            frames.end()
            channel.close()
            _grpc_forks.closed(channel)
            self._hung_up.set()

    def _read(self, frames: Stream) -> bool:
        attached = False
        self._reason = "the agent closed the link"
        try:
            for frame in frames:
                # Only asked for with a ping, for measuring the lag wakes the loop.
                lag_ms = self._app.loop.lag_ms() if frame.HasField("ping") else 0
                received = self._line.receive(frame, lag_ms)
                if received.welcome is not None:
                    attached = True
                    self._end_absence(received, received.welcome)
                if received.limits is not None:
                    self._limit(received.limits)
                self._act(received)
        except ProtocolError as error:
            raise Refused(str(error)) from None
        except StreamError as error:
            self._reason = f"the link to the agent broke: {error}"
            if error.code in REFUSALS:
                raise Refused(self._reason) from None
        if attached and self._phase in ("stopping", "overdue"):
            # Whatever runs still has nobody to answer to, so it is not waited for.
            raise Refused(self._reason)
        return attached

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

    def _begin_absence(self) -> None:
        orphan_s = self._absence.limits.orphan_s
        if orphan_s > 0:
            self._tell(f"{self._reason}; an agent has {orphan_s:g} s to come back")
        _output.shorten_until(self._absence.begin())

    def _end_absence(self, received: Received, welcome: Welcome) -> None:
        away_s = self._absence.end()
        self._limit(welcome)
        if received.concurrency is None:
            self._tell(f"an agent is back after {away_s:.1f} s")

    def _limit(self, limits: Union[Welcome, LinkLimits]) -> None:
        self._absence.limits = Limits(limits.orphan_timeout_ms / 1000, limits.drain_timeout_ms / 1000)
        raise_tasks(limits.tasks)

    def _give_up(self, grace_s: float) -> None:
        orphan_s = self._absence.limits.orphan_s
        self._tell(f"{self._reason}; no agent for {orphan_s:g} s; leaving" if orphan_s else f"{self._reason}; leaving")
        self.stop(grace_s)

    def _leave_at_once(self, reason: str) -> None:
        if not self._leaves:
            self._lost(reason)


def _look(path: str, dialled: str, agent_uids: Collection[int]) -> Optional[str]:
    """Why it is not to be dialled; raises OSError where nobody listens. A look costs little of what a channel does.

    Another user who took the place of the socket would get a token that the agent takes.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        probe.connect(dialled)
        listener = peer_of(probe.fileno())
    if listener is None or listener[1] in agent_uids:
        return None
    return f"who listens at {path} is not the agent: expected user {_name(agent_uids)}, got {listener[1]}"


def _name(uids: Collection[int]) -> str:
    return " or ".join(str(uid) for uid in sorted(uids))
