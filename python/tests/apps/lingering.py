"""Leaves tasks on the loop and, as LINGERS says, a thread or an exit handler that delays the exit."""

import asyncio
import atexit
import os
import threading
import time

import pitwarden

app = pitwarden.App()
lingers = os.environ["LINGERS"]


def housekeeping() -> None:
    # The start of a worker may take longer than the sleep.
    threading.main_thread().join()
    time.sleep(1.5)


if lingers == "thread":
    threading.Thread(target=housekeeping, name="housekeeping").start()
if lingers == "atexit":
    atexit.register(time.sleep, 1.5)


async def numbers():
    try:
        yield 1
        yield 2
    finally:
        print("generator closed", flush=True)


@app.on_start
async def begin() -> None:
    async def flusher() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            print("last batch flushed", flush=True)

    app.flusher = asyncio.create_task(flusher())
    app.numbers = numbers()
    await anext(app.numbers)
