"""The worker process: `python -m pitwarden.worker`, started by the agent.

    PITWARDEN_LINK        path of the unix socket to dial
    PITWARDEN_BEGUN       path of the four bytes that hold the id of the newest request to begin
    PITWARDEN_STACKS      path of the file for the stacks of a process that hangs or crashes
    PITWARDEN_WORKER_ID   name of this process
    PITWARDEN_POOL        its pool
    PITWARDEN_SLOT        its place in the pool: 0, 1, …
    PITWARDEN_APP         "module:attribute" of the App; not needed by App.run()
    PITWARDEN_ORPHAN_TIMEOUT_MS, PITWARDEN_DRAIN_TIMEOUT_MS
                          until an agent's welcome says them: how long the worker waits for an agent, and how long what
                          runs may take after that; 60000 and 30000 without them
    PITWARDEN_LIMITS      resource limits to set, see _limits.py

The agent also writes a secret to descriptors 3 and 0, see _secret.py.

A worker that loses its agent goes on with what it holds and waits for the next; see proto/pitwarden/v1/link.proto.

Exit codes: 0 asked to stop, 2 not started by an agent or without its secret, 3 the application failed to load,
4 the agent is gone or refused it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn, Optional

from . import _fork, _grpc_settings, _log_records
from ._absence import Limits
from ._begun import begun_marker
from ._ending import say_what_delays_the_end
from ._limits import limit_resources, mark_descendants
from ._originals import who_replaced_threads
from ._output import survive_full_disk
from ._pb.link_pb2 import Command, Hello
from ._secret import Secret, SecretError, take_secret
from ._session import PROTOCOL, Session
from ._signals import ignore_interrupts, on_terminate
from ._stacks import write_stacks
from ._version import __version__
from .app import App

EXIT_STOPPED = 0
EXIT_USAGE = 2
EXIT_APP = 3
EXIT_LINK = 4

COMMANDS_MAX = 1000

# Stop hooks may end in peace when the agent goes away while they run, but not for ever.
HOOKS_AFTER_LINK_S = 5.0

# Flushing may block on a pipe that nobody reads.
FLUSH_S = 1.0

FORK_SUPPORT = (
    "gRPC was imported with GRPC_ENABLE_FORK_SUPPORT before the worker could turn it off: processes that commands fork "
    "may hang; set GRPC_ENABLE_FORK_SUPPORT=0 in the pool's env"
)

USAGE = """\
pitwarden: this process was not started by an agent: {missing} not set.

A worker is started by `pitwarden agent`, from a pool in its configuration:

    pools:
      my-pool:
        app: my_module:app

To try a command without an agent, call it from Python: app.call("name", argument=1)"""


class Settings(NamedTuple):
    link: str
    secret: Secret
    worker_id: str
    begun: str
    stacks: str
    limits: Limits
    resources: str


class LoadError(Exception):
    """The application could not be made ready; the cause is the application's own exception, if there was one."""


def main() -> int:
    app_name = os.environ.get("PITWARDEN_APP", "")
    return _serve_agent(lambda: load(app_name)) if app_name else _usage()


def serve_app(app: App) -> int:
    """Serves the agent that started this process; returns the code to exit with."""
    return _serve_agent(lambda: app)


