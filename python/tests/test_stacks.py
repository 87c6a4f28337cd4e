"""Stacks of a process on a signal and at a crash, in a process of its own: the handlers cannot be removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pitwarden._stacks import STACKS_SIGNAL, write_stacks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: real-time signals")


def test_write_stacks_returns_false_for_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    assert not write_stacks("")
    assert not write_stacks(str(tmp_path / "nowhere" / "file"))


def test_stacks_of_all_threads_are_written_while_c_code_holds_the_gil(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import ctypes, sys, threading, time
        from pitwarden._stacks import write_stacks
        assert write_stacks(sys.argv[1])
        def other_thread(): time.sleep(60)
        threading.Thread(target=other_thread, daemon=True).start()
        def holds_the_gil():
            # A signal ends a sleep.
            while True: ctypes.PyDLL(None).sleep(60)
        print("ready", flush=True)
        holds_the_gil()
        """
    )
    path = tmp_path / "stacks"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        # The process holds the GIL a moment after it has printed the line. Until then it has another stack.
        while "in holds_the_gil" not in path.read_text() and time.monotonic() < deadline:
            os.kill(process.pid, STACKS_SIGNAL)
            time.sleep(0.05)
        written = path.read_text()
        assert "in holds_the_gil" in written
        assert "in other_thread" in written
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def run(program: str, path: Path, **env: str) -> tuple[int, str, str]:
    """Runs a program with a path for its stacks. Returns its status, the content of the file, and its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=60,
    )
    return done.returncode, path.read_text(), done.stderr


CRASH = """
    import ctypes, os, signal, sys
    from pitwarden._stacks import STACKS_SIGNAL, write_stacks
    assert write_stacks(sys.argv[1])
    def crash(): ctypes.string_at(0)
"""


def test_a_crash_writes_the_stacks_and_the_process_dies_of_its_signal(tmp_path: Path) -> None:
    status, written, _ = run(CRASH + "    crash()\n", tmp_path / "stacks")
    assert status == -signal.SIGSEGV
    assert written.startswith("Fatal Python error: Segmentation fault")
    assert "in crash\n" in written


def test_a_forked_child_writes_no_stacks_into_its_parents_file(tmp_path: Path) -> None:
    program = """
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), STACKS_SIGNAL)
        crash()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
    assert os.path.getsize(sys.argv[1]) == 0
    crash()
"""
    status, written, _ = run(CRASH + program, tmp_path / "stacks")
    assert status == -signal.SIGSEGV
    assert written.count("Fatal Python error") == 1


def test_a_forked_child_leaves_a_descriptor_alone_that_the_application_has_reused(tmp_path: Path) -> None:
    program = """
    os.closerange(3, 100)
    theirs = [os.open(sys.argv[1] + str(n), os.O_CREAT | os.O_RDWR) for n in range(5)]
    child = os.fork()
    if child == 0:
        for descriptor in theirs: os.write(descriptor, b"theirs")
        os._exit(0)
    os.waitpid(child, 0)
"""
    status, _, errors = run(CRASH + program, tmp_path / "stacks")
    assert status == 0, errors
    assert [(tmp_path / f"stacks{n}").read_text() for n in range(5)] == ["theirs"] * 5


def test_stacks_of_a_crash_go_to_stderr_if_python_was_told_so(tmp_path: Path) -> None:
    _, written, errors = run(CRASH + "    crash()\n", tmp_path / "stacks", PYTHONFAULTHANDLER="1")
    assert written == ""
    assert "in crash\n" in errors
