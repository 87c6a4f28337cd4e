"""What an application logs reaches the agent as records: with level, logger, request, and a traceback in one entry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_agent import FakeAgent

Record = dict[str, Any]


def said(agent: FakeAgent, *calls: tuple[str, str], how: str = "") -> tuple[list[Record], list[Record]]:
    """The records of a worker, on stdout and on stderr, after these calls."""
    worker = agent.spawn("logs:app", TEST_LOGGING=how)
    link = worker.attach()
    for command, message in calls:
        assert not link.call(command, message=message).HasField("error")
    link.stop()
    code, stdout, stderr = worker.exit()
    assert code == 0
    return records(stdout), records(stderr)


def records(text: str) -> list[Record]:
    # Not splitlines(), which takes the mark for an end of line too.
    lines = text.removesuffix("\n").split("\n") if text else []
    assert all(line.startswith("\x1e{") for line in lines)
    told = [json.loads(line[1:]) for line in lines]
    return [record for record in told if record["logger"] != "asyncio"]


def short(records: list[Record]) -> list[tuple[int, str, str, str]]:
    return [(r["level"], r["logger"], r["request_id"], r["message"].partition("\n")[0]) for r in records]


SAID = [
    (20, "app.model", "r-1", "info: hi"),
    (30, "library", "r-1", "warning: hi"),
    (40, "app.model", "r-1", "it failed"),
]


def test_without_any_set_up_info_is_told(agent: FakeAgent) -> None:
    out, err = said(agent, ("say", "hi"), ("say_later", "a\nb"))
    assert out == []
    assert short(err) == [(20, "app.model", "", "imported"), *SAID, (20, "app.model", "r-2", "info: a")]
    assert err[3]["message"].startswith("it failed\nTraceback (most recent call last):\n")
    assert err[3]["message"].endswith("ValueError: no such\nmodel")
    assert err[4]["message"] == "info: a\nb"


def test_basic_config_means_what_it_says(agent: FakeAgent) -> None:
    _, err = said(agent, ("say", "hi"), how="basic")
    assert short(err)[1:] == [(10, "app.model", "r-1", "debug: hi"), *SAID]


def test_a_format_of_the_applications_own_makes_the_message(agent: FakeAgent) -> None:
    out, _ = said(agent, ("say", "hi"), how="format")
    assert [r["message"].partition("\n")[0] for r in out] == [
        "INFO! info: hi",
        "WARNING! warning: hi",
        "ERROR! it failed",
    ]
    assert out[2]["level"] == 40


@pytest.mark.parametrize(("how", "levels"), [("file", []), ("warning", [40])])
def test_where_the_application_wants_them_elsewhere_or_fewer_so_it_is(
    agent: FakeAgent, how: str, levels: list[int]
) -> None:
    _, err = said(agent, ("say", "hi"), how=how)
    assert [r["level"] for r in err][1:] == levels


def test_a_record_that_a_handler_of_the_applications_own_gets_is_told_once_or_by_that_one_alone(
    agent: FakeAgent,
) -> None:
    _, err = said(agent, ("say", "hi"), ("say_in_private", "secret"), how="own")
    assert short(err)[1:] == SAID
    assert (agent.dir / "private").read_text() == "secret\n"


def test_a_command_may_set_logging_up(agent: FakeAgent) -> None:
    _, err = said(agent, ("set_up_late", "to a file"), ("say", "hi"))
    assert [r["message"] for r in err] == ["imported"]
    assert (agent.dir / "late").read_text().startswith("INFO:app.model:to a file\n")


@pytest.mark.parametrize("character", ["x", "\u2603", '"'])
def test_a_long_record_is_cut_in_its_middle(agent: FakeAgent, character: str) -> None:
    worker = agent.spawn("logs:app")
    link = worker.attach()
    link.call("say_long", message=character)
    link.stop()
    line = worker.exit()[2].split("\n")[1]
    assert 4000 < len(line.encode()) <= 8 * 1024
    message = json.loads(line[1:])["message"]
    assert message.startswith(f"begin {character}")
    assert message.endswith(f"{character} end")


def test_a_thread_of_the_applications_own_has_no_request(agent: FakeAgent) -> None:
    _, err = said(agent, ("say_in_thread", "alone"))
    assert short(err)[1:] == [(50, "app.model", "", "alone")]
