# SPDX-License-Identifier: Apache-2.0
"""Runs added to flows: batch by batch it is the same as at once."""

from __future__ import annotations

import io
import random

import pytest
from capture.making import SYN, ethernet, handshake, ip, pcap, say, udp

from agentwall.capture.adding import Adder
from agentwall.capture.flows import MAX_MESSAGES, FlowTable
from agentwall.capture.headers import read_headers
from agentwall.capture.network import Walker
from agentwall.capture.records import Problems, read_batches
from agentwall.capture.streams import OVERHEAD


def _add(adder: Adder, frames: list, walker: Walker) -> None:
    for batch in read_batches(io.BytesIO(pcap(frames)), Problems("x")):
        adder.add(*read_headers(batch, walker))


def _conversations(frames: list, *, size: int) -> list:
    table, walker = FlowTable(), Walker()
    adder = Adder(table)
    for at in range(0, len(frames), size):
        _add(adder, frames[at : at + size], walker)
    return list(table.take_all())


def _traffic(chance: random.Random) -> list:
    frames = []
    for port in range(1000, 1006):
        isn, other = chance.randrange(1 << 32), chance.randrange(1 << 32)
        mine = handshake(isn, other, ports=(port, 80))
        for n in range(chance.randrange(40)):
            back = chance.random() < 0.5
            number = (other if back else isn) + 1 + 5 * (n - chance.choice([0, 0, 1]))
            mine.append(say(b"%05d" % n, back=back, sequence=number, ports=(port, 80)))
        frames.append(mine)
        frames.append([ethernet(ip(udp(b"%d" % n, (port, 53)), 17)) for n in range(5)])
    merged = []
    while any(frames):
        merged.append(chance.choice([mine for mine in frames if mine]).pop(0))
    return [(f, len(f), n * 0.7) for n, f in enumerate(merged)]


@pytest.mark.parametrize("seed", range(8))
def test_batches_do_not_matter(seed):
    """Where a batch ends changes nothing in what comes out."""
    frames = _traffic(random.Random(seed))
    at_once = _conversations(frames, size=len(frames))

    assert any(c.messages for c in at_once)
    for size in (1, 3, 17):
        assert _conversations(frames, size=size) == at_once


def test_messages_are_bounded():
    """The first messages of a flow are kept, across batches too."""
    frame = ethernet(ip(udp(b"x"), 17))
    frames = [(frame, len(frame), n * 0.1) for n in range(MAX_MESSAGES + 50)]
    (found,) = _conversations(frames, size=1000)

    assert len(found.messages) == MAX_MESSAGES
    assert found.packets == len(frames)


def test_what_grew():
    """It is known which flows' streams grew in the last batch."""
    table = FlowTable()
    adder = Adder(table)
    _add(adder, [say(sequence=0, flags=SYN), say(b"a", sequence=1)], Walker())

    assert [flow.sides[flow.first].stream.head for flow in adder.grown] == [b"a"]
    _add(adder, [say(sequence=2)], Walker())
    assert adder.grown == []


def test_held_bytes_add_up():
    """What flows hold is what their heads, datagrams and messages are."""
    table = FlowTable()
    _add(Adder(table), [say(b"abc", sequence=1), ethernet(ip(udp(b"defgh"), 17))], Walker())

    assert table.held == 3 + OVERHEAD + 5 + 2 * 16
    assert sum(flow.held for flow in table.flows.values()) == table.held
