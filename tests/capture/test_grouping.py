# SPDX-License-Identifier: Apache-2.0
"""Packets sorted by flow, and cut into runs."""

from __future__ import annotations

import io
import random
from collections import Counter

from capture.making import (
    ACK,
    CLIENT,
    SERVER,
    SYN,
    SYN_ACK,
    ethernet,
    handshake,
    ip,
    pcap,
    say,
    udp,
)

from agentwall.capture.grouping import Grouped
from agentwall.capture.headers import read_headers
from agentwall.capture.network import Walker
from agentwall.capture.records import Problems, read_batches


def _grouped(frames: list[bytes]) -> Grouped:
    (batch,) = read_batches(io.BytesIO(pcap(frames)), Problems("x"))
    return Grouped(read_headers(batch, Walker())[0])


def test_both_directions_are_one_flow():
    """A flow's key is the same in both directions; sums are by side."""
    frames = [say(b"abc", sequence=10), say(b"defg", back=True, sequence=20)]
    (run,) = _grouped(frames).runs()
    _, protocol, packets, *_, a_bytes, a_low, a_high, b_bytes, b_low, b_high = run

    assert (protocol, packets) == (6, 2)
    assert sorted([(a_bytes, a_low, a_high), (b_bytes, b_low, b_high)]) == [
        (3, 10, 13),
        (4, 20, 24),
    ]


def test_sequence_numbers_wrap():
    """The lowest and the highest are by what came first, not by size."""
    frames = [say(b"x" * 8, sequence=n) for n in (0xFFFFFFFC, 4, 0xFFFFFFF4)]
    (run,) = _grouped(frames).runs()

    assert (24, 0xFFFFFFF4, 12) in (run[-6:-3], run[-3:])


def test_runs_begin_at_syns():
    """Each SYN begins a run, an answer only where no SYN is before it."""
    frames = [*handshake(), say(sequence=9, flags=SYN), say(b"a", sequence=10)]
    frames += [say(back=True, sequence=7, acknowledged=1, flags=SYN_ACK), say(b"b", sequence=11)]
    runs = list(_grouped(frames).runs())

    assert [run[2] for run in runs] == [3, 2, 2]
    assert [run[6] for run in runs] == [SYN, SYN, SYN_ACK]
    assert [run[8] for run in runs] == [SYN | SYN_ACK | ACK, SYN | ACK, SYN_ACK | ACK]
    assert len({run[0] for run in runs}) == 1


def test_runs_are_in_time():
    """Runs come in the order of their first packets, whatever the hash does."""
    chance = random.Random(5)
    frames = [
        ethernet(ip(udp(b"x", (chance.randrange(50), 7)), 17, CLIENT, SERVER)) for _ in range(500)
    ]
    runs = [run[0] for run in _grouped(frames).runs()]
    ports = [int.from_bytes(frame[34:36], "big") for frame in frames]
    found = [max(key[32] + 256 * key[33], key[34] + 256 * key[35]) for key in runs]
    counts = Counter(ports)

    assert len(set(runs)) == len(runs) == len(counts)
    assert found == [max(port, 7) for port in dict.fromkeys(ports)]


def test_payloads():
    """Packets with payload, by flow; a SYN's own number lies before its data."""
    grouped = _grouped([say(sequence=5), say(b"ab", sequence=5, flags=SYN), say(b"c", sequence=8)])
    payloads = grouped.payloads()

    assert (payloads.sequences, payloads.sizes) == ([6, 8], [2, 1])
    assert [e - b for b, e in zip(payloads.begins, payloads.ends, strict=True)] == [2, 1]
    assert len(payloads.messages) == 32


def test_answers():
    """Of a SYN+ACK its side, its number and what it acknowledges can be asked."""
    grouped = _grouped(handshake(isn=1000, other=5000))
    ((*_,),) = runs = [list(run) for run in grouped.runs()]
    side, sequence, acknowledged = grouped.answer(runs[0][9])

    assert side != runs[0][5]
    assert (sequence, acknowledged) == (5000, 1001)
