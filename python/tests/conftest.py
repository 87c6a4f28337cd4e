from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# As in worker.py: the tests fork workers out of a process in which gRPC runs. It is read when grpc is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from fake_agent import PUBLIC, WORKER, FakeAgent


@pytest.fixture(params=["direct", "public"])
def agent(request: pytest.FixtureRequest) -> Iterator[FakeAgent]:
    """Its workers' stream is one or the other of _stream.py."""
    agent = FakeAgent(PUBLIC if request.param == "public" else WORKER)
    yield agent
    agent.stop()
