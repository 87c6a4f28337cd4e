from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# As in worker.py: the tests fork workers out of a process in which gRPC runs. It is read when grpc is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from fake_agent import FakeAgent


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    agent = FakeAgent()
    yield agent
    agent.stop()
