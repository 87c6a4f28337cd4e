"""What operators fear, on demand. For demonstrations and tests; serve it nowhere else."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal as signals
import subprocess
import sys
import time

import pitwarden

app = pitwarden.App()

_leaked: list[bytearray] = []


@app.command
def leak(mb: float, seconds: float = 0) -> dict[str, float]:
    """Keeps so many MiB for good, and stays that long before it answers; the whole sum comes back."""
    _leaked.append(_touched(mb))
    sleep(seconds)
    return {"leaked_mb": sum(len(block) for block in _leaked) / 2**20}


@app.command
def allocate_and_free(mb: float) -> dict[str, float]:
    """A peak that is over before the answer: no reason to be recycled."""
    block = _touched(mb)
    return {"allocated_mb": len(block) / 2**20}


@app.command
def sleep(seconds: float) -> float:
    """Waits without using cpu, until cancelled."""
    ctx, until = pitwarden.context(), time.monotonic() + seconds
    while time.monotonic() < until:
        ctx.raise_if_cancelled()
        time.sleep(min(0.02, max(0.0, until - time.monotonic())))
    return seconds


@app.command
async def sleep_async(seconds: float) -> float:
    """The same on the asyncio loop."""
    await asyncio.sleep(seconds)
    return seconds


@app.command
def spin(seconds: float) -> int:
    """Burns cpu in Python, which lets other threads run every few milliseconds."""
    turns, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        turns += 1
    return turns


@app.command
def hold_gil(seconds: float) -> float:
    """Burns cpu in C without letting any other Python thread run, as a misbehaving extension does."""
    # PyDLL, unlike CDLL, keeps the GIL during a call; qsort of equal items is plain work in C.
    libc = ctypes.PyDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    strcmp = ctypes.cast(libc.strcmp, compare)
    block = ctypes.create_string_buffer(b"\x01\x00" * 2**19)
    until = time.monotonic() + seconds
    # The interpreter hands the GIL over only between two of its own instructions, and only when it is asked to.
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds + 60)
    try:
        while time.monotonic() < until:
            libc.qsort(block, ctypes.c_size_t(2**19), ctypes.c_size_t(2), strcmp)
    finally:
        sys.setswitchinterval(before)
    return seconds


@app.command
def crash(signal: str = "SIGSEGV") -> None:
    """Dies of a signal, in the middle of the request."""
    try:
        number = signals.Signals[signal]
    except KeyError:
        raise pitwarden.InvalidArgument(f"signal: expected a name such as SIGSEGV, got {signal!r}") from None
    signals.signal(number, signals.SIG_DFL) if number not in (signals.SIGKILL, signals.SIGSTOP) else None
    os.kill(os.getpid(), number)
    time.sleep(60)


@app.command
def exit(code: int = 1) -> None:
    """Ends the process at once, without a word to anyone."""
    sys.stderr.write(f"exiting with code {code} as asked\n")
    sys.stderr.flush()
    os._exit(code)


@app.command
def fork_daemon() -> int:
    """Leaves a process behind that has its own session and no parent; its pid comes back."""
    script = (
        "import os, sys, time\nos.setsid()\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\ntime.sleep(3600)"
    )
    # Its stderr stays the worker's: the pipe is held open by a process that outlives the worker.
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        return int(child.stdout.readline())


@app.command
def raise_error(message: str = "as asked") -> None:
    """An ordinary exception."""
    raise RuntimeError(message)


@app.command
def shout(lines: int, length: int = 80) -> int:
    """Writes so many lines to stdout."""
    text = "x" * length + "\n"
    for _ in range(lines):
        sys.stdout.write(text)
    sys.stdout.flush()
    return lines


def _touched(mb: float) -> bytearray:
    block = bytearray(int(mb * 2**20))
    # A page that was never written to is not there yet.
    block[::4096] = b"\x01" * len(block[::4096])
    return block
