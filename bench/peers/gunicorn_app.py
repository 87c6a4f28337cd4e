r"""Gunicorn peer: a WSGI application with POST /echo, /handler_5ms and /pid (of the worker that answers).

http.ts has the command. By hand:

gunicorn --chdir bench/peers --bind 127.0.0.1:8101 --reuse-port --worker-class gthread --workers 2 --threads 1 \
    gunicorn_app:app
"""

import os
import time
from collections.abc import Iterable
from typing import Any, Callable


def echo(body: bytes) -> bytes:
    return body


def handler_5ms(body: bytes) -> bytes:
    time.sleep(0.005)
    return body


def pid(body: bytes) -> bytes:
    return str(os.getpid()).encode()


ROUTES: dict[str, Callable[[bytes], bytes]] = {"/echo": echo, "/handler_5ms": handler_5ms, "/pid": pid}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    function = ROUTES.get(environ["PATH_INFO"])
    if function is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return [b""]
    answer = function(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(answer)))])
    return [answer]


# A worker imports the application (there is no --preload), so this line tells the benchmark that it is there.
print(f"worker ready: {os.getpid()}", flush=True)
