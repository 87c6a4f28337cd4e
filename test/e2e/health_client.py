"""Calls nodes in turn by grpcio's round_robin with health checking.

For each call it writes a line: the answer in base64, or "failed" and why. Ends when its standard input does.
Arguments: the nodes' addresses with commas, the service config, the method, the request in base64.
"""

import base64
import os
import sys
import threading
import time

import grpc

addresses, config, method, request = sys.argv[1:]


def end_with_input() -> None:
    sys.stdin.read()
    # grpcio may wait for ever at the end of the interpreter for a call that still is open.
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
channel = grpc.insecure_channel(f"ipv4:{addresses}", options=[("grpc.service_config", config)])
call = channel.unary_unary(method)
while True:
    try:
        answer = call(base64.b64decode(request), timeout=20)
        print(base64.b64encode(answer).decode(), flush=True)
    except grpc.RpcError as error:
        print(f"failed {error.code()} {error.details()!r}", flush=True)
    time.sleep(0.01)
