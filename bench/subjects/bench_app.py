"""The application that the benchmark's pools run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pitwarden

app = pitwarden.App()


@app.command
def echo(data: bytes) -> bytes:
    return data


@app.command
def handler_5ms(data: bytes) -> bytes:
    time.sleep(0.005)
    return data


@app.command
def pid(data: bytes) -> bytes:
    """Of the worker that answers: the benchmark of kills checks with it whom it killed."""
    return str(os.getpid()).encode()


@app.command
def stream(count: int, size: int) -> Iterator[bytes]:
    chunk = b"x" * size
    for _ in range(count):
        yield chunk


@app.command
def echo_counter(data: bytes) -> bytes:
    pitwarden.emit("echoes", 1, kind="counter")
    return data


@app.command
def echo_histogram(data: bytes) -> bytes:
    pitwarden.emit("echo_bytes", len(data), size="small")
    return data


@app.command
def echo_span(data: bytes) -> bytes:
    with pitwarden.span("echo"):
        return data
