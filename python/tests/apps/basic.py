"""Commands for the tests. Each does one thing that a worker must handle."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pitwarden

app = pitwarden.App()
DIR = Path(os.environ["TEST_DIR"])


@app.on_start
def started():
    print("started")


@app.on_stop
def stopped():
    print("stopped")


@app.command
def add(a, b=0):
    """Adds.

    Two numbers.
    """
    return a + b


@app.command
def thread():
    return threading.current_thread() is threading.main_thread()


@app.command
def environment():
    return sorted(name for name in os.environ if name.startswith("PITWARDEN_"))


@app.command
def about():
    context = pitwarden.context()
    return [context.request_id, context.session_id, context.deadline.is_set, context.deadline.remaining_s < 61]


@app.command
def reverse(data: bytes):
    return data[::-1]


@app.command
def wait(file):
    """Blocks until the test creates the file. Ignores cancels."""
    pitwarden.context().progress(-1, "waiting")
    while not (DIR / file).exists():
        time.sleep(0.005)
    return file


@app.command
def append(file, line):
    """Appends a line to a file, so that a test can count the runs."""
    with (DIR / file).open("a") as lines:
        lines.write(f"{line}\n")
    return line


@app.command
def shout(lines, file):
    """Prints lines of 1 KiB, then waits."""
    for _ in range(lines):
        print("x" * 1023)
    return wait(file)


@app.command
def sleep(seconds):
    time.sleep(seconds)


@app.command
def stuck():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


@app.command
def terminate_here():
    """Sends the signal to this thread. The kernel may choose any thread."""
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


@app.command
def take_wakeup():
    """Sets a wakeup descriptor, as asyncio does in the main thread."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    return wait("go")


@app.command
def spin(file):
    """Like wait, but computes, and releases the GIL by itself only when it looks for the file, 20 times a second."""
    pitwarden.context().progress(0.5, "spinning")
    look_at_s = 0.0
    while True:
        if time.monotonic() > look_at_s:
            if (DIR / file).exists():
                return file
            look_at_s = time.monotonic() + 0.05


@app.command
def until_cancelled():
    context = pitwarden.context()
    context.progress(-1)
    while not context.cancelled:
        time.sleep(0.005)
    context.raise_if_cancelled()


@app.command
def fail(message):
    raise ValueError(message)


@app.command
def refuse():
    raise pitwarden.FailedPrecondition("not today")


@app.command
def leave():
    sys.exit(7)


@app.command
def unsendable():
    return {1, 2}


@app.command
def fork(method):
    # Leaving the pool sends SIGTERM to its processes and waits for them.
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


@app.command
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.command
def count(to):
    yield from range(to)


@app.command
def count_then_fail():
    yield 1
    raise KeyError("two")


@app.command
def blobs(number, size):
    for _ in range(number):
        yield bytes(size)


@app.command
def count_when(to, file):
    """Like count, but waits for the file after the first value."""
    yield 0
    wait(file)
    yield from range(1, to)


@app.command
def for_ever():
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        print("closed", flush=True)


@app.command
async def nap(file):
    pitwarden.context().progress(-1, "napping")
    while not (DIR / file).exists():
        await asyncio.sleep(0.005)
    return pitwarden.context().request_id


@app.command
async def sleep_for_ever():
    pitwarden.context().progress(-1)
    try:
        await asyncio.sleep(3600)
    finally:
        print("task cancelled", flush=True)


@app.command
async def async_count(to):
    for number in range(to):
        yield number
        await asyncio.sleep(0)


@app.command
async def async_count_when(to, file):
    yield 0
    await nap(file)
    for number in range(1, to):
        yield number


@app.command
async def async_for_ever():
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        print("async closed", flush=True)


@app.command
async def async_fail():
    await asyncio.sleep(0)
    raise ValueError("from a task")


@app.command
async def async_leave():
    sys.exit(7)


if __name__ == "__main__":
    app.run()
