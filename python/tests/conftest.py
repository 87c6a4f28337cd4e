from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_agent import FakeAgent


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    agent = FakeAgent()
    yield agent
    agent.stop()
