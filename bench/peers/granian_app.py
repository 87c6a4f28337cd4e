r"""Granian peer: an RSGI application with POST /echo, /handler_5ms and /pid (of the worker that answers).

http.ts has the command. By hand (uvloop is used when installed):

granian --working-dir bench/peers --host 127.0.0.1 --port 8102 --interface rsgi --http 1 --no-ws --workers 2 \
    --respawn-failed-workers granian_app:app
"""

import os
import time
from typing import Any, Callable


def echo(body: bytes) -> bytes:
    return body


def handler_5ms(body: bytes) -> bytes:
    time.sleep(0.005)
    return body


def pid(body: bytes) -> bytes:
    return str(os.getpid()).encode()


ROUTES: dict[str, Callable[[bytes], bytes]] = {"/echo": echo, "/handler_5ms": handler_5ms, "/pid": pid}


async def app(scope: Any, protocol: Any) -> None:
    """The function blocks the worker's event loop, so a worker runs one at a time."""
    function = ROUTES.get(scope.path)
    if function is None:
        protocol.response_empty(404, [])
        return
    body = await protocol()
    protocol.response_bytes(200, [("content-type", "application/octet-stream")], function(body))


# A worker imports the application, so this line tells the benchmark that it is there.
print(f"worker ready: {os.getpid()}", flush=True)
