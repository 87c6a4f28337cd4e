"""The session across lines, as tables: what is kept, dropped, held, said again, given up."""

from __future__ import annotations

import random
import zlib
from typing import Any, Optional

import pytest
from test_session import Bench, Step, told

from pitwarden._pb.link_pb2 import AgentFrame, Limits, LinkRequest, Welcome
from pitwarden._result_store import CHUNK_OVERHEAD_BYTES
from pitwarden._send_queue import CHUNKS_MAX
from pitwarden._session import ProtocolError

FAR = {"keep_results": 1000, "keep_bytes": 1_000_000_000, "keep_ms": 60_000}
DATA_LOSS = 15


class Lines(Bench):
    """A bench whose line can be lost. Kept requests have the command "k", others "c"."""

    def __init__(self, **bounds: int) -> None:
        super().__init__()
        self.bounds = {**FAR, **bounds}
        self.take()
        self.welcome()

    def welcome(self, **more: Any) -> Optional[int]:
        welcome = Welcome(protocol=1, concurrency=4, **self.bounds)
        return self.receive(AgentFrame(welcome=welcome, **more)).concurrency

    def keep(self, *ids: int, timeout_ms: int = 0) -> list[int]:
        requests = [
            LinkRequest(id=id, command="k", keep=True, payload=b"p%d" % id, timeout_ms=timeout_ms) for id in ids
        ]
        return [call.id for call in self.receive(AgentFrame(requests=requests)).starts]

    def detach(self) -> None:
        self.session.detach(self.now_s)

    def hello(self) -> dict[str, Any]:
        """The next line's hello: what it says of the last id, of those ended, and what is held."""
        self.session.attach(self.now_s)
        frame = self.session.next_frame(self.now_s)
        assert frame is not None
        assert frame.HasField("hello")
        assert told(frame) == {"hello": "w"}
        if not frame.hello.HasField("resumed"):
            return {}
        resumed = frame.hello.resumed
        return {
            "last": resumed.last_id,
            "ended": (resumed.completed, resumed.failed),
            "held": [(held.id, held.command + ("!" if held.ended else "")) for held in resumed.held],
        }

    def again(self) -> list[tuple[int, str]]:
        """A line that is lost and there again at once; what it holds."""
        self.detach()
        held: list[tuple[int, str]] = self.hello()["held"]
        self.welcome()
        return held

    def kept(self) -> list[int]:
        return list(self.session._result_store.answers)

    def limit(self, **bounds: int) -> None:
        """What a reload of the config changes on a line that is there."""
        self.receive(AgentFrame(limits=Limits(**{**self.bounds, **bounds})))

    def ack(self, *ids: int) -> None:
        self.receive(AgentFrame(acks=ids))

    def replay(self, *ids: int) -> list[int]:
        """Those that it cancels."""
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

    def take_ends(self) -> list[tuple[int, int]]:
        """Results of the next frame: id, code."""
        frame = self.session.next_frame(self.now_s)
        return [] if frame is None else [(result.id, result.error.code) for result in frame.results]

    def run(self, *ids: int) -> None:
        for id in ids:
            assert self.begin(id)

    def say(self, id: int, payload: bytes = b"c") -> None:
        self.chunk(id, payload)


