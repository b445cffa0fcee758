# SPDX-License-Identifier: Apache-2.0
"""Event files and captures told apart by what they begin with."""

from __future__ import annotations

import gzip
import os

import pytest
from capture.making import interface, pcap, section

from agentwall.cli.audit_inputs import sort_inputs
from agentwall.cli.event_files import CAPTURE_MAGICS

EVENT = b'{"schema":"agentwall.event/1"}\n'


@pytest.mark.parametrize(
    ("name", "content", "is_capture"),
    [
        ("x", pcap([]), True),
        ("x", pcap([], order=">"), True),
        ("x", pcap([], nanoseconds=True), True),
        ("x", section() + interface(), True),
        ("x", gzip.compress(pcap([])), True),
        ("x", EVENT, False),
        ("x", b"", False),
        ("x", gzip.compress(EVENT), False),
        ("x", b"\x1f\x8bbroken", False),
        ("x.pcap", b"", True),
        ("x.PCAPNG", b"text", True),
        ("x.pcap.gz", b"\x1f\x8bbroken", True),
        ("x.jsonl", b"text", False),
    ],
)
def test_named_files(tmp_path, name, content, is_capture):
    """The first bytes decide; a name that says capture makes a broken one of what is none."""
    path = tmp_path / name
    path.write_bytes(content)
    found = sort_inputs([str(path)])

    assert found.problems == []
    assert (found.captures, found.events) == (
        ([str(path)], []) if is_capture else ([], [str(path)])
    )


def test_directories(tmp_path):
    """Those below count as well; what is neither is left alone, and order is by name."""
    for name, content in {
        "b.jsonl": EVENT,
        "a.pcap": pcap([]),
        "deep/er/c": pcap([]),
        "deep/d.jsonl": EVENT,
        "notes.txt": b"text",
        "e.json": b"{}",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = sort_inputs([str(tmp_path)])

    assert [os.path.relpath(path, tmp_path) for path in found.captures] == ["a.pcap", "deep/er/c"]
    assert [os.path.relpath(path, tmp_path) for path in found.events] == ["b.jsonl", "deep/d.jsonl"]


def test_what_is_not_there(tmp_path):
    """A missing file and a directory without inputs are problems; doubles are read once."""
    capture = tmp_path / "x.pcap"
    (tmp_path / "empty").mkdir()
    capture.write_bytes(pcap([]))
    found = sort_inputs([str(tmp_path / "gone"), str(tmp_path / "empty"), *[str(capture)] * 2])

    assert found.captures == [str(capture)]
    assert found.problems == [
        f"{tmp_path}/gone: No such file or directory",
        f"{tmp_path}/empty: expected event files (*.jsonl) or captures in the directory, got none",
    ]


def test_a_pipe_is_not_looked_into(tmp_path):
    """What can be read only once is left to whoever reads it: nobody waits for a writer here."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    assert sort_inputs([str(pipe)]).events == [str(pipe)]


def test_magics():
    """Every format that is read is known by its first four bytes."""
    from agentwall.capture.pcap import PCAP_MAGICS
    from agentwall.capture.pcapng import SECTION_HEADER

    assert {*CAPTURE_MAGICS} == {*PCAP_MAGICS, SECTION_HEADER}
