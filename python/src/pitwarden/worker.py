"""The worker process: `python -m pitwarden.worker`, started by the agent.

    PITWARDEN_LINK        path of the unix socket to dial
    PITWARDEN_BEGUN       path of the file that holds the id of the newest request to begin, in four bytes
    PITWARDEN_STACKS      path of the file for the stacks of a process that hangs or crashes
    PITWARDEN_WORKER_ID   name of this process
    PITWARDEN_POOL        its pool
    PITWARDEN_SLOT        its slot in the pool: 0, 1, …
    PITWARDEN_APP         "module:attribute" of the App; App.run() does not need it
    PITWARDEN_ORPHAN_TIMEOUT_MS, PITWARDEN_DRAIN_TIMEOUT_MS
                          how long the worker waits for an agent, and how long running requests may take after that,
                          until the agent's welcome gives other values; defaults: 60000 and 30000
    PITWARDEN_LIMITS      resource limits to set, see _resource_limits.py

The agent also writes a secret to descriptors 3 and 0, see _secret.py.

A worker that loses its agent keeps its requests and waits for the next agent, see proto/pitwarden/v1/link.proto.

Exit codes: 0 asked to stop, 2 not started by an agent or without its secret, 3 the application failed to load,
4 the agent is gone or has refused the worker.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, Optional

from . import _grpc_settings, _log_records
from ._app_loader import LoadError, load, refuse_greenlets, run_start_hooks
from ._application import Application
from ._begun_mark import open_begun_mark
from ._exit_delay import report_exit_delay
from ._measurements import measurements
from ._no_new_privileges import forbid_new_privileges
from ._notices import flush_output, notify_with_timeout
from ._output import survive_full_disk
from ._pb.link_pb2 import Command, Hello
from ._resource_limits import limit_resources
from ._secret import SecretError
from ._session import PROTOCOL, Session
from ._signals import ignore_interrupts, on_terminate
from ._stacks import write_stacks
from ._tree_mark import mark_descendants
from ._version import __version__
from ._worker_settings import WorkerSettings, take_settings

EXIT_STOPPED = 0
EXIT_USAGE = 2
EXIT_APP = 3
EXIT_LINK = 4

COMMANDS_MAX = 1000

# How long stop hooks may still run when the agent is lost while they do.
HOOKS_AFTER_LOSS_S = 5.0

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


def main() -> int:
    app_name = os.environ.get("PITWARDEN_APP", "")
    return _serve_agent(lambda: load(app_name)) if app_name else _usage()


def serve_app(application: Application) -> int:
    """Serves the agent that started this process. Returns the code to exit with."""
    return _serve_agent(lambda: application)


def _usage() -> int:
    names = ("PITWARDEN_LINK", "PITWARDEN_WORKER_ID", "PITWARDEN_APP")
    missing = [name for name in names if not os.environ.get(name)]
    print(USAGE.format(missing=", ".join(missing) + (" is" if len(missing) == 1 else " are")), file=sys.stderr)
    return EXIT_USAGE


def _serve_agent(load_application: Callable[[], Application]) -> int:
    try:
        settings = take_settings()
    except SecretError as error:
        print(f"pitwarden: {error}", file=sys.stderr)
        return EXIT_USAGE
    if settings is None:
        return _usage()
    problem = forbid_new_privileges() or _prepare_process(settings)
    if problem is not None:
        print(f"pitwarden: {problem}", file=sys.stderr)
        return EXIT_APP
    try:
        application, session = _start(settings, load_application)
    except LoadError as error:
        _print_load_error(error)
        flush_output()
        return EXIT_APP
    return _serve(settings, application, session)


def _prepare_process(settings: WorkerSettings) -> Optional[str]:
    """Everything that must be done before any code of the application runs. Returns a limit's problem, or None."""
    ignore_interrupts()
    survive_full_disk()
    mark_descendants(settings.worker_id)
    return limit_resources(settings.resource_limits)