TABLE: dict[str, list[Step]] = {
    "nothing was there": [
        ("detach", (), None),
        ("hello", (), {"last": 0, "ended": (0, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "the next one says no concurrency": [
        ("again", (), []),
        ("keep", (1,), [1]),
    ],
    "what waits is dropped unless it is kept": [
        ("requests", (1, 2), [1, 2]),
        ("keep", (3, 4), [3, 4]),
        ("detach", (), None),
        ("hello", (), {"last": 4, "ended": (0, 0), "held": [(3, "k"), (4, "k")]}),
        ("begin", (1,), False),
        ("begin", (3,), True),
        ("idle", (), False),
    ],
    "what waits and is kept begins while away": [
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
    "what runs goes on; where it is not kept only its end is told": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("say", (1,), None),
        ("again", (), [(1, "c")]),
        ("say", (1,), None),
        ("take", (), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
        ("again", (), []),
    ],
    "what runs and ends while away is gone where it is not kept": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("detach", (), None),
        ("finish", (1,), None),
        ("idle", (), True),
        ("hello", (), {"last": 1, "ended": (1, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "what ends between hello and welcome is told after it": [
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
    "what was not sent is not sent on the next line": [
        ("requests", (1, 2, 3), [1, 2, 3]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("say", (2,), None),
        ("report", (2, 0.5), None),
        ("give_back", (3,), None),
        ("ping", (9,), None),
        ("again", (), [(2, "c")]),
        ("take", (), None),
    ],
    "what is given back while away is held no more": [
        ("keep", (1,), [1]),
        ("detach", (), None),
        ("give_back", (1,), None),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": []}),
        ("welcome", (), None),
        ("take", (), None),
    ],
    "an answer is kept after it was sent, until it is acknowledged": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("fail", (2,), None),
        ("take", (), {"results": [(1, b"r"), (2, 2)]}),
        ("ack", (2, 77), None),
        ("again", (), [(1, "k!")]),
        ("ack", (1,), None),
        ("again", (), []),
    ],
    "one that was cancelled before it began is an answer too": [
        ("keep", (1,), [1]),
        ("cancels", (1,), []),
        ("take", (), {"results": [(1, 1)]}),
        ("again", (), [(1, "k!")]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "results": [(1, 1)]}),
    ],
    "a running one that is acknowledged is kept no more, and has its end": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("ack", (1,), None),
        ("again", (), [(1, "k")]),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
        ("again", (), []),
    ],
    "a replay takes back what waits to be sent, and begins anew": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("say", (1, b"a"), None),
        ("take", (), {"chunks": [(1, b"a")]}),
        ("say", (1, b"b"), None),
        ("say", (2, b"x"), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(2, b"x"), (1, b"a"), (1, b"b")]}),
        ("say", (1, b"c"), None),
        ("finish", (1, b""), None),
        ("take", (), {"chunks": [(1, b"c")], "results": [(1, b"")]}),
    ],
    "a replay of one that waits is a promise": [
        ("keep", (1,), [1]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1]}),
        ("run", (1,), None),
        ("finish", (1,), None),
        ("take", (), {"results": [(1, b"r")]}),
    ],
    "what runs and is kept says nothing on the next line before it is asked": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("say", (1, b"a"), None),
        ("detach", (), None),
        ("say", (1, b"b"), None),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": [(1, "k")]}),
        ("say", (1, b"c"), None),
        ("welcome", (), None),
        ("say", (1, b"d"), None),
        ("take", (), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a"), (1, b"b"), (1, b"c"), (1, b"d")]}),
        ("say", (1, b"e"), None),
        ("take", (), {"chunks": [(1, b"e")]}),
    ],
    "its end is told, and is void when it is asked for": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("say", (1, b"a"), None),
        ("again", (), [(1, "k")]),
        ("finish", (1, b""), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a")], "results": [(1, b"")]}),
    ],
    "a replay in the frame of the welcome": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("detach", (), None),
        ("finish", (1,), None),
        ("hello", (), {"last": 1, "ended": (1, 0), "held": [(1, "k!")]}),
        ("welcome_and_replay", (1,), None),
        ("take", (), {"replayed": [1], "results": [(1, b"r")]}),
    ],
    "a second loss in the middle of a replay": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("say", (1, bytes(900_000)), None),
        ("say", (1, bytes(900_000)), None),
        ("again", (), [(1, "k")]),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
        ("again", (), [(1, "k")]),
        ("take", (), None),
        ("replay", (1,), []),
        ("finish", (1, b""), None),
        ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
        ("take", (), {"chunks": [(1, bytes(900_000))], "results": [(1, b"")]}),
    ],
    "a pause is for the line on which it was said": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("pause", (1,), None),
        ("detach", (), None),
        ("paused", (1,), False),
        ("hello", (), {"last": 1, "ended": (0, 0), "held": [(1, "k")]}),
        ("welcome", (), None),
        ("say", (1, b"a"), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1], "chunks": [(1, b"a")]}),
    ],
    "so is a replay": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("pause", (1,), None),
        ("replay", (1,), []),
        ("take", (), {"replayed": [1]}),
        ("again", (), [(1, "k")]),
        ("say", (1, b"a"), None),
        ("finish", (1, b""), None),
        ("take", (), {"results": [(1, b"")]}),
        ("take", (), None),
    ],
    "a replay that is paused waits, also when its command has ended": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("say", (1, b"a"), None),
        ("finish", (1, b""), None),
        ("say", (2, b"x"), None),
        ("again", (), [(1, "k!"), (2, "k")]),
        ("pause", (1, 2), None),
        ("replay", (1, 2), []),
        ("take", (), {"replayed": [1, 2]}),
        ("take", (), None),
        ("say", (2, b"y"), None),
        ("take", (), None),
        ("resume", (1, 2), [2]),
        ("take", (), {"chunks": [(1, b"a"), (2, b"x"), (2, b"y")], "results": [(1, b"")]}),
    ],
    "an acknowledged one is not said to its end": [
        ("keep", (1,), [1]),
        ("run", (1,), None),
        ("say", (1, bytes(2_000_000)), None),
        ("finish", (1, b""), None),
        ("again", (), [(1, "k!")]),
        ("replay", (1,), []),
        ("ack", (1,), None),
        ("take", (), {"replayed": [1]}),
        ("take", (), None),
    ],
    "one that nobody knows is answered": [
        ("replay", (7,), []),
        ("take", (), {"replayed": [7], "results": [(7, DATA_LOSS)]}),
    ],
    "one that runs and is not kept is answered, and cancelled": [
        ("requests", (1,), [1]),
        ("run", (1,), None),
        ("replay", (1,), [1]),
        ("finish", (1,), None),
        ("take", (), {"replayed": [1], "results": [(1, DATA_LOSS)]}),
        ("take", (), None),
    ],
    "after its time it is forgotten": [
        ("keep", (1, 2), [1, 2]),
        ("run", (1, 2), None),
        ("finish", (1,), None),
        ("later", (59.0,), None),
        ("finish", (2,), None),
        ("later", (1.0,), None),
        ("again", (), [(2, "k!")]),
    ],
    "that it leaves is said on every line": [
        ("leave", (), None),
        ("take", (), {"leaving": True}),
        ("again", (), []),
        ("take", (), {"leaving": True}),
    ],
    "that it leaves is not said before the welcome": [
        ("detach", (), None),
        ("leave", (), None),
        ("hello", (), {"last": 0, "ended": (0, 0), "held": []}),
        ("take", (), None),
        ("welcome", (), None),
        ("take", (), {"leaving": True}),
    ],
    "ids go on after the highest": [
        ("requests", (5, 3), [5, 3]),
        ("again", (), []),
        ("requests", (6, 4), [6, 4]),
        ("detach", (), None),
        ("hello", (), {"last": 6, "ended": (0, 0), "held": []}),
    ],
    "ids that wrap": [
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
    "an id that comes round again is another request": [
        ("requests", (1,), [1]),
        ("keep", (2,), [2]),
        ("run", (1, 2), None),
        ("again", (), [(1, "c"), (2, "k")]),
        ("finish", (1,), None),
        ("finish", (2,), None),
        ("take", (), {"results": [(1, b"r"), (2, b"r")]}),
        ("requests", (1,), [1]),
        ("keep", (2,), [2]),
        ("run", (1, 2), None),
        ("say", (1, b"a"), None),
        ("say", (2, b"b"), None),
        ("take", (), {"chunks": [(1, b"a"), (2, b"b")]}),
        ("finish", (2, b""), None),
        ("later", (60.0,), None),
        ("again", (), [(1, "c")]),
    ],
    "a warm-up is not the highest": [
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


def play(lines: Lines, steps: list[Step]) -> None:
    for number, (word, arguments, returned) in enumerate(steps):
        assert (number, getattr(lines, word)(*arguments)) == (number, returned)
        check_books(lines)


def check_books(lines: Lines) -> None:
    """Each ended answer is in one of the lists from which the oldest goes, and what is counted is what is there."""
    kept = lines.session._result_store
    ended = {id for id, answer in kept.answers.items() if answer.ended_s is not None}
    assert not kept._ended.keys() & kept._evicted.keys()
    assert kept._ended.keys() | kept._evicted.keys() == ended
    assert kept._bytes == sum(answer.bytes for answer in kept.answers.values())


def test_a_reload_changes_the_bounds_of_what_is_kept() -> None:
    lines = Lines(keep_results=3)
    lines.keep(1, 2, 3)
    lines.run(1, 2, 3)
    for id in (1, 2, 3):
        lines.finish(id)
    lines.take_ends()
    lines.limit(keep_results=1)
    lines.replay(1, 3)
    assert lines.take_ends() == [(1, DATA_LOSS), (3, 0)]
    lines.limit(keep_ms=1)
    lines.later(0.002)
    assert lines.again() == []


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE)
def test_table(steps: list[Step]) -> None:
    play(Lines(), steps)


# Bounds, and what then happens.
BOUNDS: dict[str, tuple[dict[str, int], list[Step]]] = {
    "nothing is kept without a bound for it": (
        {"keep_bytes": 0},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1,), None),
            # Both are known by their names, so that neither is run again while it is here.
            ("again", (), [(1, "k"), (2, "k")]),
            ("finish", (1,), None),
            ("again", (), [(1, "k!"), (2, "k")]),
        ],
    ),
    "of too many the oldest are given up, and are not forgotten": (
        {"keep_results": 2},
        [
            ("keep", (1, 2, 3), [1, 2, 3]),
            ("run", (3, 1, 2), None),
            ("finish", (3,), None),
            ("finish", (1,), None),
            ("finish", (2,), None),
            ("take", (), {"results": [(3, b"r"), (1, b"r"), (2, b"r")]}),
            ("again", (), [(1, "k!"), (2, "k!"), (3, "k!")]),
            ("replay", (1, 3), []),
            ("take", (), {"replayed": [1, 3], "results": [(1, b"r"), (3, DATA_LOSS)]}),
            ("replay", (3,), []),
            ("take", (), {"replayed": [3], "results": [(3, DATA_LOSS)]}),
            ("ack", (3,), None),
            ("again", (), [(1, "k!"), (2, "k!")]),
            ("later", (60.0,), None),
            ("again", (), []),
        ],
    ),
    "a given-up one is forgotten after its time": (
        {"keep_results": 1},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1,), None),
            ("later", (59.0,), None),
            ("finish", (2,), None),
            ("again", (), [(1, "k!"), (2, "k!")]),
            ("later", (1.0,), None),
            ("again", (), [(2, "k!")]),
        ],
    ),
    "while away, what is over its time goes when another ends": (
        {"keep_results": 2},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1,), None),
            ("take_ends", (), [(1, 0)]),
            ("detach", (), None),
            ("later", (60.0,), None),
            ("finish", (2,), None),
            ("kept", (), [2]),
        ],
    ),
    "nothing is kept for no time": (
        {"keep_ms": 0},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1, bytes(100)), None),
            ("detach", (), None),
            ("finish", (2, bytes(100)), None),
            ("kept", (), []),
        ],
    ),
    "of too large ones too": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2, 3, 4), [1, 2, 3, 4]),
            ("run", (1, 2, 3, 4), None),
            ("finish", (1, bytes(400)), None),
            ("finish", (2, bytes(400)), None),
            ("finish", (3, bytes(500)), None),
            ("replay", (1, 2), []),
            ("take_ends", (), [(3, 0), (1, DATA_LOSS), (2, 0)]),
            # One that is larger than all that is kept gives up nothing but itself.
            ("finish", (4, bytes(1001)), None),
            ("replay", (2, 3, 4), []),
            ("take_ends", (), [(2, 0), (3, 0), (4, DATA_LOSS)]),
        ],
    ),
    "room is there again when an answer is acknowledged": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2, 3), [1, 2, 3]),
            ("run", (1, 2, 3), None),
            ("finish", (1, bytes(900)), None),
            ("ack", (1,), None),
            ("finish", (2, bytes(900)), None),
            ("replay", (2,), []),
            ("take_ends", (), [(1, 0), (2, 0)]),
        ],
    ),
    "a stream that outgrows it is said live, and cannot be said again": (
        {"keep_bytes": 1000},
        [
            ("keep", (1,), [1]),
            ("run", (1,), None),
            ("say", (1, bytes(500)), None),
            ("say", (1, bytes(500)), None),
            ("take", (), {"chunks": [(1, bytes(500)), (1, bytes(500))]}),
            ("say", (1, b"c"), None),
            ("finish", (1, b""), None),
            ("take", (), {"chunks": [(1, b"c")], "results": [(1, b"")]}),
            ("replay", (1,), []),
            ("take", (), {"replayed": [1], "results": [(1, DATA_LOSS)]}),
        ],
    ),
    "asked for while it runs it is cancelled, and its last word is that it was given up": (
        {"keep_bytes": 1000},
        [
            ("keep", (1,), [1]),
            ("run", (1,), None),
            ("say", (1, bytes(1000)), None),
            ("again", (), [(1, "k")]),
            ("replay", (1,), [1]),
            ("say", (1, b"c"), None),
            ("take", (), {"replayed": [1]}),
            ("take", (), None),
            ("fail", (1,), None),
            ("take", (), {"results": [(1, DATA_LOSS)]}),
        ],
    ),
    "a stream that runs gives up itself before answers of those who are not there": (
        {"keep_bytes": 1000},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("finish", (1, bytes(500)), None),
            ("say", (2, bytes(600)), None),
            ("finish", (2, b""), None),
            ("replay", (1, 2), []),
            ("take_ends", (), [(1, 0), (2, DATA_LOSS)]),
        ],
    ),
    "without a reader it waits instead": (
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
            ("say", (2, bytes(900)), None),
            ("room", (2, 501), False),
            # While it catches up as well.
            ("replay", (2,), []),
            ("room", (2, 501), False),
            ("take", (), {"replayed": [2], "chunks": [(2, bytes(900))]}),
            ("room", (2, 501), True),
        ],
    ),
    "what is given up in the middle of its replay ends with the error": (
        {"keep_bytes": 2_000_000},
        [
            ("keep", (1, 2), [1, 2]),
            ("run", (1, 2), None),
            ("say", (1, bytes(900_000)), None),
            ("say", (1, bytes(900_000)), None),
            ("finish", (1, b""), None),
            ("again", (), [(1, "k!"), (2, "k")]),
            ("replay", (1,), []),
            ("take", (), {"replayed": [1], "chunks": [(1, bytes(900_000))]}),
            ("finish", (2, bytes(500_000)), None),
            ("take_ends", (), []),
            ("take_ends", (), [(2, 0), (1, DATA_LOSS)]),
        ],
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    bounds, steps = BOUNDS[name]
    play(Lines(**bounds), steps)


def test_what_was_evicted_says_of_which_bound() -> None:
    lines = Lines(keep_results=1)
    lines.keep(1, 2)
    lines.run(1, 2)
    lines.finish(1)
    lines.later(0.25)
    lines.finish(2)
    lines.replay(1, 9)
    frame = lines.session.next_frame(lines.now_s)
    assert frame is not None
    told = {result.id: (result.error.message, result.ran_us) for result in frame.results}
    assert told[1] == (
        "the answer to this request was given up: what the worker keeps of answers went beyond keep_results (1)",
        1,
    )
    assert told[9][0].startswith("the worker has no answer to its request 9: ")


def test_a_successor_may_bound_it_more_tightly() -> None:
    lines = Lines()
    lines.keep(1, 2, 3)
    lines.run(1, 2, 3)
    for id in (1, 2, 3):
        lines.finish(id)
    lines.bounds["keep_results"] = 1
    lines.again()
    lines.replay(1, 2, 3)
    assert lines.take_ends() == [(1, DATA_LOSS), (2, DATA_LOSS), (3, 0)]


def test_a_deadline_may_pass_while_away() -> None:
    lines = Lines()
    lines.keep(1, 2, timeout_ms=100)
    lines.run(2)
    lines.detach()
    lines.later(0.25)
    assert not lines.begin(1)
    assert lines.hello()["held"] == [(1, "k!"), (2, "k")]
    lines.welcome()
    lines.replay(1)
    assert lines.take() == {"replayed": [1], "results": [(1, 4)]}


def test_a_held_request_is_told_whole() -> None:
    lines = Lines()
    lines.keep(1, timeout_ms=1000)
    lines.keep(2)
    lines.requests(3, timeout_ms=100)
    lines.run(1, 2, 3)
    lines.later(0.25)
    lines.finish(2)
    lines.detach()
    lines.later(0.5)
    lines.session.attach(lines.now_s)
    frame = lines.session.next_frame(lines.now_s)
    assert frame is not None
    assert frame.hello.resumed.away_ms == 500
    first, second, third = frame.hello.resumed.held
    assert (first.payload_bytes, first.payload_crc32) == (2, zlib.crc32(b"p1"))
    assert (first.remaining_ms, first.age_ms, first.ended) == (250, 750, False)
    # Its payload is let go, but not what is told of it.
    assert lines.calls[2].payload == b""
    assert (second.payload_bytes, second.payload_crc32) == (2, zlib.crc32(b"p2"))
    assert (second.remaining_ms, second.age_ms, second.ended) == (0, 750, True)
    # 0 would mean that it has none.
    assert third.remaining_ms == 1


def test_absences_add_up_until_a_welcome() -> None:
    lines = Lines()
    for _ in range(3):
        lines.detach()
        lines.later(0.25)
        lines.session.attach(lines.now_s)
    frame = lines.session.next_frame(lines.now_s)
    assert frame is not None
    assert frame.hello.resumed.away_ms == 750


def test_without_a_welcome_before_nothing_is_resumed() -> None:
    bench = Bench()
    bench.take()
    bench.session.detach(bench.now_s)
    bench.session.attach(bench.now_s)
    frame = bench.session.next_frame(bench.now_s)
    assert frame is not None
    assert not frame.hello.HasField("resumed")
    assert bench.receive(AgentFrame(welcome=Welcome(protocol=1, concurrency=4))).concurrency == 4


def test_each_line_begins_with_a_welcome() -> None:
    lines = Lines()
    lines.detach()
    lines.hello()
    with pytest.raises(ProtocolError, match="first frame must be a welcome"):
        lines.ping(1)


def test_a_replay_is_put_where_it_waits_to_be_sent_as_room_is_there() -> None:
    lines = Lines()
    lines.keep(1)
    lines.requests(2)
    lines.run(1, 2)
    for n in range(CHUNKS_MAX * 3):
        lines.say(1, b"%d" % n)
    lines.finish(1, b"")
    lines.again()
    lines.replay(1)
    said = []
    while not lines.session.empty:
        frame = lines.session.next_frame(lines.now_s)
        assert frame is not None
        assert len(frame.chunks) <= CHUNKS_MAX
        said += [chunk.payload for chunk in frame.chunks]
    assert said == [b"%d" % n for n in range(CHUNKS_MAX * 3)]


class Caller:
    """What an agent's caller of one request has; begun again with each replay."""

    def __init__(self) -> None:
        self.wants = True
        self.values: list[int] = []
        self.ends: list[int] = []


@pytest.mark.parametrize("seed", range(300))
def test_callers_who_ask_again_get_all_of_an_answer_once(seed: int) -> None:
    dice = random.Random(seed)
    lines = Lines(keep_bytes=dice.choice([3_000, 1_000_000]), keep_results=dice.choice([3, 1000]))
    kept: dict[int, Caller] = {}
    made: dict[int, int] = {}
    running: list[int] = []
    next_id = 1
    lossy = lines.bounds["keep_bytes"] < 10_000 or lines.bounds["keep_results"] < 10

    def hear() -> None:
        frame = lines.session.next_frame(lines.now_s)
        if frame is None:
            return
        # One that was acknowledged in between is asked for no more.
        kept.update({id: Caller() for id in frame.replayed if id in kept})
        for chunk in frame.chunks:
            if chunk.id in kept and kept[chunk.id].wants:
                kept[chunk.id].values.append(int(chunk.payload))
        for result in frame.results:
            if result.id in kept and kept[result.id].wants:
                kept[result.id].ends.append(result.error.code)

    for _ in range(150):
        deed = dice.choice(["keep", "begin", "say", "say", "say", "finish", "take", "take", "lose", "pause", "ack"])
        if deed == "keep":
            lines.keep(next_id)
            kept[next_id] = Caller()
            next_id += 1
        elif deed == "begin":
            waiting = [id for id in kept if id in lines.calls and lines.calls[id].begun_s is None]
            if waiting and lines.begin(waiting[0]):
                running.append(waiting[0])
        elif deed == "say" and running:
            id = dice.choice(running)
            if lines.room(id, 3) and not lines.paused(id) and not lines.cancelled(id):
                lines.say(id, b"%03d" % made.get(id, 0))
                made[id] = made.get(id, 0) + 1
        elif deed == "finish" and running:
            lines.finish(running.pop(dice.randrange(len(running))), b"")
        elif deed == "take":
            hear()
        elif deed == "lose":
            lines.again()
            for caller in kept.values():
                caller.wants = False
            asked = [id for id in kept if dice.random() < 0.7]
            if asked:
                lines.replay(*asked)
        elif deed == "pause" and kept:
            id = dice.choice(list(kept))
            lines.pause(id)
            hear()
            lines.resume(id)
        elif deed == "ack":
            done = [id for id, caller in kept.items() if caller.ends]
            if done:
                id = dice.choice(done)
                check(kept.pop(id), made.get(id, 0), lossy)
                lines.ack(id)
        check_books(lines)
    for id in [id for id in kept if lines.calls[id].begun_s is None]:
        if lines.begin(id):
            running.append(id)
    for id in running:
        lines.finish(id, b"")
    if kept:
        lines.replay(*kept)
    while not lines.session.empty:
        hear()
    assert lines.session.idle
    for id, caller in kept.items():
        check(caller, made.get(id, 0), lossy)


def check(caller: Caller, made: int, lossy: bool) -> None:
    (code,) = caller.ends
    assert caller.values == list(range(made))[: len(caller.values)]
    assert len(caller.values) == made if code == 0 else lossy
