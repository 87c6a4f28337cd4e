r"""Mosec peer: one pool of workers behind POST /echo, /handler_5ms or /pid (of the worker that answers).

A Mosec worker does not see the route, so a server has the one function which PEER_FUNCTION names.
http.ts has the command. By hand:

PEER_FUNCTION=echo PEER_WORKERS=2 python bench/peers/mosec_app.py --address 127.0.0.1 --port 8105 --log-level warning
"""

import os
import time

from mosec import Runtime, Server, Worker


class Echo(Worker):
    def __init__(self) -> None:
        super().__init__()
        print(f"worker ready: {os.getpid()}", flush=True)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return data


class Handler5ms(Echo):
    def forward(self, data: bytes) -> bytes:
        time.sleep(0.005)
        return data


class Pid(Echo):
    def forward(self, data: bytes) -> bytes:
        return str(os.getpid()).encode()


FUNCTIONS: dict[str, type[Echo]] = {"echo": Echo, "handler_5ms": Handler5ms, "pid": Pid}

if __name__ == "__main__":
    function = os.environ["PEER_FUNCTION"]
    pool = Runtime(FUNCTIONS[function], num=int(os.environ["PEER_WORKERS"]))
    server = Server()
    server.register_runtime({f"/{function}": [pool]})
    server.run()
