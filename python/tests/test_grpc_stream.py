from __future__ import annotations

import grpc

from pitwarden._grpc_stream import DirectStream, open_stream


def test_the_installed_grpcio_works_with_the_direct_stream() -> None:
    with grpc.insecure_channel("unix:/nowhere.sock") as channel:
        assert isinstance(open_stream(channel, lambda: None), DirectStream)
