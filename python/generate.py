"""Makes src/pitwarden/_pb again from proto/: `python generate.py`, or `python generate.py --check` to only compare.

protoc describes the files; a module holds its description and makes its classes of it (_pb/_messages.py). The tool's
version is pinned, so that it writes the same everywhere, and lives in a virtual environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

TOOLS = "grpcio-tools==1.72.2"
HERE = Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"
OUT = HERE / "src" / "pitwarden" / "_pb"
NAMES = ("link", "execution")


def main() -> int:
    with tempfile.TemporaryDirectory() as temp:
        made = generate(Path(temp))
    if sys.argv[1:] != ["--check"]:
        OUT.mkdir(exist_ok=True)
        for name, text in made.items():
            (OUT / name).write_text(text)
        return 0
    stale = [name for name, text in made.items() if not (OUT / name).exists() or (OUT / name).read_text() != text]
    if stale:
        print(f"stale: {', '.join(stale)}; run python generate.py", file=sys.stderr)
    return 1 if stale else 0


def generate(temp: Path) -> dict[str, str]:
    venv.create(temp / "venv", with_pip=True)
    python = temp / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "-q", "install", TOOLS], check=True)
    out = temp / "out"
    out.mkdir()
    described = temp / "described"
    protos = [str(PROTO / "pitwarden" / "v1" / f"{name}.proto") for name in NAMES]
    arguments = [f"-I{PROTO}", f"--descriptor_set_out={described}", f"--pyi_out={out}", *protos]
    subprocess.run([python, "-m", "grpc_tools.protoc", *arguments], check=True)
    made = {path.name: path.read_text() for path in sorted((out / "pitwarden" / "v1").iterdir())}
    for file in FileDescriptorSet.FromString(described.read_bytes()).file:
        made[f"{Path(file.name).stem}_pb2.py"] = module(file)
    return made


def module(file: FileDescriptorProto) -> str:
    nested = [message.name for message in file.message_type if message.nested_type or message.enum_type]
    if file.enum_type or nested or file.dependency:
        raise SystemExit(f"{file.name}: _messages.py makes messages alone: no enums, imports or nested messages")
    for message in file.message_type:
        for field in message.field:
            # Derived from the field's name.
            field.ClearField("json_name")
    description = file.SerializeToString(deterministic=True)
    lines = "\n".join(f"    {description[n : n + 40]!r}" for n in range(0, len(description), 40))
    return f"""# Made by generate.py from {file.name}.
from ._messages import define

define(
    globals(),
    {file.name!r},
{lines},
)
"""


if __name__ == "__main__":
    sys.exit(main())
