"""No new privileges. Each test sets them in a process of its own, because they cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: prctl")


def run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
    )
    return done.stdout.decode().split()


def test_a_process_and_its_threads_and_children_can_gain_no_rights() -> None:
    program = """
        import subprocess, threading
        from pitwarden._no_new_privileges import forbid_new_privileges
        def show(name):
            status = open("/proc/thread-self/status").read()
            print(name, status.split("NoNewPrivs:")[1].split()[0])
        assert forbid_new_privileges() is None
        show("main")
        thread = threading.Thread(target=show, args=["thread"])
        thread.start()
        thread.join()
        print("child", subprocess.check_output(["grep", "NoNewPrivs", "/proc/self/status"]).decode().split()[1])
    """
    assert run(program) == ["main", "1", "thread", "1", "child", "1"]


def test_where_it_is_set_already_ctypes_is_not_imported() -> None:
    program = """
        import os, sys
        from pitwarden._no_new_privileges import forbid_new_privileges
        assert forbid_new_privileges() is None
        again = "import sys; from pitwarden._no_new_privileges import forbid_new_privileges as forbid; "
        os.execv(sys.executable, [sys.executable, "-c", again + "print(forbid(), 'ctypes' in sys.modules)"])
    """
    assert run(program) == ["None", "False"]


def test_a_refusal_of_the_kernel_is_said() -> None:
    program = """
        import ctypes
        from pitwarden import _no_new_privileges
        _no_new_privileges._PR_SET_NO_NEW_PRIVS = 123456
        _no_new_privileges._is_set = lambda: False
        print(_no_new_privileges.forbid_new_privileges())
    """
    assert " ".join(run(program)) == "no_new_privs could not be set: errno 22"
