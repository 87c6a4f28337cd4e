"""Its stop hooks fail and are slow; each says that it ran."""

import asyncio

import pitwarden

app = pitwarden.App()


@app.command
def ok():
    return True


@app.on_stop
async def first():
    await asyncio.sleep(0)
    print("first hook, run last")


@app.on_stop
def second():
    raise RuntimeError("second hook fails")
