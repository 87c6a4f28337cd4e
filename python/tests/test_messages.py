"""The SDK's message classes in one process with an application's classes of the same names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

THEIRS = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
def define_theirs(file, message):
    described = descriptor_pb2.FileDescriptorProto(name=file, package="pitwarden.v1", syntax="proto3")
    described.message_type.add(name=message).field.add(name="theirs", number=1, type=9, label=1)
    pool = descriptor_pool.Default()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"pitwarden.v1.{message}"))
theirs = [define_theirs("pitwarden/v1/link.proto", "Hello"), define_theirs("pitwarden/v1/execution.proto", "Error")]
"""
OURS = """
from pitwarden._pb import execution_pb2, link_pb2
ours = [link_pb2.Hello, execution_pb2.Error]
"""
USED = """
assert [message(theirs="a").SerializeToString() for message in theirs] == [b"\\x0a\\x01a"] * 2
assert link_pb2.Hello.FromString(link_pb2.Hello(worker_id="w").SerializeToString()).worker_id == "w"
frame = link_pb2.WorkerFrame()
frame.hello.CopyFrom(link_pb2.Hello(commands=[link_pb2.Command(name="a")]))
assert frame.hello.commands[0].name == "a" and frame.HasField("hello") and not frame.HasField("pong")
"""


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("order", [OURS + THEIRS, THEIRS + OURS], ids=["ours first", "theirs first"])
def test_an_application_can_have_its_own_messages_with_the_names_of_the_sdks(order: str, implementation: str) -> None:
    env = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    ended = subprocess.run([sys.executable, "-c", order + USED], env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
