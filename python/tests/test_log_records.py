"""Log records of an application reach the agent with level, logger, request and traceback, one entry each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_agent import FakeAgent

Record = dict[str, Any]


def log_records(agent: FakeAgent, *calls: tuple[str, str], how: str = "") -> tuple[list[Record], list[Record]]:
    """Runs commands in a worker. Returns the records on its stdout and on its stderr."""
    worker = agent.spawn("logs:app", TEST_LOGGING=how)
    link = worker.attach()
    for command, message in calls:
        assert not link.call(command, message=message).HasField("error")
    link.stop()
    code, stdout, stderr = worker.exit()
    assert code == 0
    return records(stdout), records(stderr)


def records(text: str) -> list[Record]:
    # Not splitlines(): to it the mark of a record is an end of line too.
    lines = text.removesuffix("\n").split("\n") if text else []
    assert all(line.startswith("\x1e{") for line in lines)
    found = [json.loads(line[1:]) for line in lines]
    return [record for record in found if record["logger"] != "asyncio"]


def summaries(records: list[Record]) -> list[tuple[int, str, str, str]]:
    return [(r["level"], r["logger"], r["request_id"], r["message"].partition("\n")[0]) for r in records]


EXPECTED = [
    (20, "app.model", "r-1", "info: hi"),
    (30, "library", "r-1", "warning: hi"),
    (40, "app.model", "r-1", "it failed"),
]


def test_records_from_info_up_are_sent_if_the_application_does_not_configure_logging(agent: FakeAgent) -> None:
    out, err = log_records(agent, ("say", "hi"), ("say_later", "a\nb"))
    assert out == []
    assert summaries(err) == [(20, "app.model", "", "imported"), *EXPECTED, (20, "app.model", "r-2", "info: a")]
    assert err[3]["message"].startswith("it failed\nTraceback (most recent call last):\n")
    assert err[3]["message"].endswith("ValueError: no such\nmodel")
    assert err[4]["message"] == "info: a\nb"


def test_basic_config_sets_the_level_of_the_records(agent: FakeAgent) -> None:
    _, err = log_records(agent, ("say", "hi"), how="basic")
    assert summaries(err)[1:] == [(10, "app.model", "r-1", "debug: hi"), *EXPECTED]


def test_a_format_of_the_application_makes_the_message_of_a_record(agent: FakeAgent) -> None:
    out, _ = log_records(agent, ("say", "hi"), how="format")
    assert [r["message"].partition("\n")[0] for r in out] == [
        "INFO! info: hi",
        "WARNING! warning: hi",
        "ERROR! it failed",
    ]
    assert out[2]["level"] == 40


@pytest.mark.parametrize(("how", "levels"), [("file", []), ("warning", [40])])
def test_records_that_the_application_sends_elsewhere_or_filters_out_are_not_sent(
    agent: FakeAgent, how: str, levels: list[int]
) -> None:
    _, err = log_records(agent, ("say", "hi"), how=how)
    assert [r["level"] for r in err][1:] == levels


def test_a_record_for_which_the_application_has_a_handler_is_sent_by_that_handler_only(
    agent: FakeAgent,
) -> None:
    _, err = log_records(agent, ("say", "hi"), ("say_in_private", "secret"), how="own")
    assert summaries(err)[1:] == EXPECTED
    assert (agent.dir / "private").read_text() == "secret\n"


def test_a_command_can_configure_logging_after_the_start(agent: FakeAgent) -> None:
    _, err = log_records(agent, ("set_up_late", "to a file"), ("say", "hi"))
    assert [r["message"] for r in err] == ["imported"]
    assert (agent.dir / "late").read_text().startswith("INFO:app.model:to a file\n")


@pytest.mark.parametrize("character", ["x", "\u2603", '"'])
def test_the_middle_of_a_record_that_is_too_long_is_cut_out(agent: FakeAgent, character: str) -> None:
    worker = agent.spawn("logs:app")
    link = worker.attach()
    link.call("say_long", message=character)
    link.stop()
    line = worker.exit()[2].split("\n")[1]
    assert 4000 < len(line.encode()) <= 8 * 1024
    message = json.loads(line[1:])["message"]
    assert message.startswith(f"begin {character}")
    assert message.endswith(f"{character} end")


def test_records_of_a_thread_outside_requests_have_no_request_id(agent: FakeAgent) -> None:
    _, err = log_records(agent, ("say_in_thread", "alone"))
    assert summaries(err)[1:] == [(50, "app.model", "", "alone")]
