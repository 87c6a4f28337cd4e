from __future__ import annotations

import grpc

from pitwarden._grpc_stream import DirectStream, open_stream


def test_this_grpcio_can_be_used_directly() -> None:
    with grpc.insecure_channel("unix:/nowhere.sock") as channel:
        assert isinstance(open_stream(channel, lambda: None), DirectStream)
