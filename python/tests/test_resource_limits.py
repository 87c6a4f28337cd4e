"""Resource limits and the tree mark. Each test sets them in a process of its own, because they cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from pitwarden._tree_mark import mark_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: its limits")


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
    )
    return done.stdout.decode().strip()


def test_a_daemon_with_an_empty_environment_still_has_the_mark_of_its_worker() -> None:
    program = """
        import os
        from pitwarden._tree_mark import mark_descendants
        assert mark_descendants("text-0-abcdefgh")
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/grep", ["grep", "realtime timeout", "/proc/self/limits"], {})
        os.wait()
    """
    assert run(program).split()[3:5] == [str(mark_of("text-0-abcdefgh"))] * 2


def test_open_files_and_data_bytes_limit_each_process() -> None:
    program = """
        import resource, subprocess, sys
        from pitwarden._resource_limits import limit_resources
        assert limit_resources("open_files=100 data_bytes=300000000") is None
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
        try:
            bytearray(400_000_000)
        except MemoryError:
            print("no memory")
        subprocess.run([sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[1])"])
    """
    assert run(program).split("\n") == ["(100, 100)", "no memory", "300000000"]


def test_limit_resources_never_raises_a_limit() -> None:
    program = """
        import resource
        from pitwarden._resource_limits import limit_resources
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
        assert limit_resources("open_files=1000 of_a_later_agent=7") is None
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    assert run(program) == "(60, 60)"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: the kernel counts processes of other users alone")
def test_a_worker_that_forks_without_end_is_stopped_by_the_limit_of_tasks() -> None:
    program = """
        import os, resource, time
        from pitwarden._resource_limits import limit_resources
        os.setuid(65534)
        assert limit_resources("tasks=20") is None
        children = []
        try:
            while len(children) < 100:
                child = os.fork()
                if child == 0:
                    time.sleep(60)
                children.append(child)
        except BlockingIOError:
            print("denied after", len(children))
        for child in children:
            os.kill(child, 9)
    """
    assert run(program) == "denied after 20"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: the kernel counts processes of other users alone")
def test_eight_workers_of_one_user_can_start_their_threads_when_the_limit_of_tasks_is_raised() -> None:
    program = """
        import os, resource, threading
        from pitwarden import _resource_limits
        os.setuid(65533)
        each, threads = 32, 12

        def work(orders, answers):
            # The limits that the agent sends for one worker and then for eight.
            assert _resource_limits.limit_resources(f"tasks={each}") is None
            os.write(answers, b"l")
            os.read(orders, 1)
            _resource_limits.raise_tasks(8 * each)
            try:
                for _ in range(threads):
                    threading.Thread(target=threading.Event().wait, daemon=True).start()
                os.write(answers, b"y")
            except RuntimeError:
                os.write(answers, b"n")
            os.read(ends, 1)
            os._exit(0)

        orders, ordered = os.pipe()
        ends, ended = os.pipe()
        answered, answers = os.pipe()
        for _ in range(8):
            if os.fork() == 0:
                work(orders, answers)
            os.read(answered, 1)
        found = b""
        for _ in range(8):
            os.write(ordered, b".")
            found += os.read(answered, 1)
        print(found.decode())
        os.write(ended, b"." * 8)
    """
    assert run(program) == "y" * 8


def test_raise_tasks_never_lowers_the_limit_and_sets_none_where_there_was_none() -> None:
    program = """
        import resource
        from pitwarden import _resource_limits
        soft = lambda: resource.getrlimit(resource.RLIMIT_NPROC)[0]
        hard = min(20_000, soft())
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        _resource_limits.raise_tasks(5)
        print(soft() == hard)
        assert _resource_limits.limit_resources("tasks=500") is None
        before = soft() - 500
        for value in (700, 600, 0):
            _resource_limits.raise_tasks(value)
            print(soft() - before if value else soft() == hard)
    """
    assert run(program) == "True\n700\n700\nTrue"
