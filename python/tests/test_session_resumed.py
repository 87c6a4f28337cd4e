"""Tables of steps for a session that loses its links: which answers it stores, drops, reports, replays and evicts."""

from __future__ import annotations

import random
import zlib
from typing import Any, Optional

import pytest
from test_session import SessionDriver, Step, frame_fields

from pitwarden._pb.link_pb2 import AgentFrame, Limits, LinkRequest, Welcome
from pitwarden._result_store import CHUNK_OVERHEAD_BYTES
from pitwarden._send_queue import CHUNKS_MAX
from pitwarden._session import ProtocolError

WIDE_LIMITS = {"keep_results": 1000, "keep_bytes": 1_000_000_000, "keep_ms": 60_000}
DATA_LOSS = 15


class ReconnectingDriver(SessionDriver):
    """A driver that can lose its link. Kept requests have the command "k", others "c"."""

    def __init__(self, **limits: int) -> None:
        super().__init__()
        self.limits = {**WIDE_LIMITS, **limits}
        self.take()
        self.welcome()

    def welcome(self, **more: Any) -> Optional[int]:
        welcome = Welcome(protocol=1, concurrency=4, **self.limits)
        return self.receive(AgentFrame(welcome=welcome, **more)).concurrency

    def keep(self, *ids: int, timeout_ms: int = 0) -> list[int]:
        requests = [
            LinkRequest(id=id, command="k", keep=True, payload=b"p%d" % id, timeout_ms=timeout_ms) for id in ids
        ]
        return [call.id for call in self.receive(AgentFrame(requests=requests)).starts]

    def detach(self) -> None:
        self.session.detach(self.now_s)

    def hello(self) -> dict[str, Any]:
        """Attaches the session. Returns what its hello reports: last id, counts of ended requests, held requests."""
        self.session.attach(self.now_s)
        frame = self.session.next_frame(self.now_s)
        assert frame is not None
        assert frame.HasField("hello")
        assert frame_fields(frame) == {"hello": "w"}
        if not frame.hello.HasField("resumed"):
            return {}
        resumed = frame.hello.resumed
        return {
            "last": resumed.last_id,
            "ended": (resumed.completed, resumed.failed),
            "held": [(held.id, held.command + ("!" if held.ended else "")) for held in resumed.held],
        }

    def reconnect(self) -> list[tuple[int, str]]:
        """Loses the link and attaches to the next one at once. Returns the requests that the hello reports."""
        self.detach()
        held: list[tuple[int, str]] = self.hello()["held"]
        self.welcome()
        return held

    def stored(self) -> list[int]:
        return list(self.session._result_store.answers)

    def limit(self, **limits: int) -> None:
        """Changes limits on the present link, as a reload of the configuration does."""
        self.receive(AgentFrame(limits=Limits(**{**self.limits, **limits})))

    def ack(self, *ids: int) -> None:
        self.receive(AgentFrame(acks=ids))

    def replay(self, *ids: int) -> list[int]:
        """Returns the requests that it cancels."""
        return [call.id for call in self.receive(AgentFrame(replays=ids)).cancelled]

    def welcome_and_replay(self, *ids: int) -> None:
        self.welcome(replays=ids)

    def pause(self, *ids: int) -> None:
        self.receive(AgentFrame(pauses=ids))

    def resume(self, *ids: int) -> list[int]:
        return [call.id for call in self.receive(AgentFrame(resumes=ids)).resumed]

    def paused(self, id: int) -> bool:
        return self.calls[id].paused

    def room(self, id: int, size: int = 1) -> bool:
        return self.session.has_room_for(self.calls[id], size)

    def take_results(self) -> list[tuple[int, int]]:
        """The results of the next frame: id and code."""
        frame = self.session.next_frame(self.now_s)
        return [] if frame is None else [(result.id, result.error.code) for result in frame.results]

    def run(self, *ids: int) -> None:
        for id in ids:
            assert self.begin(id)

    def add_chunk(self, id: int, payload: bytes = b"c") -> None:
        self.chunk(id, payload)


