"""An application with a stop hook that is slow and one that fails."""

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
