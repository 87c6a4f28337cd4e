"""Makes src/pitwarden/_pb again from proto/: `python generate.py`, or `python generate.py --check` to only compare.

The modules must be made by the oldest protobuf that the SDK accepts, so the tool's version is pinned here and lives in
a virtual environment of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

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
    protos = [str(PROTO / "pitwarden" / "v1" / f"{name}.proto") for name in NAMES]
    arguments = [f"-I{PROTO}", f"--python_out={out}", f"--pyi_out={out}", *protos]
    subprocess.run([python, "-m", "grpc_tools.protoc", *arguments], check=True)
    made = {path.name: relative(path.read_text()) for path in sorted((out / "pitwarden" / "v1").iterdir())}
    made["__init__.py"] = ""
    return made


def relative(text: str) -> str:
    # protoc writes imports from the root of the proto tree, where our package does not live.
    return re.sub(r"^from pitwarden\.v1 import", "from . import", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
