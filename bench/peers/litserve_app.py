"""LitServe peer: one pool of workers behind POST /echo, /handler_5ms and /pid (of the worker that answers).

http.ts has the command. By hand:

PEER_WORKERS=2 PEER_PORT=8106 python bench/peers/litserve_app.py
"""

import os
import time
from typing import Annotated, Any, Callable

import litserve
from fastapi import Depends, Request, Response


def echo(body: bytes) -> bytes:
    return body


def handler_5ms(body: bytes) -> bytes:
    time.sleep(0.005)
    return body


def pid(body: bytes) -> bytes:
    return str(os.getpid()).encode()


FUNCTIONS: dict[str, Callable[[bytes], bytes]] = {"echo": echo, "handler_5ms": handler_5ms, "pid": pid}


async def read_call(request: Request) -> tuple[str, bytes]:
    """The function's name and the raw body, which go to a worker."""
    return request.path_params["function"], await request.body()


class Peer(litserve.LitAPI):
    """Runs one call at a time in each worker."""

    def setup(self, device: Any) -> None:
        print(f"worker ready: {os.getpid()}", flush=True)

    def decode_request(self, request: Annotated[tuple[str, bytes], Depends(read_call)]) -> tuple[str, bytes]:
        return request

    def predict(self, call: tuple[str, bytes]) -> bytes:
        function, body = call
        return FUNCTIONS[function](body)

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(
        Peer(api_path="/{function}"),
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        restart_workers=True,
        # LitServe's own advice for more than 100 requests a second.
        fast_queue=True,
    )
    # As many API servers as the load's two workers have by default, and not more for 20 or 50 idle workers.
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=2,
        log_level="warning",
        generate_client_file=False,
    )