TABLE: dict[str, list[Step]] = {
    "a worker without requests holds nothing": [
        ("detach", (), None),
        ("hello", (), {"last": 0, "ended": (0, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "only the first welcome sets the concurrency": [
        ("reconnect", (), []),
        ("keep", (1,), [1]),
    ],
    "a waiting request is dropped with its link unless it is kept": [
        ("requests", (1, 2), [1, 2]),
        ("keep", (3, 4), [3, 4]),
        ("detach", (), None),
        ("hello", (), {"last": 4, "ended": (0, 0), "held": [(3, "k"), (4, "k")]}),
        ("begin", (1,), False),
        ("begin", (3,), True),
        ("idle", (), False),
    ],
    "a kept request that waits begins without a link": [
        ("keep", (1,), [1]),
        ("detach", (), None),
        ("begin", (1,), True),
        ("finish", (1,), None),
        ("hello", (), {"last": 1, "ended": (1, 0), "held": [(1, "k!")]}),
        ("welcome", (), None),
        ("take", (), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "results": [(1, b"r")]}),
    ],
    "of a running request that is not kept only the result is sent on the next link": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("add_chunk", (1,), None),
        ("reconnect", (), [(1, "c")]),
        ("add_chunk", (1,), None),
        ("take", (), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
        ("reconnect", (), []),
    ],
    "a request that is not kept is forgotten if it ends without a link": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("detach", (), None),
        ("finish", (1,), None),
        ("idle", (), True),
        ("hello", (), {"last": 1, "ended": (1, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "results between hello and welcome are sent after the welcome": [
        ("requests", (1,), [1]),
        ("keep", (2,), [2]),
        ("run", (1, 2), None),
        ("detach", (), None),
        ("hello", (), {"last": 2, "ended": (0, 0), "held": [(1, "c"), (2, "k")]}),
        ("finish", (1,), None),
        ("fail", (2,), None),
        ("take", (), None),
        ("welcome", (), None),
        ("take", (), {"results": [(1, b"r"), (2, 2)]}),
    ],
    "what was not sent on one link is not sent on the next": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("add_chunk", (2,), None),
        ("report", (2, 0.5), None),
        ("give_back", (3,), None),
        ("ping", (9,), None),
        ("reconnect", (), [(2, "c")]),
        ("take", (), None),
    ],
    "a request that is returned without a link is not held": [
        ("keep", (1,), [1]),
        ("detach", (), None),
        ("give_back", (1,), None),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "an answer that was sent is stored until it is acknowledged": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("fail", (2,), None),
        ("take", (), {"results": [(1, b"r"), (2, 2)]}),
        ("ack", (2, 77), None),
        ("reconnect", (), [(1, "k!")]),
        ("ack", (1,), None),
        ("reconnect", (), []),
    ],
    "the result of a request that was cancelled before it began is stored too": [
        ("keep", (1,), [1]),
        ("cancels", (1,), []),
        ("take", (), {"results": [(1, 1)]}),
        ("reconnect", (), [(1, "k!")]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "results": [(1, 1)]}),
    ],
    "a running request that is acknowledged is not stored, and its result is sent": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("ack", (1,), None),
        ("reconnect", (), [(1, "k")]),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
        ("reconnect", (), []),
    ],
    "a replay removes what waits to be sent and starts from the first chunk": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("add_chunk", (1, b"a"), None),
        ("take", (), {"chunks": [(1, b"a")]}),
        ("add_chunk", (1, b"b"), None),
        ("add_chunk", (2, b"x"), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(2, b"x"), (1, b"a"), (1, b"b")]}),
        ("add_chunk", (1, b"c"), None),
        ("finish", (1, b""), None),
        ("take", (), {"chunks": [(1, b"c")], "results": [(1, b"")]}),
    ],
    "a replay of a waiting request sends its result when it ends": [
        ("keep", (1,), [1]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1]}),
        ("run", (1,), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "a kept stream sends nothing on the next link before its replay": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("add_chunk", (1, b"a"), None),
        ("detach", (), None),
        ("add_chunk", (1, b"b"), None),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": [(1, "k")]}),
        ("add_chunk", (1, b"c"), None),
        ("welcome", (), None),
        ("add_chunk", (1, b"d"), None),
        ("take", (), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a"), (1, b"b"), (1, b"c"), (1, b"d")]}),
        ("add_chunk", (1, b"e"), None),
        ("take", (), {"chunks": [(1, b"e")]}),
    ],
    "a result that waits to be sent is removed by a replay": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("add_chunk", (1, b"a"), None),
        ("reconnect", (), [(1, "k")]),
        ("finish", (1, b""), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a")], "results": [(1, b"")]}),
    ],
    "a replay can come in the frame of the welcome": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("detach", (), None),
        ("finish", (1,), None),
        ("hello", (), {"last": 1, "ended": (1, 0), "held": [(1, "k!")]}),
        ("welcome_and_replay", (1,), None),
        ("take", (), {"replayed": [1], "results": [(1, b"r")]}),
    ],
    "a replay that is cut off by another loss starts from the first chunk again": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("add_chunk", (1, bytes(900_000)), None),
        ("add_chunk", (1, bytes(900_000)), None),
        ("reconnect", (), [(1, "k")]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
        ("reconnect", (), [(1, "k")]),
        ("take", (), None),
        ("replay", (1,), []),
        ("finish", (1, b""), None),
        ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
        ("take", (), {"chunks": [(1, bytes(900_000))], "results": [(1, b"")]}),
    ],
    "a pause ends with its link": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("pause", (1,), None),
        ("detach", (), None),
        ("paused", (1,), False),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": [(1, "k")]}),
        ("welcome", (), None),
        ("add_chunk", (1, b"a"), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a")]}),
    ],
    "a replay ends with its link": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("pause", (1,), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1]}),
        ("reconnect", (), [(1, "k")]),
        ("add_chunk", (1, b"a"), None),
        ("finish", (1, b""), None),
        ("take", (), {"results": [(1, b"")]}),
        ("take", (), None),
    ],
    "a paused replay waits even if its command has ended": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("add_chunk", (1, b"a"), None),
        ("finish", (1, b""), None),
        ("add_chunk", (2, b"x"), None),
        ("reconnect", (), [(1, "k!"), (2, "k")]),
        ("pause", (1, 2), None),
        ("replay", (1, 2), []),
        ("take", (), {"replayed": [1, 2]}),
        ("take", (), None),
        ("add_chunk", (2, b"y"), None),
        ("take", (), None),
        ("resume", (1, 2), [2]),
        ("take", (), {"chunks": [(1, b"a"), (2, b"x"), (2, b"y")], "results": [(1, b"")]}),
    ],
    "a replay ends when its answer is acknowledged": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("add_chunk", (1, bytes(2_000_000)), None),
        ("finish", (1, b""), None),
        ("reconnect", (), [(1, "k!")]),
        ("replay", (1,), []),
        ("ack", (1,), None),
        ("take", (), {"replayed": [1]}),
        ("take", (), None),
    ],
    "a replay of an unknown request is answered with DATA_LOSS": [
        ("replay", (7,), []),
        ("take", (), {"replayed": [7], "results": [(7, DATA_LOSS)]}),
    ],
    "a replay of a running request that is not kept is answered with DATA_LOSS and cancels it": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("replay", (1,), [1]),
        ("finish", (1,), None),
        ("take", (), {"replayed": [1], "results": [(1, DATA_LOSS)]}),
        ("take", (), None),
    ],
    "an answer is forgotten when keep_ms has passed": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("later", (59.0,), None),
        ("finish", (2,), None),
        ("later", (1.0,), None),
        ("reconnect", (), [(2, "k!")]),
    ],
    "leaving is announced on every link": [
        ("leave", (), None),
        ("take", (), {"leaving": True}),
        ("reconnect", (), []),
        ("take", (), {"leaving": True}),
    ],
    "leaving is not announced before the welcome": [
        ("detach", (), None),
        ("leave", (), None),
        ("hello", (), {"last": 0, "ended": (0, 0), "held": []}),
        ("take", (), None),
        ("welcome", (), None),
        ("take", (), {"leaving": True}),
    ],
    "the last id of a hello is the highest that was sent": [
        ("requests", (5, 3), [5, 3]),
        ("reconnect", (), []),
        ("requests", (6, 4), [6, 4]),
        ("detach", (), None),
        ("hello", (), {"last": 6, "ended": (0, 0), "held": []}),
    ],
    "held requests are listed oldest first when ids have wrapped": [
        ("keep", (2**31 - 1, 2**32 - 2, 2**32 - 1, 0, 1), [2**31 - 1, 2**32 - 2, 2**32 - 1, 0, 1]),
        ("run", (2**32 - 2, 0), None),
        ("finish", (0,), None),
        ("detach", (), None),
        (
            "hello",
            (),
            {
                "last": 1,
                "ended": (1, 0),
                "held": [(2**31 - 1, "k"), (2**32 - 2, "k"), (2**32 - 1, "k"), (0, "k!"), (1, "k")],
            },
        ),
    ],
    "an id that is used again after a wrap is another request": [
        ("requests", (1,), [1]),
        ("keep", (2,), [2]),
        ("run", (1, 2), None),
        ("reconnect", (), [(1, "c"), (2, "k")]),
        ("finish", (1,), None),
        ("finish", (2,), None),
        ("take", (), {"results": [(1, b"r"), (2, b"r")]}),
        ("requests", (1,), [1]),
        ("keep", (2,), [2]),
        ("run", (1, 2), None),
        ("add_chunk", (1, b"a"), None),
        ("add_chunk", (2, b"b"), None),
        ("take", (), {"chunks": [(1, b"a"), (2, b"b")]}),
        ("finish", (2, b""), None),
        ("later", (60.0,), None),
        ("reconnect", (), [(1, "c")]),
    ],
    "the id of a warm-up is not the last id": [
        ("requests", (2**32 - 1,), [2**32 - 1]),
        ("run", (2**32 - 1,), None),
        ("detach", (), None),
        ("hello", (), {"last": 0, "ended": (0, 0), "held": [(2**32 - 1, "c")]}),
        ("welcome", (), None),
        ("requests", (0, 1), [0, 1]),
        ("run", (0,), None),
        ("detach", (), None),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": [(2**32 - 1, "c"), (0, "c")]}),
    ],
}


