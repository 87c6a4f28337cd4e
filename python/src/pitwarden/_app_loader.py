"""Loads the application of a worker."""

from __future__ import annotations

import importlib
import os
import sys

from . import _fork_guard
from ._application import Application
from ._unpatched import thread_patcher


class LoadError(Exception):
    """The application could not be made ready. The cause is the application's own exception, if there was one."""


def load(name: str) -> Application:
    """Imports the App that PITWARDEN_APP names, as "module:attribute". Raises LoadError."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise LoadError(f'PITWARDEN_APP must be "module:attribute", got {name!r}')
    here = os.getcwd()
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        with _fork_guard.ending_children(f"the import of {module_name}"):
            module = importlib.import_module(module_name)
    # BaseException: a module that calls sys.exit() must not look like a worker that was asked to stop.
    except BaseException as error:
        raise LoadError(f"could not import {module_name!r} from {here}") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, Application):
        got = "nothing of that name" if app is None else type(app).__name__
        raise LoadError(f"{name!r} must be a pitwarden.App, got {got}")
    return app


def run_start_hooks(application: Application) -> None:
    """Runs the start hooks. Raises LoadError if one fails."""
    try:
        application.start()
    except BaseException as error:
        raise LoadError("a start hook failed") from error


def refuse_greenlets() -> None:
    """Raises LoadError if the application has replaced threads by greenlets."""
    package = thread_patcher()
    if package:
        raise LoadError(
            f"{package} has put greenlets in the place of threads, and a worker needs real ones to answer its agent "
            "while a command runs: leave threads as they are (monkey_patch(thread=False) in eventlet, "
            "patch_all(thread=False) in gevent), or do not patch; for many requests at once there are the pool's "
            "`concurrency` and async commands"
        )
