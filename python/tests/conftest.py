from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

# As in a worker: the tests start workers from a process in which gRPC runs. gRPC reads it when it is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from fake_agent import PUBLIC, WORKER, FakeAgent


@pytest.fixture(params=["direct", "public"])
def agent(request: pytest.FixtureRequest) -> Iterator[FakeAgent]:
    """An agent whose workers use the direct or the public stream of _grpc_stream.py."""
    agent = FakeAgent(PUBLIC if request.param == "public" else WORKER)
    yield agent
    agent.stop()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds a test that was skipped to the list that `npm test` prints at its end."""
    if file := os.environ.get("SKIPPED_TESTS_FILE"):
        _list_skipped(report, file)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """As above, of a whole module."""
    if file := os.environ.get("SKIPPED_TESTS_FILE"):
        _list_skipped(report, file)


def _list_skipped(report: pytest.TestReport | pytest.CollectReport, file: str) -> None:
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    why = report.longrepr[2].removeprefix("Skipped: ")
    with open(file, "a", encoding="utf-8") as listed:
        listed.write(json.dumps({"name": report.nodeid, "why": why}) + "\n")
