"""The worker's link to its agent: one gRPC stream, and the next one when that is lost. Runs the worker until it leaves.

On the worker's side only this module and _grpc_stream.py use gRPC.
"""

from __future__ import annotations

import functools
import random
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import Literal, Optional, Union

import grpc

from . import _grpc_forks, _grpc_settings, _output
from ._address import Address, AddressError
from ._application import Application
from ._executor import Executor
from ._grpc_stream import Stream, StreamError, open_stream
from ._locked_session import LockedSession
from ._notices import notify_with_timeout
from ._orphan_timer import OrphanLimits, OrphanTimer
from ._pb.link_pb2 import Limits, Welcome
from ._peer import listener_problem
from ._resource_limits import raise_tasks
from ._secret import SecretError
from ._session import ProtocolError, Received, Session

# How long the agent may take to end the stream after the worker has. It only has to read what was sent.
CLOSE_TIMEOUT_S = 1.0

# Pauses between two attempts to reach an agent. Short at first, for a successor is often there in a moment.
PAUSE_MIN_S = 0.02
PAUSE_MAX_S = 0.2
PAUSE_GROWTH = 1.5
# A link that lasted as long as this makes the pauses short again.
STABLE_AFTER_S = 1.0

# How long attempts to reach an agent must have failed before the worker reports why.
REPORT_UNREACHABLE_AFTER_S = 0.5

# Statuses with which an agent refuses this worker for good.
REFUSALS = ("UNAUTHENTICATED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The socket is on this machine, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # Older versions of gRPC make the authority of the socket's path, which some servers refuse.
    ("grpc.default_authority", "localhost"),
    # The worker itself dials again, with another hello.
    ("grpc.enable_retries", 0),
    # Channels to one socket would otherwise share their connection, and the pause after one that failed.
    ("grpc.use_local_subchannel_pool", 1),
    # The kernel reports a lost peer, and the agent sends pings of its own, so HTTP/2 pings could only do harm.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
)


class FatalLinkError(Exception):
    """No agent accepts this worker, or the worker cannot go on with one. It exits at once."""