def run_steps(driver: ReconnectingDriver, steps: list[Step]) -> None:
    for number, (method, arguments, returned) in enumerate(steps):
        assert (number, getattr(driver, method)(*arguments)) == (number, returned)
        check_store(driver)


def check_store(driver: ReconnectingDriver) -> None:
    """Each ended answer is in exactly one of the two lists, and the bytes counted are the bytes stored."""
    kept = driver.session._result_store
    ended = {id for id, answer in kept.answers.items() if answer.ended_s is not None}
    assert not kept._ended.keys() & kept._evicted.keys()
    assert kept._ended.keys() | kept._evicted.keys() == ended
    assert kept._bytes == sum(answer.bytes for answer in kept.answers.values())


def test_new_limits_evict_and_expire_answers_at_once() -> None:
    driver = ReconnectingDriver(keep_results=3)
    driver.keep(1, 2, 3)
    driver.run(1, 2, 3)
    for id in (1, 2, 3):
        driver.finish(id)
    driver.take_results()
    driver.limit(keep_results=1)
    driver.replay(1, 3)
    assert driver.take_results() == [(1, DATA_LOSS), (3, 0)]
    driver.limit(keep_ms=1)
    driver.later(0.002)
    assert driver.reconnect() == []


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE)
def test_session_across_links(steps: list[Step]) -> None:
    run_steps(ReconnectingDriver(), steps)


