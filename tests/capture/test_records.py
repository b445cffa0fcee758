# SPDX-License-Identifier: Apache-2.0
"""What kind of file it is, windows onto it, and how many problems are kept."""

from __future__ import annotations

import io

import pytest
from capture.making import pcap

from agentwall.capture.records import MAX_ERRORS, CaptureError, Problems, Window, read_batches
from agentwall.capture.source import ReadError


class _Broken(io.BytesIO):
    def read(self, size=-1):
        data = super().read(size)
        if not data:
            raise ReadError("cable pulled")
        return data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty file"),
        (b"PK", "expected pcap or pcapng, got a file that begins 504b"),
        (b"\x00\x00\x00\x00rest", "expected pcap or pcapng, got a file that begins 00000000"),
        (pcap([])[:20], "file header cut short"),
    ],
)
def test_no_capture(data, what):
    """What is no capture is said to be none."""
    problems = Problems("x")

    assert list(read_batches(io.BytesIO(data), problems)) == []
    assert problems.errors == [CaptureError("x", what, 0)]


def test_a_source_that_breaks():
    """What was read before a source broke is used; the error says where."""
    problems = Problems("x")
    batches = list(read_batches(_Broken(pcap([b"a" * 60])), problems))

    assert [len(batch.offsets) for batch in batches] == [1]
    assert str(problems.errors[0]) == "x: cable pulled at byte 100"


def test_problems_are_bounded():
    """Only the first problems are kept, the others counted."""
    problems = Problems("x")
    for number in range(MAX_ERRORS + 3):
        problems.add("what", number)

    assert (len(problems.errors), problems.more) == (MAX_ERRORS, 3)
    assert str(CaptureError("x", "what", None)) == "x: what"


def test_window():
    """A window keeps what was not used, and knows where it is."""
    window = Window(io.BytesIO(b"0123456789"), Problems("x"))

    assert window.need(4)
    window.at = 4
    assert window.need(6)
    assert not window.need(7)
    assert (window.data[: window.size], window.base, window.left) == (b"456789", 4, 6)
