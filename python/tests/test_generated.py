"""The modules of `pitwarden._pb` match proto/. If they do not, run `python generate.py`."""

import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from pitwarden._pb import execution_pb2, link_pb2

PROTO = Path(__file__).resolve().parents[2] / "proto"


@pytest.mark.parametrize("module", [execution_pb2, link_pb2], ids=["execution", "link"])
def test_a_generated_module_matches_its_proto_file(module, tmp_path):
    # Only the project's own checks have the compiler.
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    name = module.DESCRIPTOR.name
    out = tmp_path / "set"
    arguments = ["protoc", f"-I{PROTO}", f"--descriptor_set_out={out}", str(PROTO / name)]
    assert protoc.main(arguments) == 0, sys.stderr
    (now,) = FileDescriptorSet.FromString(out.read_bytes()).file
    made = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(made)
    assert without_json_names(made) == without_json_names(now), f"{name} has changed: run python generate.py"


def without_json_names(file):
    """Removes the JSON names of fields. They follow from the fields' names, and a description may leave them out."""
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return file
