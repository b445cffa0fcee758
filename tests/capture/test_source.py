# SPDX-License-Identifier: Apache-2.0
"""Files, directories, compressed data."""

from __future__ import annotations

import gzip
import os
import threading

import pytest

from agentwall.capture.source import ReadError, capture_paths, open_source


def _all(path, size=1000) -> bytes:
    with open_source(str(path)) as (reader, _):
        parts = []
        while part := reader.read(size):
            assert len(part) <= size
            parts.append(part)
    return b"".join(parts)


def test_plain_file(tmp_path):
    """A file is read to its end, and its size is known."""
    (tmp_path / "x").write_bytes(b"a" * 2500)

    assert _all(tmp_path / "x") == b"a" * 2500
    with open_source(str(tmp_path / "x")) as (_, size):
        assert size == 2500


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_gzip(tmp_path, size):
    """Members of gzip follow each other; never more comes at once than was asked for."""
    data = gzip.compress(b"abc" * 100) + gzip.compress(b"") + gzip.compress(b"def" * 100)
    (tmp_path / "x").write_bytes(data + bytes(100))

    assert _all(tmp_path / "x", size) == b"abc" * 100 + b"def" * 100


def test_gzip_cut_short(tmp_path):
    """What there is of compressed data comes before the error."""
    data = gzip.compress(os.urandom(5000))
    (tmp_path / "x").write_bytes(data[:-100])
    with open_source(str(tmp_path / "x")) as (reader, _):
        assert len(reader.read(100)) == 100
        while len(reader.read(500)) == 500:
            pass
        with pytest.raises(ReadError, match="ends before it is whole"):
            reader.read(500)


def test_broken_gzip(tmp_path):
    """Bytes that are no compressed data are an error, once."""
    (tmp_path / "x").write_bytes(b"\x1f\x8b\x08\x00" + b"\xff" * 50)
    with open_source(str(tmp_path / "x")) as (reader, _):
        with pytest.raises(ReadError, match="broken gzip data"):
            reader.read(100)
        assert reader.read(100) == b""


def test_a_bomb_is_read_in_pieces(tmp_path):
    """A file that is a thousand times its size comes in pieces of the size asked for."""
    (tmp_path / "x").write_bytes(gzip.compress(bytes(20 << 20)))

    assert len(_all(tmp_path / "x", 1 << 16)) == 20 << 20


def test_named_pipe(tmp_path):
    """A pipe is read as it is written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"abc",))
    writer.start()

    assert _all(path) == b"abc"
    writer.join()


def test_paths(tmp_path):
    """Directories give their files, sorted; broken links inside are passed over."""
    for name in ("b/2", "b/1", "a", "c/d/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "broken").symlink_to("nowhere")
    found, problems = capture_paths(["-", "gone", str(tmp_path)])

    assert found == ["-", "gone", *(str(tmp_path / n) for n in ("a", "b/1", "b/2", "c/d/e"))]
    assert problems == []
