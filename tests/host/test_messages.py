# SPDX-License-Identifier: Apache-2.0
"""Messages between agentwall and process 1 of a sandbox."""

from __future__ import annotations

import pytest

from agentwall.host.messages import Message, Word, make_channel, receive, send


@pytest.mark.parametrize(
    "message",
    [
        Message(Word.READY),
        Message(Word.SIGNAL, 15),
        Message(Word.FAILED, 0, "mount /a b: no\nway"),
        Message(Word.EXITED, 0x8B),
    ],
)
def test_round_trip(message):
    """A message arrives as it was sent, text with blanks and line ends included."""
    ours, theirs = make_channel()
    with ours, theirs:
        send(ours, message.word, message.number, message.text)

        assert receive(theirs) == message


def test_kept_apart():
    """Two messages arrive as two."""
    ours, theirs = make_channel()
    with ours, theirs:
        send(ours, Word.RUN)
        send(ours, Word.SIGNAL, 2)

        assert [receive(theirs).word, receive(theirs).word] == [Word.RUN, Word.SIGNAL]


def test_other_end_gone():
    """Nobody to talk to is an end, not an error."""
    ours, theirs = make_channel()
    theirs.close()
    with ours:
        send(ours, Word.RUN)

        assert receive(ours) is None


def test_long_text():
    """A text that is too long is cut, not refused."""
    ours, theirs = make_channel()
    with ours, theirs:
        send(ours, Word.FAILED, text="x" * 100_000)

        assert receive(theirs).text.startswith("xxx")
