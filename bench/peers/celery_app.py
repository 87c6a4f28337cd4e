"""Celery peer: tasks echo, handler_5ms and pid, with Redis as broker and result backend; celery_load.py starts it."""

import os
import time

from celery import Celery

REDIS_URL = os.environ["PEER_REDIS_URL"]

app = Celery("peer", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack"],
    result_expires=60,
)


@app.task(name="echo")
def echo(body: bytes) -> bytes:
    return body


@app.task(name="handler_5ms")
def handler_5ms(body: bytes) -> bytes:
    time.sleep(0.005)
    return body


@app.task(name="pid")
def pid() -> int:
    return os.getpid()
