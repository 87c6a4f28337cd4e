"""Worker processes that lose their agent: what they keep, what they report when they reconnect, when they leave."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import time
import zlib
from collections.abc import Callable

import grpc
import pytest
from fake_agent import PATIENCE_S, FakeAgent, FakeLink

from pitwarden._pb.link_pb2 import AgentFrame, LinkRequest


def wait_until(holds: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_s, f"expected {what}"
        time.sleep(0.005)


def chunks(link: FakeLink, id: int) -> list[int]:
    return link.wait(lambda: link.chunks(id) or None)


LOSSES: dict[str, Callable[[FakeAgent, FakeLink], object]] = {
    "the agent hangs up": lambda _, link: link.hang_up(),
    "the stream breaks": lambda _, link: link.cut(),
    "the agent dies": lambda agent, _: (agent.kill(), agent.start()),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_worker_that_reconnects_reports_the_requests_that_it_holds(agent: FakeAgent, loss: str) -> None:
    worker = agent.spawn()
    link = worker.attach()
    ended, acked = link.request("add", a=1, keep=True), link.request("fail", message="no", keep=True)
    link.result(acked)
    link.ack(acked)
    running = link.make("wait", file="go", keep=True, timeout_ms=3_600_000)
    link.send(AgentFrame(requests=[running]))
    link.progress(running.id)
    waiting, dropped = link.request("add", a=2, keep=True), link.request("add", a=3)
    link.ping(1)

    LOSSES[loss](agent, link)
    again = agent.next_link()
    assert again.hello.pid == worker.process.pid
    # The token of a hello is the hash of the next token.
    assert hashlib.sha256(bytes.fromhex(again.hello.token)).hexdigest() == link.hello.token
    assert [command.name for command in again.hello.commands] == [command.name for command in link.hello.commands]
    assert again.held() == [(ended, True, True), (running.id, True, False), (waiting, True, False)]
    resumed = again.hello.resumed
    assert (resumed.last_id, resumed.completed, resumed.failed) == (dropped, 1, 1)
    assert resumed.away_ms < 60_000
    reported = resumed.held[1]
    assert (reported.request_id, reported.command) == (running.request_id, "wait")
    assert (reported.payload_bytes, reported.payload_crc32) == (len(running.payload), zlib.crc32(running.payload))
    assert 0 < reported.remaining_ms <= 3_600_000
    assert resumed.held[0].payload_crc32 == zlib.crc32(b'{"a": 1}')

    again.welcome()
    assert json.loads(again.replay(ended).payload) == 1
    (agent.dir / "go").touch()
    assert json.loads(again.result(running.id).payload) == "go"
    assert json.loads(again.result(waiting).payload) == 2
    # The dropped request never runs, and new ids follow the last one.
    assert again.value("add", a=4) == 4
    assert again.results(dropped) == []
    again.stop()
    code, stdout, stderr = worker.exit()
    assert (code, stdout) == (0, "started\nstopped\n")
    lost, back = stderr.splitlines()
    assert lost.startswith("pitwarden: the ")
    assert lost.endswith("; an agent has 60 s to come back")
    assert back.startswith("pitwarden: an agent is back after ")


def test_the_answer_of_a_kept_request_that_ends_without_an_agent_can_be_replayed(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    requests = [link.make("wait", file="go", keep=True), link.make("wait", file="then", keep=True)]
    # In one frame, so that the worker has the second when the first runs.
    link.send(AgentFrame(requests=requests))
    kept, then = (request.id for request in requests)
    link.progress(kept)
    agent.kill()
    (agent.dir / "go").touch()
    # The second begins when the first has ended.
    agent.wait_begun(then)
    agent.start()
    again = agent.next_link()
    assert again.held() == [(kept, True, True), (then, True, False)]
    again.welcome()
    assert json.loads(again.replay(kept).payload) == "go"
    # As often as the agent asks, until it acknowledges the answer.
    assert json.loads(again.replay(kept).payload) == "go"
    again.ack(kept)
    assert again.replay(kept).error.code == 15
    (agent.dir / "then").touch()
    assert json.loads(again.result(then).payload) == "then"


def test_a_request_that_is_not_kept_has_its_result_sent_if_it_ends_after_the_reconnect(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    running = link.request("wait", file="go")
    link.progress(running)
    link.cut()
    again = agent.next_link()
    assert again.held() == [(running, False, False)]
    again.welcome()
    (agent.dir / "go").touch()
    assert again.result(running).id == running


def test_a_request_that_is_not_kept_is_forgotten_if_it_ends_without_an_agent(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    running, then = link.request("wait", file="go"), link.request("add", a=1, keep=True)
    link.progress(running)
    # Frames are handled in order, so the worker has the second request.
    link.ping(1)
    agent.kill()
    (agent.dir / "go").touch()
    agent.wait_begun(then)
    agent.start()
    again = agent.next_link()
    assert [id for id, _, _ in again.held()] == [then]
    again.welcome()
    assert again.value("add", a=1) == 1
    assert again.results(running) == []


@pytest.mark.parametrize("command", ["count_when", "async_count_when"])
def test_a_kept_stream_goes_on_without_an_agent_and_is_replayed_from_its_first_value(
    agent: FakeAgent, command: str
) -> None:
    link = agent.spawn().attach()
    id = link.request(command, to=3000, file="go", keep=True)
    assert chunks(link, id) == [0]
    link.cut()
    again = agent.next_link()
    again.welcome()
    again.send(AgentFrame(replays=[id]))
    # The chunks so far are sent at once, and the others as the command yields them.
    assert chunks(again, id) == [0]
    assert again.results(id) == []
    (agent.dir / "go").touch()
    assert again.result(id).payload == b""
    assert again.chunks(id) == list(range(3000))
    again.replay(id)
    assert again.chunks(id) == list(range(3000))


@pytest.mark.parametrize("command", ["count", "async_count"])
def test_a_paused_stream_goes_on_when_the_agent_is_lost(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach()
    request = link.make(command, to=100, keep=True)
    link.send(AgentFrame(requests=[request], pauses=[request.id]))
    agent.wait_begun(request.id)
    agent.kill()
    agent.start()
    again = agent.next_link()
    again.welcome()
    assert again.replay(request.id).payload == b""
    assert again.chunks(request.id) == list(range(100))


def test_a_detached_stream_waits_when_the_result_store_is_full_and_goes_on_when_it_is_replayed(
    agent: FakeAgent,
) -> None:
    link = agent.spawn().attach(concurrency=2, keep_bytes=1_000_000)
    request = link.make("blobs", number=40, size=100_000, keep=True)
    id = request.id
    link.send(AgentFrame(requests=[request], pauses=[id]))
    agent.wait_begun(id)
    link.cut()
    again = agent.next_link()
    again.welcome(concurrency=2, keep_bytes=1_000_000)
    # Nobody has asked for a replay, so the stream waits for room.
    assert again.value("add", a=1) == 1
    assert again.ping(1).in_flight == 1
    assert not again.replay(id).HasField("error")
    assert sum(len(chunk.payload) for frame in again.frames for chunk in frame.chunks) == 4_000_000
    # By now the stream is larger than keep_bytes.
    error = again.replay(id).error
    assert (error.code, "request.keep.max_bytes (1000000)" in error.message) == (15, True)


@pytest.mark.parametrize("command", ["for_ever", "async_for_ever"])
def test_a_detached_stream_does_not_hold_up_other_requests(agent: FakeAgent, command: str) -> None:
    link = agent.spawn().attach(concurrency=4)
    id = link.request(command)
    chunks(link, id)
    link.cut()
    again = agent.next_link()
    again.welcome(concurrency=4)
    assert again.held() == [(id, False, False)]
    (agent.dir / "go").touch()
    assert again.value("nap", file="go") == f"r-{id + 1}"
    assert again.value("wait", file="go") == "go"
    again.cancel(id)
    assert again.result(id).error.code == 1
    assert again.chunks(id) == []


def test_a_request_survives_the_loss_of_many_links(agent: FakeAgent) -> None:
    link = agent.spawn().attach()
    id = link.request("wait", file="go", keep=True)
    link.progress(id)
    for _ in range(5):
        link.cut()
        link = agent.next_link()
        assert link.held() == [(id, True, False)]
        link.welcome()
    # A link without a welcome.
    link.cut()
    agent.next_link().cut()
    link = agent.next_link()
    assert link.held() == [(id, True, False)]
    link.welcome()
    (agent.dir / "go").touch()
    assert json.loads(link.result(id).payload) == "go"


@pytest.mark.parametrize("seed", range(3))
def test_each_request_runs_once_wherever_the_link_breaks(agent: FakeAgent, seed: int) -> None:
    rng = random.Random(seed)
    link = agent.spawn().attach(concurrency=4)
    answered: dict[int, str] = {}
    open_requests: dict[int, LinkRequest] = {}
    for round in range(15):
        requests = [
            link.make("append", file="ran", line=f"{round}.{n}", keep=True) for n in range(rng.randrange(1, 60))
        ]
        open_requests.update({request.id: request for request in requests})
        for request in requests:
            link.send(AgentFrame(requests=[request]))
        if rng.random() < 0.8:
            link.result(rng.choice(requests).id)
        link.cut()
        again = agent.next_link()
        again.welcome(concurrency=4)
        held = {id for id, _, _ in again.held()}
        for id in list(open_requests):
            if id in held:
                answered[id] = json.loads(again.replay(id).payload)
                again.ack(id)
            # All requests are kept ones, so the worker holds each that it has received: others are newer than last_id.
            else:
                assert id > again.hello.resumed.last_id
            del open_requests[id]
        link = again
    ran = (agent.dir / "ran").read_text().split()
    assert sorted(ran) == sorted(set(ran))
    assert sorted(answered.values()) == sorted(ran)


def test_a_worker_that_an_agent_refuses_exits_at_once(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    link.progress(link.request("wait", file="never", keep=True))
    agent.refusal = (grpc.StatusCode.UNAUTHENTICATED, "none of mine")
    link.cut()
    code, stdout, stderr = worker.exit()
    assert (code, stdout) == (4, "started\n")
    assert stderr.endswith("pitwarden: the link to the agent broke: UNAUTHENTICATED: none of mine; leaving\n")


def test_a_worker_waits_for_an_agent_that_is_not_there_yet(agent: FakeAgent) -> None:
    agent.kill()
    worker = agent.spawn()
    assert worker.process.stdout is not None
    assert worker.process.stdout.readline() == "started\n"
    agent.start()
    link = worker.attach()
    assert not link.hello.HasField("resumed")
    assert link.value("add", a=1) == 1


def test_a_hello_that_was_lost_with_its_link_is_sent_again_on_the_next(agent: FakeAgent) -> None:
    agent.spawn()
    agent.next_link().cut()
    link = agent.next_link()
    assert not link.hello.HasField("resumed")
    link.welcome()
    assert link.value("add", a=1) == 1


def test_a_worker_that_loses_its_agent_while_it_stops_exits_at_once(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach()
    link.progress(link.request("wait", file="never"))
    worker.signal(signal.SIGTERM)
    assert link.leaving()
    link.cut()
    assert worker.exit()[0] == 4


def test_sigterm_stops_a_worker_that_waits_for_an_agent(agent: FakeAgent) -> None:
    worker = agent.spawn()
    worker.attach().ping(1)
    agent.kill()
    worker.wait_for_stderr("s to come back")
    worker.signal(signal.SIGTERM)
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (0, "started\nstopped\n")


# What the worker prints at its end, by running command.
ORPHANS = {
    "": ["stopped"],
    "until_cancelled": ["stopped"],
    "for_ever": ["closed", "stopped"],
    "async_for_ever": ["async closed", "stopped"],
    "sleep_for_ever": ["task cancelled", "stopped"],
}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("command", ORPHANS)
def test_a_worker_stops_when_the_orphan_timeout_has_passed(agent: FakeAgent, command: str, keep: bool) -> None:
    worker = agent.spawn()
    # A command is cancelled after half of the drain timeout.
    link = worker.attach(orphan_timeout_ms=200, drain_timeout_ms=1000 if command else 3_600_000)
    link.ping(1)
    if command:
        agent.wait_begun(link.request(command, keep=keep))
    lost_s = time.monotonic()
    agent.kill()
    code, stdout, stderr = worker.exit()
    took_s = time.monotonic() - lost_s
    assert (code, stdout.splitlines()) == (4, ["started", *ORPHANS[command]])
    assert stderr.endswith("no agent for 0.2 s; leaving\n")
    assert took_s > (0.7 if command else 0.2)


def test_a_stuck_orphan_is_ended_when_the_drain_timeout_has_passed(agent: FakeAgent) -> None:
    worker = agent.spawn()
    link = worker.attach(orphan_timeout_ms=200, drain_timeout_ms=600)
    agent.wait_begun(link.request("stuck"))
    lost_s = time.monotonic()
    agent.kill()
    worker.signal(signal.SIGTERM)
    code, stdout, stderr = worker.exit()
    assert (code, stdout) == (4, "started\n")
    assert stderr.endswith("leaving\npitwarden: something still runs and is not waited for\n")
    assert time.monotonic() - lost_s > 0.8


def test_a_stuck_stop_hook_of_an_orphan_is_ended_when_the_drain_timeout_has_passed(agent: FakeAgent) -> None:
    worker = agent.spawn("stuck_stop:app")
    worker.attach(orphan_timeout_ms=50, drain_timeout_ms=200).ping(1)
    agent.kill()
    code, _, stderr = worker.exit()
    assert code == 4
    assert stderr.endswith("something still runs and is not waited for\n")


def test_an_agent_that_is_back_in_time_cancels_the_orphan_timer(agent: FakeAgent) -> None:
    worker = agent.spawn()
    first = worker.attach(orphan_timeout_ms=1500, drain_timeout_ms=0)
    first.ping(1)
    first.cut()
    link = worker.attach(orphan_timeout_ms=1500, drain_timeout_ms=0)
    # Longer than the orphan timeout and the drain timeout.
    link.call("sleep", seconds=2)
    link.stop()
    assert worker.exit()[0] == 0


def test_an_orphan_that_stops_tells_a_late_agent_that_it_leaves_and_still_delivers_its_answers(
    agent: FakeAgent,
) -> None:
    worker = agent.spawn()
    link = worker.attach(orphan_timeout_ms=100, drain_timeout_ms=3_600_000)
    id = link.request("wait", file="go", keep=True)
    link.progress(id)
    agent.kill()
    worker.wait_for_stderr("leaving")
    agent.start()
    late = worker.attach()
    assert late.held() == [(id, True, False)]
    assert late.leaving()
    refused = late.request("add", a=1)
    assert late.returned() == [refused]
    (agent.dir / "go").touch()
    assert json.loads(late.result(id).payload) == "go"
    code, stdout, _ = worker.exit()
    assert (code, stdout) == (4, "started\nstopped\n")


def test_a_command_that_prints_to_a_full_disk_does_not_fail(agent: FakeAgent) -> None:
    with open("/dev/full", "wb") as full:
        worker = agent.spawn(stdout=full)
        link = worker.attach()
        (agent.dir / "go").touch()
        assert link.value("shout", lines=100, file="go") == "go"
        link.stop()
        assert worker.exit()[0] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: holes are punched")
def test_output_without_an_agent_takes_a_bounded_part_of_the_disk(agent: FakeAgent) -> None:
    path = agent.dir / "stdout"
    with path.open("ab") as file:
        worker = agent.spawn(stdout=file)
        link = worker.attach()
        id = link.request("shout", lines=12 * 1024, file="go", keep=True)
        agent.wait_begun(id)
        agent.kill()
        wait_until(lambda: path.stat().st_size >= 12 * 1024 * 1024, "all lines to be printed")
        wait_until(lambda: path.stat().st_blocks * 512 <= 8 * 1024 * 1024, "the older ones to be given up")
    assert path.read_bytes()[-1024 * 1024 :] == (b"x" * 1023 + b"\n") * 1024