# Limits, and steps within them.
LIMITED: dict[str, tuple[dict[str, int], list[Step]]] = {
    "with keep_bytes 0 requests are held and their answers are not": (
        {"keep_bytes": 0},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1,), None),
            # The agent must know both, so that it does not run them again elsewhere.
            ("reconnect", (), [(1, "k"), (2, "k")]),
            ("finish", (1,), None),
            ("reconnect", (), [(1, "k!"), (2, "k")]),
        ],
    ),
    "beyond keep_results the oldest answers are evicted and remembered": (
        {"keep_results": 2},
        [
            ("keep", (1, 2, 3), [1, 2, 3]),
            ("run", (3, 1, 2), None),
            ("finish", (3,), None),
            ("finish", (1,), None),
            ("finish", (2,), None),
            ("take", (), {"results": [(3, b"r"), (1, b"r"), (2, b"r")]}),
            ("reconnect", (), [(1, "k!"), (2, "k!"), (3, "k!")]),
            ("replay", (1, 3), []),
            ("take", (), {"replayed": [1, 3], "results": [(1, b"r"), (3, DATA_LOSS)]}),
            ("replay", (3,), []),
            ("take", (), {"replayed": [3], "results": [(3, DATA_LOSS)]}),
            ("ack", (3,), None),
            ("reconnect", (), [(1, "k!"), (2, "k!")]),
            ("later", (60.0,), None),
            ("reconnect", (), []),
        ],
    ),
    "an evicted answer is forgotten when keep_ms has passed": (
        {"keep_results": 1},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1,), None),
            ("later", (59.0,), None),
            ("finish", (2,), None),
            ("reconnect", (), [(1, "k!"), (2, "k!")]),
            ("later", (1.0,), None),
            ("reconnect", (), [(2, "k!")]),
        ],
    ),
    "without a link an answer expires when another request ends": (
        {"keep_results": 2},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1,), None),
            ("take_results", (), [(1, 0)]),
            ("detach", (), None),
            ("later", (60.0,), None),
            ("finish", (2,), None),
            ("stored", (), [2]),
        ],
    ),
    "with keep_ms 0 nothing is stored": (
        {"keep_ms": 0},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1, bytes(100)), None),
            ("detach", (), None),
            ("finish", (2, bytes(100)), None),
            ("stored", (), []),
        ],
    ),
    "beyond keep_bytes the oldest answers are evicted": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2, 3, 4), [1, 2, 3, 4]),
            ("run", (1, 2, 3, 4), None),
            ("finish", (1, bytes(400)), None),
            ("finish", (2, bytes(400)), None),
            ("finish", (3, bytes(500)), None),
            ("replay", (1, 2), []),
            ("take_results", (), [(3, 0), (1, DATA_LOSS), (2, 0)]),
            # An answer that is larger than keep_bytes evicts only itself.
            ("finish", (4, bytes(1001)), None),
            ("replay", (2, 3, 4), []),
            ("take_results", (), [(2, 0), (3, 0), (4, DATA_LOSS)]),
        ],
    ),
    "an acknowledged answer makes room": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2, 3), [1, 2, 3]),
            ("run", (1, 2, 3), None),
            ("finish", (1, bytes(900)), None),
            ("ack", (1,), None),
            ("finish", (2, bytes(900)), None),
            ("replay", (2,), []),
            ("take_results", (), [(1, 0), (2, 0)]),
        ],
    ),
    "a stream beyond keep_bytes is sent live and cannot be replayed": (
        {"keep_bytes": 1000},
        [
            ("keep", (1,), [1]),
            ("run", (1,), None),
            ("add_chunk", (1, bytes(500)), None),
            ("add_chunk", (1, bytes(500)), None),
            ("take", (), {"chunks": [(1, bytes(500)), (1, bytes(500))]}),
            ("add_chunk", (1, b"c"), None),
            ("finish", (1, b""), None),
            ("take", (), {"chunks": [(1, b"c")], "results": [(1, b"")]}),
            ("replay", (1,), []),
            ("take", (), {"replayed": [1], "results": [(1, DATA_LOSS)]}),
        ],
    ),
    "a replay of a running stream beyond keep_bytes cancels it and ends with DATA_LOSS": (
        {"keep_bytes": 1000},
        [
            ("keep", (1,), [1]),
            ("run", (1,), None),
            ("add_chunk", (1, bytes(1000)), None),
            ("reconnect", (), [(1, "k")]),
            ("replay", (1,), [1]),
            ("add_chunk", (1, b"c"), None),
            ("take", (), {"replayed": [1]}),
            ("take", (), None),
            ("fail", (1,), None),
            ("take", (), {"results": [(1, DATA_LOSS)]}),
        ],
    ),
    "a running stream beyond keep_bytes evicts itself rather than answers that have ended": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1, bytes(500)), None),
            ("add_chunk", (2, bytes(600)), None),
            ("finish", (2, b""), None),
            ("replay", (1, 2), []),
            ("take_results", (), [(1, 0), (2, DATA_LOSS)]),
        ],
    ),
    "a detached stream waits for room instead of being evicted": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1, bytes(500)), None),
            ("detach", (), None),
            ("room", (2, 500 - CHUNK_OVERHEAD_BYTES), True),
            ("room", (2, 501 - CHUNK_OVERHEAD_BYTES), False),
            ("hello", (), {"last": 2, "ended": (1, 0), "held": [(1, "k!"), (2, "k")]}),
            ("welcome", (), None),
            ("room", (2, 501), False),
            ("ack", (1,), None),
            ("room", (2, 501), True),
            ("add_chunk", (2, bytes(900)), None),
            ("room", (2, 501), False),
            # Nor while it is replayed.
            ("replay", (2,), []),
            ("room", (2, 501), False),
            ("take", (), {"replayed": [2], "chunks": [(2, bytes(900))]}),
            ("room", (2, 501), True),
        ],
    ),
    "an answer that is evicted during its replay ends with DATA_LOSS": (
        {"keep_bytes": 2_000_000},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("add_chunk", (1, bytes(900_000)), None),
            ("add_chunk", (1, bytes(900_000)), None),
            ("finish", (1, b""), None),
            ("reconnect", (), [(1, "k!"), (2, "k")]),
            ("replay", (1,), []),
            ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
            ("finish", (2, bytes(500_000)), None),
            ("take_results", (), []),
            ("take_results", (), [(2, 0), (1, DATA_LOSS)]),
        ],
    ),
}


