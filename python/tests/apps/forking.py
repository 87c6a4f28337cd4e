"""Commands and hooks that fork, and return or raise in the child too."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pitwarden

app = pitwarden.App()
DIR = Path(os.environ["TEST_DIR"])


def forked(how):
    """Forks; in the child, does what ``how`` says. Returns the child's pid in the parent."""
    pid = os.fork()
    if pid == 0:
        with (DIR / "children").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise RuntimeError("of a child")
        if how == "report":
            pitwarden.context().progress(0.5, "from the child")
            pitwarden.context().retire("from the child")
    return pid


EARLY = subprocess.run(["env"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def status_of(pid):
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return "lives on"


@app.on_start
def start():
    if "start" in os.environ.get("FORK_IN", ""):
        pid = forked("return")
        if pid:
            assert status_of(pid) == 0


@app.on_stop
def stop():
    if "stop" in os.environ.get("FORK_IN", ""):
        pid = forked("exit")
        if pid:
            print("hook's child:", status_of(pid), flush=True)


@app.command
def fork(how):
    pid = forked(how)
    if pid == 0:
        return "from the child"
    return status_of(pid)


@app.command
def fork_in_str():
    class Odd(Exception):
        def __str__(self):
            pid = forked("return")
            return f"status {status_of(pid)}" if pid else "from the child"

    raise Odd


@app.command
def fork_in_stream(how):
    pid = forked(how)
    if pid:
        yield status_of(pid)
    else:
        yield "from the child"


async def gone(pid):
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(0.01)
    return "lives on"


@app.command
async def async_fork(how):
    pid = forked(how)
    if pid == 0:
        if how == "await":
            await asyncio.sleep(0)
        return "from the child"
    return await gone(pid)


@app.command
async def async_fork_in_stream(how):
    pid = forked(how)
    yield await gone(pid) if pid else "from the child"


@app.command
async def fork_in_task(how):
    async def task():
        pid = forked(how)
        if pid == 0:
            await asyncio.sleep(0)
        return await gone(pid)

    return await asyncio.create_task(task())


@app.command
def loop_in_child():
    """Runs an async command in a child, without an agent."""
    pid = os.fork()
    if pid == 0:
        os._exit(app.call("one"))
    return status_of(pid)


@app.command
async def one():
    return 1


@app.command
async def nap(file):
    pitwarden.context().progress(-1, "napping")
    while not (DIR / file).exists():
        await asyncio.sleep(0.005)
    return file


@app.command
def wait(file):
    pitwarden.context().progress(-1, "waiting")
    while not (DIR / file).exists():
        time.sleep(0.005)
    return file


if "import" in os.environ.get("FORK_IN", ""):
    imported = forked("exit")
    if imported:
        assert status_of(imported) == 3


@app.command
def grpc_environment():
    return {name: value for name, value in os.environ.items() if name.startswith("GRPC_")}


def _ask(queue, client):
    try:
        with client or pitwarden.Client("/nowhere/agent.sock") as asked:
            queue.put(asked.call("pool", "command"))
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


@app.command
def client_in_child(method, inherited=False):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    client = pitwarden.Client("/nowhere/agent.sock") if inherited else None
    process = context.Process(target=_ask, args=(queue, client), daemon=True)
    process.start()
    return queue.get()


@app.command
def environment_of_early_child():
    return [line for line in EARLY if line.startswith("GRPC_")]


@app.command
def fork_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])
