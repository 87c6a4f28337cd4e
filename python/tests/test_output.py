"""Output to files: on a full disk, and when the files get too long."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from pitwarden import _output
from pitwarden._output import FILE_KEPT_BYTES, FILE_MAX_BYTES, LossyFile

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the streams after a test."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


@LINUX
@pytest.mark.usefixtures("streams")
def test_output_that_a_full_disk_does_not_accept_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="latin-1") as full:
        monkeypatch.setattr(sys, "stdout", full)
        _output.survive_full_disk()
        print("x" * 100_000)
        print("é", file=sys.__stdout__)
        assert (sys.stdout.encoding, sys.stdout.name, sys.stdout.mode) == ("latin-1", "/dev/full", "w")
        assert sys.stdout.line_buffering


@pytest.mark.usefixtures("streams")
def test_a_line_is_written_as_soon_as_it_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        file.write("before ")
        _output.survive_full_disk()
        sys.stderr.write("half")
        assert path.read_text() == "before "
        sys.stderr.write(" and half\n")
        assert path.read_text() == "before half and half\n"


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_an_output_stream_that_was_replaced_or_closed_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, stream: object
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    _output.survive_full_disk()
    assert sys.stdout is stream


@pytest.mark.parametrize("number", [errno.EBADF, errno.EPIPE])
def test_errors_other_than_a_full_disk_are_raised(number: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    if number == errno.EBADF:
        os.close(writer)
        writer = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(number)):
        LossyFile(writer, "w").write(b"x")


SIZES = {
    "short": (FILE_MAX_BYTES - 4096, False),
    "long": (FILE_MAX_BYTES + FILE_KEPT_BYTES, True),
}


@LINUX
@pytest.mark.parametrize("name", SIZES)
def test_shortening_a_long_file_keeps_its_size_and_its_newest_part(tmp_path: Path, name: str) -> None:
    size, is_shortened = SIZES[name]
    punch_hole = _output._hole_puncher()
    assert punch_hole is not None
    path = tmp_path / "out"
    path.write_bytes(b"x" * size)
    with path.open("ab") as file:
        os.fsync(file.fileno())
        _output.shorten(file.fileno(), punch_hole)
        assert path.stat().st_size == size
        content = path.read_bytes()
        assert content.count(b"x") == (FILE_KEPT_BYTES if is_shortened else size)
        assert content.endswith(b"x" * FILE_KEPT_BYTES)
        if is_shortened:
            assert path.stat().st_blocks * 512 < 2 * FILE_KEPT_BYTES
        # Shortening again changes nothing.
        _output.shorten(file.fileno(), punch_hole)
        assert path.read_bytes() == content


def test_shortening_ignores_descriptors_that_are_not_files() -> None:
    punched: list[int] = []
    reader, writer = os.pipe()
    _output.shorten(writer, lambda fd, _: punched.append(fd))
    os.close(reader)
    os.close(writer)
    _output.shorten(writer, lambda fd, _: punched.append(fd))
    assert punched == []