@pytest.mark.parametrize("name", LIMITED)
def test_result_store_within_bounds(name: str) -> None:
    limits, steps = LIMITED[name]
    run_steps(ReconnectingDriver(**limits), steps)


def test_the_result_of_an_evicted_answer_names_the_bound() -> None:
    driver = ReconnectingDriver(keep_results=1)
    driver.keep(1, 2)
    driver.run(1, 2)
    driver.finish(1)
    driver.later(0.25)
    driver.finish(2)
    driver.replay(1, 9)
    frame = driver.session.next_frame(driver.now_s)
    assert frame is not None
    errors = {result.id: (result.error.message, result.ran_us) for result in frame.results}
    assert errors[1] == (
        "the answer to this request was given up: "
        "what the worker keeps of answers went beyond request.keep.max_results (1)",
        1,
    )
    assert errors[9][0].startswith("the worker has no answer to its request 9: ")


def test_tighter_bounds_of_the_next_agent_evict_answers() -> None:
    driver = ReconnectingDriver()
    driver.keep(1, 2, 3)
    driver.run(1, 2, 3)
    for id in (1, 2, 3):
        driver.finish(id)
    driver.limits["keep_results"] = 1
    driver.reconnect()
    driver.replay(1, 2, 3)
    assert driver.take_results() == [(1, DATA_LOSS), (2, DATA_LOSS), (3, 0)]