def load(name: str) -> App:
    """The App that PITWARDEN_APP names."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise LoadError(f'PITWARDEN_APP must be "module:attribute", got {name!r}')
    here = os.getcwd()
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        with _fork.children_end_here(f"the import of {module_name}"):
            module = importlib.import_module(module_name)
    # A module that calls sys.exit() must not look like a worker that was asked to stop.
    except BaseException as error:
        raise LoadError(f"could not import {module_name!r} from {here}") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        got = "nothing of that name" if app is None else type(app).__name__
        raise LoadError(f"{name!r} must be a pitwarden.App, got {got}")
    return app


def _settings() -> Optional[Settings]:
    """None: no agent started this process. The application is loaded later: it finds neither paths nor secret."""
    begun, stacks = os.environ.pop("PITWARDEN_BEGUN", ""), os.environ.pop("PITWARDEN_STACKS", "")
    link, worker_id = os.environ.get("PITWARDEN_LINK", ""), os.environ.get("PITWARDEN_WORKER_ID", "")
    limits = Limits(
        _take_seconds("PITWARDEN_ORPHAN_TIMEOUT_MS", 60.0), _take_seconds("PITWARDEN_DRAIN_TIMEOUT_MS", 30.0)
    )
    resources = os.environ.pop("PITWARDEN_LIMITS", "")
    if not link or not worker_id:
        return None
    return Settings(link, take_secret(worker_id), worker_id, begun, stacks, limits, resources)


def _take_seconds(name: str, default_s: float) -> float:
    milliseconds = os.environ.pop(name, "")
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else default_s


def _usage() -> int:
    names = ("PITWARDEN_LINK", "PITWARDEN_WORKER_ID", "PITWARDEN_APP")
    missing = [name for name in names if not os.environ.get(name)]
    print(USAGE.format(missing=", ".join(missing) + (" is" if len(missing) == 1 else " are")), file=sys.stderr)
    return EXIT_USAGE


def _serve_agent(find_app: Callable[[], App]) -> int:
    try:
        settings = _settings()
    except SecretError as error:
        print(f"pitwarden: {error}", file=sys.stderr)
        return EXIT_USAGE
    return _usage() if settings is None else _serve(settings, find_app)


def _serve(settings: Settings, find_app: Callable[[], App]) -> int:
    ignore_interrupts()
    survive_full_disk()
    mark_descendants(settings.worker_id)
    unlimited = limit_resources(settings.resources)
    if unlimited is not None:
        print(f"pitwarden: {unlimited}", file=sys.stderr)
        return EXIT_APP
    _grpc_settings.apply_at_import()
    _log_records.begin()
    writes_stacks = write_stacks(settings.stacks)
    interpreter_s, begun_s = _age_s(), time.monotonic()
    try:
        app = find_app()
        _refuse_greenlets()
        imported_s = time.monotonic()
        mark_begun = begun_marker(settings.begun)
        hello = _hello(settings, app, marks_begun=mark_begun is not None, writes_stacks=writes_stacks)
        _start(app)
        _log_records.adopt()
        hello.interpreter_ms = round(interpreter_s * 1000)
        hello.import_ms = round((imported_s - begun_s) * 1000)
        hello.hooks_ms = round((time.monotonic() - imported_s) * 1000)
        session = Session(hello, mark_begun, settings.secret.next_token)
    except LoadError as error:
        _explain(error)
        _flush()
        return EXIT_APP

    # Here and not above: gRPC's threads should not exist before the application has had its chance to fork.
    from ._link import Link

    if _grpc_settings.supports_forks():
        _tell(FORK_SUPPORT)
    leaving = threading.Event()
    link = Link(
        app,
        settings.link,
        session,
        settings.limits,
        settings.secret.agent_uids,
        lost=lambda reason: _lost(reason, leaving),
        overdue=_end,
        tell=_tell,
    )
    on_terminate(link.stop)
    link.serve()
    leaving.set()
    try:
        app.stop()
        app.loop.close_generators()
    # Also SystemExit: the worker leaves anyway, and the agent is still to be told so.
    except BaseException:
        print("pitwarden: a stop hook failed", file=sys.stderr)
        traceback.print_exc()
    link.leave()
    _flush()
    say_what_delays_the_end()
    return EXIT_LINK if link.orphaned else EXIT_STOPPED


def _hello(settings: Settings, app: App, marks_begun: bool, writes_stacks: bool) -> Hello:
    if len(app.commands) > COMMANDS_MAX:
        raise LoadError(f"an application may have at most {COMMANDS_MAX} commands, got {len(app.commands)}")
    return Hello(
        protocol=PROTOCOL,
        worker_id=settings.worker_id,
        pid=os.getpid(),
        commands=[
            Command(name=c.name, streams=c.streams, summary=c.summary, is_async=c.is_async)
            for c in app.commands.values()
        ],
        sdk_version=__version__,
        python_version=platform.python_version(),
        marks_begun=marks_begun,
        writes_stacks=writes_stacks,
    )


def _age_s() -> float:
    """Since this process was born; 0 where the system does not tell (proc_pid_stat(5), field 22)."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            born_ticks = int(stat.read().rpartition(")")[2].split()[19])
            return max(0.0, float(uptime.read().split()[0]) - born_ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _refuse_greenlets() -> None:
    package = who_replaced_threads()
    if package:
        raise LoadError(
            f"{package} has put greenlets in the place of threads, and a worker needs real ones to answer its agent "
            "while a command runs: leave threads as they are (monkey_patch(thread=False) in eventlet, "
            "patch_all(thread=False) in gevent), or do not patch; for many requests at once there are the pool's "
            "`concurrency` and async commands"
        )


def _start(app: App) -> None:
    try:
        app.start()
    except BaseException as error:
        raise LoadError("a start hook failed") from error


def _explain(error: LoadError) -> None:
    print(f"pitwarden: {error}", file=sys.stderr)
    cause = error.__cause__
    if cause is not None:
        traceback.print_exception(type(cause), cause, cause.__traceback__)


def _lost(reason: str, leaving: threading.Event) -> NoReturn:
    if leaving.is_set():
        time.sleep(HOOKS_AFTER_LINK_S)
    # Whatever runs still has nobody to answer to, so it is not waited for.
    _end(f"{reason}; leaving")


def _end(line: str) -> NoReturn:
    try:
        _tell(line)
    # Not told, where no thread can be started for it.
    finally:
        os._exit(EXIT_LINK)


def _tell(line: str) -> None:
    # In a thread, for it may block: on a pipe that nobody reads, or behind whoever prints.
    teller = threading.Thread(target=_print, args=(f"pitwarden: {line}",), daemon=True)
    teller.start()
    teller.join(FLUSH_S)


def _print(line: str) -> None:
    # An agent that was killed no longer reads this process's output either.
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        # Also None, for a stream that was closed before Python began, and one closed since.
        except (OSError, ValueError, AttributeError):
            continue


if __name__ == "__main__":
    sys.exit(main())
