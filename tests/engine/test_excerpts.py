# SPDX-License-Identifier: Apache-2.0
"""Excerpts of flows become conversations, within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.sights import ATTEMPT, excerpt

from agentwall.engine.excerpts import (
    MAX_FLOWS,
    MAX_SIDE_BYTES,
    Excerpts,
    conversation_of,
    key_of,
)
from agentwall.flow.finding import DetectionClass
from agentwall.flow.verdict import Direction
from agentwall.policy.model import Response

KEY = key_of(ATTEMPT)
MINING = DetectionClass.MINING


def test_both_sides():
    """Pieces of each side follow each other; times, ends and sizes are those of the flow."""
    flows = Excerpts()
    flows.add(excerpt(b'{"id":', 0))
    flows.add(excerpt(b'{"result":', 0, from_client=False, mono_ns=2000))
    flows.add(excerpt(b" 1}\n", 6, mono_ns=3000))

    found = flows.conversation(KEY)
    assert (found.client_head, found.server_head) == (b'{"id": 1}\n', b'{"result":')
    assert (found.client_cuts, found.server_cuts) == ((0, 6), (0,))
    assert (found.client_bytes, found.server_bytes, found.packets) == (10, 10, 3)
    assert (found.begin_ns, found.end_ns) == (1000, 3000)
    assert (found.client, found.server) == (ATTEMPT.local, ATTEMPT.remote)
    assert not found.is_midstream


def test_inward():
    """Of a flow from outside the remote end is the client."""
    flows = Excerpts()
    flows.add(excerpt(b"x", 0, direction=Direction.IN))

    found = flows.conversation(KEY)
    assert (found.client, found.server) == (ATTEMPT.remote, ATTEMPT.local)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60))))
def test_pieces(stream, pieces):
    """Whatever is sent again, the head is what was said from where it begins, without a hole."""
    flows = Excerpts()
    for position, size in sorted(pieces):
        flows.add(excerpt(stream[position : position + size], min(position, len(stream))))
    if not pieces:
        return

    found = flows.conversation(KEY)
    if not found.is_midstream and not found.client_head.startswith(b'{"'):
        assert stream.startswith(found.client_head)
    assert found.client_head.removeprefix(b"{") in stream or found.client_head in stream
    assert found.client_bytes <= len(stream)


def test_again():
    """What was seen before is no reason to look again."""
    flows = Excerpts()

    assert flows.add(excerpt(b"abc", 0))
    assert not flows.add(excerpt(b"bc", 1))
    assert flows.add(excerpt(b"bcde", 1))
    assert flows.conversation(KEY).client_head == b"abcde"


def test_hole():
    """Behind a hole a side is read anew, as if seen from the middle."""
    flows = Excerpts()
    flows.add(excerpt(b"GET / HTTP/1.1\r\n", 0))
    flows.add(excerpt(b"\x81\x85", 1500))
    flows.add(excerpt(b"frame", 1502))

    found = flows.conversation(KEY)
    assert found.client_head == b"\x81\x85frame"
    assert found.client_cuts == (0, 2)
    assert found.is_midstream
    assert flows.passed(KEY, from_client=True) == 1507


@pytest.mark.parametrize(
    ("first", "head", "is_midstream"),
    [(b'"id": 1}', b'{"id": 1}', False), (b' "id"', b'{ "id"', False), (b"id", b"id", True)],
)
def test_brace(first, head, is_midstream):
    """JSON is handed over at its first quotation mark, behind a brace in a packet of its own."""
    flows = Excerpts()
    flows.add(excerpt(first, 1))

    found = flows.conversation(KEY)
    assert (found.client_head, found.is_midstream) == (head, is_midstream)


def test_bytes_are_bounded():
    """Of a side only so much is kept; what comes then is counted and not looked at."""
    flows = Excerpts()
    for position in range(0, MAX_SIDE_BYTES + 4096, 1024):
        grew = flows.add(excerpt(b"x" * 1024, position))

    assert not grew
    assert len(flows.conversation(KEY).client_head) == MAX_SIDE_BYTES
    assert flows.passed(KEY, from_client=True) == MAX_SIDE_BYTES + 4096


def test_flows_are_bounded():
    """The one heard of longest ago goes, and is counted."""
    flows = Excerpts()
    for cookie in range(1, MAX_FLOWS + 1):
        flows.add(excerpt(b"a", 0, cookie=cookie))
    flows.add(excerpt(b"b", 1, cookie=1))
    flows.add(excerpt(b"a", 0, cookie=MAX_FLOWS + 1))

    assert flows.dropped == 1
    assert flows.conversation((1, False, 0)).client_head == b"ab"
    with pytest.raises(KeyError):
        flows.conversation((2, False, 0))


def test_telling():
    """A dialect is told of once a flow, and once more if it becomes graver."""
    flows = Excerpts()
    flows.add(excerpt(b"a", 0))

    assert not flows.tell(KEY, MINING, "x", Response.OFF)
    assert flows.tell(KEY, MINING, "x", Response.ALERT)
    assert not flows.tell(KEY, MINING, "x", Response.ALERT)
    assert flows.tell(KEY, MINING, "x", Response.BLOCK)
    assert not flows.tell(KEY, MINING, "x", Response.ALERT)
    assert flows.tell(KEY, MINING, "y", Response.ALERT)


def test_end():
    """A flow that was cut is not looked at again, whatever is still on its way."""
    flows = Excerpts()
    flows.add(excerpt(b"a", 0))
    flows.end(ATTEMPT)

    assert not flows.add(excerpt(b"b", 1))


def test_udp():
    """Datagrams are not put together."""
    assert not Excerpts().add(excerpt(b"a", 0, protocol=17))


def test_one_side():
    """All that one side has said makes a conversation, and so it does without addresses."""
    found = conversation_of(replace(ATTEMPT, local=None), b"hello", from_client=False)

    assert (found.client_head, found.server_head) == (b"", b"hello")
    assert found.client.port == 0