def _start(settings: WorkerSettings, load_application: Callable[[], Application]) -> tuple[Application, Session]:
    """Loads the application and runs its start hooks. Raises LoadError."""
    _grpc_settings.apply_at_import()
    _log_records.install()
    writes_stacks = write_stacks(settings.stacks)
    interpreter_s, began_s = _process_age_s(), time.monotonic()
    # What the application measures while it is loaded waits for the first frame.
    measurements.start()
    application = load_application()
    refuse_greenlets()
    imported_s = time.monotonic()
    mark_begun = open_begun_mark(settings.begun)
    hello = _hello(settings, application, marks_begun=mark_begun is not None, writes_stacks=writes_stacks)
    run_start_hooks(application)
    _log_records.adopt_handlers()
    hello.interpreter_ms = round(interpreter_s * 1000)
    hello.import_ms = round((imported_s - began_s) * 1000)
    hello.hooks_ms = round((time.monotonic() - imported_s) * 1000)
    return application, Session(hello, mark_begun, settings.secret.next_token)


def _serve(settings: WorkerSettings, application: Application, session: Session) -> int:
    """Serves the agent until the worker has stopped. Returns the code to exit with."""
    # Imported here because it starts gRPC's threads: the application may fork while it is loaded.
    from ._link import Link

    if _grpc_settings.supports_forks():
        notify_with_timeout(FORK_SUPPORT)
    hooks_run = threading.Event()
    link = Link(
        application,
        settings.link,
        session,
        settings.orphan_limits,
        settings.secret.agent_uids,
        on_lost=lambda reason: _exit_without_agent(reason, hooks_run),
        on_overdue=_exit_at_once,
    )
    on_terminate(link.stop)
    link.serve()
    hooks_run.set()
    try:
        application.stop()
        application.loop.close_generators()
    # BaseException, so that the agent is told in any case that the worker leaves.
    except BaseException:
        print("pitwarden: a stop hook failed", file=sys.stderr)
        traceback.print_exc()
    link.close()
    flush_output()
    report_exit_delay()
    return EXIT_LINK if link.orphaned else EXIT_STOPPED


def _hello(settings: WorkerSettings, application: Application, marks_begun: bool, writes_stacks: bool) -> Hello:
    commands = application.commands.values()
    if len(commands) > COMMANDS_MAX:
        raise LoadError(f"an application may have at most {COMMANDS_MAX} commands, got {len(commands)}")
    return Hello(
        protocol=PROTOCOL,
        worker_id=settings.worker_id,
        pid=os.getpid(),
        commands=[Command(name=c.name, streams=c.streams, summary=c.summary, is_async=c.is_async) for c in commands],
        sdk_version=__version__,
        python_version=platform.python_version(),
        marks_begun=marks_begun,
        writes_stacks=writes_stacks,
    )


def _process_age_s() -> float:
    """Seconds since this process was born; 0 if the system does not tell (field 22 of proc_pid_stat(5))."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            born_ticks = int(stat.read().rpartition(")")[2].split()[19])
            return max(0.0, float(uptime.read().split()[0]) - born_ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _print_load_error(error: LoadError) -> None:
    print(f"pitwarden: {error}", file=sys.stderr)
    cause = error.__cause__
    if cause is not None:
        traceback.print_exception(type(cause), cause, cause.__traceback__)


def _exit_without_agent(reason: str, hooks_run: threading.Event) -> NoReturn:
    if hooks_run.is_set():
        time.sleep(HOOKS_AFTER_LOSS_S)
    # Nobody is left who would get the answers of what still runs.
    _exit_at_once(f"{reason}; leaving")


def _exit_at_once(reason: str) -> NoReturn:
    try:
        notify_with_timeout(reason)
    # If no thread can be started for the notice, there is none.
    finally:
        os._exit(EXIT_LINK)


if __name__ == "__main__":
    sys.exit(main())
