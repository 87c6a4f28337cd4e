"""Chunks and results that wait to be sent, in order: the result of a stream must not overtake its chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Set

from ._call import Chunk, Part, Result
from ._pb.link_pb2 import WorkerFrame

# A ping waits until the frame that is being sent is through, so frames are kept short. A larger payload goes alone.
FRAME_MAX_BYTES = 1024 * 1024

# How much may wait before producers of chunks have to: enough to keep the link busy, and little enough memory.
CHUNKS_MAX_BYTES = 1024 * 1024
CHUNKS_MAX = 256

# Bytes around a payload in a frame: field numbers, lengths, id and content type.
_OVERHEAD_BYTES = 48


class SendQueue:
    def __init__(self) -> None:
        self.parts: deque[Part] = deque()
        self._chunks = 0
        self._chunk_bytes = 0

    @property
    def has_room(self) -> bool:
        """True: chunks may be added. Results always may."""
        return self._chunks < CHUNKS_MAX and self._chunk_bytes < CHUNKS_MAX_BYTES

    def add_result(self, result: Result) -> None:
        self.parts.append(result)

    def add(self, part: Part) -> None:
        if isinstance(part, Chunk):
            self.add_chunk(part)
        else:
            self.add_result(part)

    def add_chunk(self, chunk: Chunk) -> None:
        self.parts.append(chunk)
        self._chunks += 1
        self._chunk_bytes += len(chunk.payload)

    def remove(self, ids: Set[int]) -> None:
        """Removes all parts of these requests."""
        parts = self.parts
        self.clear()
        for part in parts:
            if part.id not in ids:
                self.add(part)

    def clear(self) -> None:
        self.parts = deque()
        self._chunks = self._chunk_bytes = 0

    def move_into(self, frame: WorkerFrame) -> None:
        """Moves as many parts as one frame may have, at least one if any waits."""
        # Every chunk of a stream passes here. Setting fields one by one takes less time than passing them to `add`.
        parts, size, chunks, chunk_bytes = self.parts, 0, 0, 0
        add_chunk, add_result = frame.chunks.add, frame.results.add
        is_empty = True
        while parts:
            part = parts[0]
            payload = part.payload
            size += len(payload) + _OVERHEAD_BYTES
            if size > FRAME_MAX_BYTES and not is_empty:
                break
            is_empty = False
            parts.popleft()
            if isinstance(part, Chunk):
                chunks += 1
                chunk_bytes += len(payload)
                chunk = add_chunk()
                chunk.id, chunk.payload, chunk.content_type = part.id, payload, part.content_type
            elif part.error is None:
                add_result(id=part.id, payload=payload, content_type=part.content_type, ran_us=part.ran_us)
            else:
                size += len(part.error.traceback)
                add_result(id=part.id, error=part.error, ran_us=part.ran_us)
        self._chunks -= chunks
        self._chunk_bytes -= chunk_bytes