class Link:
    def __init__(
        self,
        application: Application,
        path: str,
        session: Session,
        limits: OrphanLimits,
        agent_uids: Collection[int],
        *,
        on_lost: Callable[[str], object],
        on_overdue: Callable[[str], object],
    ) -> None:
        """``path`` is the socket to dial, unless its listener runs as another user than ``agent_uids``. ``limits`` hold
        until an agent sends others.

        Both functions are called from threads, get a reason for people, and must end the process: ``on_lost`` when an
        agent refuses the worker, or is lost while the worker stops; ``on_overdue`` when the worker should have ended by
        now but something still runs."""
        self._application = application
        self._session = LockedSession(session)
        self._executor = Executor(application, self._session, retire=self.retire, on_broken=self._exit_now)
        application.loop.on_end = self._exit_now
        self._path = path
        self._agent_uids = agent_uids
        self._on_lost = on_lost
        still_running = "something still runs and is not waited for"
        self._orphan_timer = OrphanTimer(
            limits, stop=self._stop_as_orphan, end_process=lambda: on_overdue(still_running)
        )
        self._phase_lock = threading.Lock()
        self._phase: Literal["serving", "retiring", "stopping", "overdue", "leaving"] = "serving"
        # Why there is no link.
        self._reason = ""
        # True: the last attempt reached a socket with a listener, and failed after that.
        self._has_listener = False
        # Set while no stream is open.
        self._stream_closed = threading.Event()
        self._stream_closed.set()

    @property
    def orphaned(self) -> bool:
        """True if the worker stopped because it had no agent for too long."""
        return self._orphan_timer.expired

    def serve(self) -> None:
        """Runs requests until the agent or this process wants the worker to stop, and the last request is answered.

        To be called in the main thread. Pings are answered until ``close``.
        """
        threading.Thread(target=self._stay_attached, name="pitwarden-link", daemon=True).start()
        self._executor.run_main_thread()

    def stop(self, grace_s: Optional[float] = None) -> None:
        """Lets no request begin. Cancels the running ones when called again, or after ``grace_s``; None: only then."""
        with self._phase_lock:
            if self._phase == "stopping":
                self._phase = "overdue"
                self._executor.cancel(self._session.cancel_all())
            if self._phase not in ("serving", "retiring"):
                return
            self._phase = "stopping"
        self._stop_accepting("")
        if grace_s is not None:
            overdue = threading.Timer(grace_s, self.stop)
            overdue.daemon = True
            overdue.start()

    def retire(self, reason: str) -> None:
        """Like ``stop``, but because the application asked to be replaced: the agent gets the reason."""
        with self._phase_lock:
            if self._phase != "serving":
                return
            self._phase = "retiring"
        self._stop_accepting(reason)

    def close(self) -> None:
        """Sends what is left to send, and ends the link for good."""
        self._phase = "leaving"
        self._session.close()
        # If the process ended now the stream would be cancelled, and the agent might drop what it has not read yet.
        self._stream_closed.wait(CLOSE_TIMEOUT_S)

    def _stop_accepting(self, reason: str) -> None:
        self._session.leave(on_idle=self._executor.release_main_thread, reason=reason)
        self._executor.return_waiting()

    @property
    def _is_closed(self) -> bool:
        return self._phase == "leaving"

    def _stay_attached(self) -> None:
        try:
            self._dial_until_closed()
        except FatalLinkError as error:
            self._exit_now(str(error))
        # Without this thread the worker would serve nobody, so it must not go on.
        except BaseException as error:
            traceback.print_exc()
            self._exit_now(f"the link to the agent cannot be served: {error!r}")

    def _dial_until_closed(self) -> None:
        self._orphan_timer.start()
        pause_s = PAUSE_MIN_S
        lost_s, was_attached, has_reported = time.monotonic(), False, False
        while not self._is_closed:
            dialled_s = time.monotonic()
            attached = self._dial()
            if attached:
                lost_s, was_attached, has_reported = time.monotonic(), True, False
                if not self._is_closed:
                    self._on_link_lost()
            # Not if nobody listens where an agent was attached before: the loss of the agent was reported.
            elif not has_reported and (self._has_listener or not was_attached):
                has_reported = time.monotonic() - lost_s > REPORT_UNREACHABLE_AFTER_S
                if has_reported:
                    notify_with_timeout(f"{self._reason}; trying on")
            if attached and time.monotonic() - dialled_s > STABLE_AFTER_S:
                pause_s = PAUSE_MIN_S
            # Random, so that the workers of an agent do not all dial at the same moment.
            time.sleep(pause_s * random.uniform(0.75, 1.25))
            pause_s = min(pause_s * PAUSE_GROWTH, PAUSE_MAX_S)

    def _dial(self) -> bool:
        """Dials once, and serves the stream until it ends. Returns True if the agent had sent its welcome."""
        self._has_listener = False
        try:
            address = Address(self._path)
        except (AddressError, OSError) as error:
            self._reason = f"the agent cannot be dialled: {error}"
            return False
        try:
            try:
                problem = listener_problem(self._path, address.path, self._agent_uids)
            except OSError as error:
                self._reason = f"nobody listens at {self._path}: {error}"
                return False
            self._has_listener = True
            if problem is not None:
                self._reason = problem
                return False
            return self._serve_stream(address)
        finally:
            address.close()

    def _serve_stream(self, address: Address) -> bool:
        channel = grpc.insecure_channel(address.target, options=_OPTIONS)
        _grpc_forks.channel_opened(channel)
        _grpc_settings.restore()
        stream = open_stream(channel, functools.partial(self._session.frame_sent, self._session.next_stream_number))
        self._stream_closed.clear()
        try:
            self._session.attach(stream)
            return self._receive_frames(stream)
        except SecretError as error:
            raise FatalLinkError(str(error)) from None
        finally:
            self._session.detach()
            # Releases grpcio's thread that waits for the next frame.
            stream.end()
            channel.close()
            _grpc_forks.channel_closed(channel)
            self._stream_closed.set()

    def _receive_frames(self, stream: Stream) -> bool:
        attached = False
        self._reason = "the agent closed the link"
        try:
            for frame in stream:
                # Measured with pings only, because measuring wakes the loop.
                lag_ms = self._application.loop.lag_ms() if frame.HasField("ping") else 0
                received = self._session.receive(frame, lag_ms)
                if received.welcome is not None:
                    attached = True
                    self._on_attached(received, received.welcome)
                if received.limits is not None:
                    self._set_limits(received.limits)
                self._apply(received)
        except ProtocolError as error:
            raise FatalLinkError(str(error)) from None
        except StreamError as error:
            self._reason = f"the link to the agent broke: {error}"
            if error.code in REFUSALS:
                raise FatalLinkError(self._reason) from None
        if attached and self._phase in ("stopping", "overdue"):
            # No agent is left to receive the answers of requests that still run.
            raise FatalLinkError(self._reason)
        return attached

    def _apply(self, received: Received) -> None:
        if received.concurrency is not None:
            self._executor.set_concurrency(received.concurrency)
        if received.starts:
            self._executor.start(received.starts)
        if received.recalled:
            self._executor.return_waiting()
        if received.cancelled:
            self._executor.cancel(received.cancelled)
        if received.stop_grace_ms is not None:
            self.stop(received.stop_grace_ms / 1000)

    def _on_link_lost(self) -> None:
        orphan_timeout_s = self._orphan_timer.limits.orphan_timeout_s
        if orphan_timeout_s > 0:
            notify_with_timeout(f"{self._reason}; an agent has {orphan_timeout_s:g} s to come back")
        _output.keep_short_until(self._orphan_timer.start())

    def _on_attached(self, received: Received, welcome: Welcome) -> None:
        away_s = self._orphan_timer.cancel()
        self._set_limits(welcome)
        if received.concurrency is None:
            notify_with_timeout(f"an agent is back after {away_s:.1f} s")

    def _set_limits(self, limits: Union[Welcome, Limits]) -> None:
        self._orphan_timer.limits = OrphanLimits(limits.orphan_timeout_ms / 1000, limits.drain_timeout_ms / 1000)
        raise_tasks(limits.tasks)

    def _stop_as_orphan(self, grace_s: float) -> None:
        orphan_timeout_s = self._orphan_timer.limits.orphan_timeout_s
        waited = f"; no agent for {orphan_timeout_s:g} s" if orphan_timeout_s else ""
        notify_with_timeout(f"{self._reason}{waited}; leaving")
        self.stop(grace_s)

    def _exit_now(self, reason: str) -> None:
        if not self._is_closed:
            self._on_lost(reason)
