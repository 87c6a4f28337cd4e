"""Stacks on a signal, in a process of their own: the handler is for good."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pitwarden._stacks import SIGNAL, write_stacks_on_signal

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="real-time signals are Linux's")


def test_a_path_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    assert not write_stacks_on_signal("")
    assert not write_stacks_on_signal(str(tmp_path / "nowhere" / "file"))


def test_stacks_of_all_threads_are_written_while_c_code_holds_the_gil(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import ctypes, sys, threading, time
        from pitwarden._stacks import write_stacks_on_signal
        assert write_stacks_on_signal(sys.argv[1])
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
        # It holds the GIL from a moment after it said so: until then its stack is another one.
        while "in holds_the_gil" not in path.read_text() and time.monotonic() < deadline:
            os.kill(process.pid, SIGNAL)
            time.sleep(0.05)
        written = path.read_text()
        assert "in holds_the_gil" in written
        assert "in other_thread" in written
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
