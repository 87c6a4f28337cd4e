"""An application that opens a gRPC channel before the worker does."""

import grpc
from forking import app

channel = grpc.insecure_channel("unix:/nowhere/other.sock")

if __name__ == "__main__":
    app.run()
