# SPDX-License-Identifier: Apache-2.0
"""Messages that are made as they are looked at."""

from __future__ import annotations

from array import array

from agentwall.capture.messages import Messages
from agentwall.detect.conversation import Message

NUMBERS = array("q", [10, 7, 30, 8, 20, 5])
EXPECTED = (Message(10, 3, True), Message(20, 2, True), Message(30, 4, False))


def test_as_a_sequence():
    """They have a length, an order of time, indices and slices like a tuple."""
    messages = Messages(NUMBERS, 1)

    assert messages == EXPECTED
    assert tuple(messages) == EXPECTED
    assert (len(messages), messages[0], messages[-1]) == (3, EXPECTED[0], EXPECTED[2])
    assert (messages[1:], list(reversed(messages))) == (EXPECTED[1:], list(reversed(EXPECTED)))


def test_which_side():
    """The other side being the client turns them round."""
    assert [m.from_client for m in Messages(NUMBERS, 0)] == [False, False, True]


def test_inequality():
    """They equal no other sequence."""
    messages = Messages(NUMBERS, 1)

    assert messages != EXPECTED[:2]
    assert messages != (*EXPECTED[:2], EXPECTED[0])
    assert messages != 3