def test_a_deadline_can_pass_while_there_is_no_link() -> None:
    driver = ReconnectingDriver()
    driver.keep(1, 2, timeout_ms=100)
    driver.run(2)
    driver.detach()
    driver.later(0.25)
    assert not driver.begin(1)
    assert driver.hello()["held"] == [(1, "k!"), (2, "k")]
    driver.welcome()
    driver.replay(1)
    assert driver.take() == {"replayed": [1], "results": [(1, 4)]}


def test_a_hello_reports_all_fields_of_a_held_request() -> None:
    driver = ReconnectingDriver()
    driver.keep(1, timeout_ms=1000)
    driver.keep(2)
    driver.requests(3, timeout_ms=100)
    driver.run(1, 2, 3)
    driver.later(0.25)
    driver.finish(2)
    driver.detach()
    driver.later(0.5)
    driver.session.attach(driver.now_s)
    frame = driver.session.next_frame(driver.now_s)
    assert frame is not None
    assert frame.hello.resumed.away_ms == 500
    first, second, third = frame.hello.resumed.held
    assert (first.payload_bytes, first.payload_crc32) == (2, zlib.crc32(b"p1"))
    assert (first.remaining_ms, first.age_ms, first.ended) == (250, 750, False)
    # The payload is dropped when the request ends; its size and checksum are not.
    assert driver.calls[2].payload == b""
    assert (second.payload_bytes, second.payload_crc32) == (2, zlib.crc32(b"p2"))
    assert (second.remaining_ms, second.age_ms, second.ended) == (0, 750, True)
    # At least 1, because 0 means that there is no deadline.
    assert third.remaining_ms == 1


def test_away_ms_counts_from_the_last_link_that_had_a_welcome() -> None:
    driver = ReconnectingDriver()
    for _ in range(3):
        driver.detach()
        driver.later(0.25)
        driver.session.attach(driver.now_s)
    frame = driver.session.next_frame(driver.now_s)
    assert frame is not None
    assert frame.hello.resumed.away_ms == 750


def test_a_hello_resumes_nothing_if_no_link_had_a_welcome() -> None:
    driver = SessionDriver()
    driver.take()
    driver.session.detach(driver.now_s)
    driver.session.attach(driver.now_s)
    frame = driver.session.next_frame(driver.now_s)
    assert frame is not None
    assert not frame.hello.HasField("resumed")
    assert driver.receive(AgentFrame(welcome=Welcome(protocol=1, concurrency=4))).concurrency == 4


