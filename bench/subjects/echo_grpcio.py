"""A bare Python gRPC server that echoes: python echo_grpcio.py SOCKET"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from pitwarden._pb.execution_pb2 import ExecuteRequest, ExecuteResponse


def execute(request: ExecuteRequest, context: grpc.ServicerContext) -> ExecuteResponse:
    if request.command == "handler_5ms":
        time.sleep(0.005)
    return ExecuteResponse(payload=request.payload, content_type=request.content_type)


def main() -> None:
    server = grpc.server(
        ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    handler = grpc.unary_unary_rpc_method_handler(
        execute, request_deserializer=ExecuteRequest.FromString, response_serializer=ExecuteResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pitwarden.v1.Execution", {"Execute": handler}),)
    )
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
