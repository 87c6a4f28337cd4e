"""Commands that measure."""

import asyncio
import os
import threading

import pitwarden

app = pitwarden.App()
pitwarden.emit("imported", 1, kind="counter")


@app.command
def measure(times=1, **labels):
    for _ in range(times):
        pitwarden.emit("rows", 2, kind="counter", **labels)


@app.command
def wrong():
    pitwarden.emit("rows total", 1)


@app.command
def spans():
    with pitwarden.span("outer"), pitwarden.span("inner", step="first"):
        pass
    try:
        with pitwarden.span("inner", step="second"):
            raise KeyError("x")
    except KeyError:
        pass


@app.command
async def spans_of_tasks(count):
    async def task():
        with pitwarden.span("task"):
            await asyncio.sleep(0)

    await asyncio.gather(*(task() for _ in range(count)))


@app.command
async def wait_in_span():
    pitwarden.context().progress(0.5)
    with pitwarden.span("wait"):
        await asyncio.Event().wait()


@app.command
def in_threads(threads, times):
    workers = [threading.Thread(target=measure, args=(times,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@app.command
def in_child():
    with pitwarden.span("forking"):
        pid = os.fork()
        pitwarden.emit("rows", 5, kind="counter")
        if pid == 0:
            measure(1000)
            os._exit(0)
        os.waitpid(pid, 0)


@app.command
def flood(labels):
    for number in range(labels):
        pitwarden.emit("flood", 1, kind="counter", number=number)