def test_every_link_must_begin_with_a_welcome() -> None:
    driver = ReconnectingDriver()
    driver.detach()
    driver.hello()
    with pytest.raises(ProtocolError, match="first frame must be a welcome"):
        driver.ping(1)


def test_a_replay_enters_the_send_queue_only_as_there_is_room() -> None:
    driver = ReconnectingDriver()
    driver.keep(1)
    driver.requests(2)
    driver.run(1, 2)
    for n in range(CHUNKS_MAX * 3):
        driver.add_chunk(1, b"%d" % n)
    driver.finish(1, b"")
    driver.reconnect()
    driver.replay(1)
    sent = []
    while not driver.session.empty:
        frame = driver.session.next_frame(driver.now_s)
        assert frame is not None
        assert len(frame.chunks) <= CHUNKS_MAX
        sent += [chunk.payload for chunk in frame.chunks]
    assert sent == [b"%d" % n for n in range(CHUNKS_MAX * 3)]


class Caller:
    """What a caller has received of one answer. A replay starts a new one."""

    def __init__(self) -> None:
        self.wants = True
        self.values: list[int] = []
        self.ends: list[int] = []


@pytest.mark.parametrize("seed", range(300))
def test_a_replay_has_every_part_of_an_answer_once_whatever_the_order_of_events(seed: int) -> None:
    rng = random.Random(seed)
    driver = ReconnectingDriver(keep_bytes=rng.choice([3_000, 1_000_000]), keep_results=rng.choice([3, 1000]))
    kept: dict[int, Caller] = {}
    made: dict[int, int] = {}
    running: list[int] = []
    next_id = 1
    lossy = driver.limits["keep_bytes"] < 10_000 or driver.limits["keep_results"] < 10

    def receive_frame() -> None:
        frame = driver.session.next_frame(driver.now_s)
        if frame is None:
            return
        # Not those that were acknowledged since the replay was asked for.
        kept.update({id: Caller() for id in frame.replayed if id in kept})
        for chunk in frame.chunks:
            if chunk.id in kept and kept[chunk.id].wants:
                kept[chunk.id].values.append(int(chunk.payload))
        for result in frame.results:
            if result.id in kept and kept[result.id].wants:
                kept[result.id].ends.append(result.error.code)

    for _ in range(150):
        event = rng.choice(
            ["keep", "begin", "chunk", "chunk", "chunk", "finish", "take", "take", "reconnect", "pause", "ack"]
        )
        if event == "keep":
            driver.keep(next_id)
            kept[next_id] = Caller()
            next_id += 1
        elif event == "begin":
            waiting = [id for id in kept if id in driver.calls and driver.calls[id].begun_s is None]
            if waiting and driver.begin(waiting[0]):
                running.append(waiting[0])
        elif event == "chunk" and running:
            id = rng.choice(running)
            if driver.room(id, 3) and not driver.paused(id) and not driver.cancelled(id):
                driver.add_chunk(id, b"%03d" % made.get(id, 0))
                made[id] = made.get(id, 0) + 1
        elif event == "finish" and running:
            driver.finish(running.pop(rng.randrange(len(running))), b"")
        elif event == "take":
            receive_frame()
        elif event == "reconnect":
            driver.reconnect()
            for caller in kept.values():
                caller.wants = False
            asked = [id for id in kept if rng.random() < 0.7]
            if asked:
                driver.replay(*asked)
        elif event == "pause" and kept:
            id = rng.choice(list(kept))
            driver.pause(id)
            receive_frame()
            driver.resume(id)
        elif event == "ack":
            done = [id for id, caller in kept.items() if caller.ends]
            if done:
                id = rng.choice(done)
                check(kept.pop(id), made.get(id, 0), lossy)
                driver.ack(id)
        check_store(driver)
    for id in [id for id in kept if driver.calls[id].begun_s is None]:
        if driver.begin(id):
            running.append(id)
    for id in running:
        driver.finish(id, b"")
    if kept:
        driver.replay(*kept)
    while not driver.session.empty:
        receive_frame()
    assert driver.session.idle
    for id, caller in kept.items():
        check(caller, made.get(id, 0), lossy)


def check(caller: Caller, made: int, lossy: bool) -> None:
    (code,) = caller.ends
    assert caller.values == list(range(made))[: len(caller.values)]
    assert len(caller.values) == made if code == 0 else lossy
