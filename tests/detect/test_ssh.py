# SPDX-License-Identifier: Apache-2.0
"""SSH names its software at the start of each side, or after lines of text."""

from __future__ import annotations

import pytest
from rig.dialogues import conversation

from agentwall.detect.decode import decode
from agentwall.detect.ssh import MAX_BEFORE, Identification, read_identification


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\x00", Identification("2.0", "OpenSSH_9.2p1", True)),
        (b"SSH-1.99-x\n", Identification("1.99", "x", True)),
        (b"Welcome\r\n\xc3\xa4\r\nSSH-2.0-x\r\n", Identification("2.0", "x", False)),
        (b"\n" * MAX_BEFORE + b"SSH-2.0-x", None),
        (b"a\x00b\nSSH-2.0-x", None),
        (b"say SSH-2.0-x", None),
        (b"SSH-2.0-", None),
        (b"", None),
    ],
)
def test_identification(stream, expected):
    """It begins a line, and only text stands before it."""
    assert read_identification(stream) == expected


def test_text_alone_is_no_ssh():
    """A document with such a line is SSH only if the other side begins with it."""
    text, said = b"Banner\nSSH-2.0-x\r\n", b"SSH-2.0-y\r\n"

    assert decode(conversation(b"", text)) == []
    assert decode(conversation(text, text)) == []
    assert [f.dialect for f in decode(conversation(said, text))] == ["ssh"]
    assert [f.dialect for f in decode(conversation(b"", said))] == ["ssh"]
