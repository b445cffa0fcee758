# SPDX-License-Identifier: Apache-2.0
"""All headers of a batch at once: the same as one by one."""

from __future__ import annotations

import io
import random
from dataclasses import fields

import numpy as np
import pytest
from capture.making import CLIENT6, SERVER6, ethernet, ip, pcap, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.capture.headers import Packets, end_packets, read_headers
from agentwall.capture.network import Walker
from agentwall.capture.records import Problems, read_batches


def _read(packets: list[bytes], link: int = 1) -> tuple[Packets, bytes]:
    (batch,) = read_batches(io.BytesIO(pcap(packets, link)), Problems("x"))
    return read_headers(batch, Walker())


def _rows(packets: Packets, data: bytes) -> list[tuple]:
    # As the slow way has them: addresses, protocol, ports, flags, numbers, payload, its size.
    rows = []
    for n in range(len(packets.order)):
        size = 16 if packets.is_v6[n] else 4
        high = (1 << 64) if packets.is_v6[n] else 0
        source = int(packets.source_high[n]) * high + int(packets.source[n])
        destination = int(packets.destination_high[n]) * high + int(packets.destination[n])
        start = int(packets.start[n])
        is_tcp = packets.protocol[n] == 6
        rows.append(
            (
                int(packets.order[n]),
                source.to_bytes(size, "big"),
                destination.to_bytes(size, "big"),
                int(packets.protocol[n]),
                int(packets.source_port[n]),
                int(packets.destination_port[n]),
                int(packets.flags[n]),
                int(packets.sequence[n]) if is_tcp else 0,
                int(packets.acknowledged[n]) if is_tcp else 0,
                data[start : start + int(packets.captured[n])],
                int(packets.size[n]),
            )
        )
    return rows


def _one_by_one(packets: list[bytes], link: int) -> list[tuple]:
    walker = Walker()
    return [
        (
            number, found.source, found.destination, found.protocol, found.source_port,
            found.destination_port, found.flags, found.sequence, found.acknowledged,
            found.payload, found.size,
        )
        for number, packet in enumerate(packets)
        for found in walker.walk(link, packet, len(packet))
    ]  # fmt: skip


def _random_packet(chance: random.Random) -> bytes:
    payload = chance.randbytes(chance.randrange(30))
    ports = (chance.choice([53, 4789, 40000]), chance.choice([2152, 443, 80]))
    flags = chance.randrange(256)
    kind, body = chance.choice(
        [
            (6, tcp(payload, ports=ports, sequence=chance.randrange(1 << 32), flags=flags)),
            (17, udp(payload, ports)),
            (1, bytes([chance.choice([0, 8, 3]), 0, 0, 0, 0, 0, 0, 0]) + payload),
            (58, bytes([chance.choice([128, 129, 135]), 0, 0, 0, 0, 0, 0, 0]) + payload),
            (132, payload),
            (4, ip(udp(payload), 17)),
            (44, b"\x11\0\0\0\0\0\0\1" + udp(payload)),
        ]
    )
    if chance.random() < 0.4:
        packet, ethertype = ip(body, kind, CLIENT6, SERVER6), 0x86DD
    else:
        fragment = chance.choice([0, 0, 0, 0, 0x4000, 0x2000])
        packet, ethertype = ip(body, kind, fragment=fragment), 0x0800
    if chance.random() < 0.2:
        packet, ethertype = b"\0\5" + ethertype.to_bytes(2, "big") + packet, 0x8100
    return ethernet(packet, ethertype)


def _spoilt(packet: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(packet)
    for _ in range(chance.choice([0, 0, 1, 3])):
        spoilt[chance.randrange(12, len(spoilt))] = chance.randrange(256)
    if chance.random() < 0.3:
        del spoilt[chance.randrange(len(spoilt)) :]
    return bytes(spoilt) + bytes(chance.choice([0, 0, 6]))


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_quick_way_reads_as_the_slow_way(seed):
    """Valid and spoilt packets, all at once and one by one, are read the same."""
    chance = random.Random(seed)
    packets = [_spoilt(_random_packet(chance), chance) for _ in range(60)]

    assert _rows(*_read(packets)) == _one_by_one(packets, 1)


@pytest.mark.parametrize(("link", "head"), [(113, 14), (276, 0), (101, None)])
def test_other_quick_links(link, head):
    """Linux cooked and raw packets are read the same both ways."""
    chance = random.Random(link)
    packets = []
    for _ in range(100):
        frame = _random_packet(chance)
        kind, body = frame[12:14], frame[14:]
        fill = {113: bytes(14) + kind, 276: kind + bytes(18), 101: b""}[link]
        packets.append(_spoilt(fill + body, chance) or b"\0")

    assert _rows(*_read(packets, link)) == _one_by_one(packets, link)
    assert head is None or packets


def test_empty_packets():
    """Packets of no bytes, and of a few, are nothing."""
    packets, _ = _read([b"", b"\x45", bytes(13), bytes(14)])

    assert all(len(getattr(packets, part.name)) == 0 for part in fields(packets))


def test_take():
    """Some of the packets, by a mask."""
    packets, _ = _read([ethernet(ip(udp(b"a", (1, n)), 17)) for n in range(4)])
    some = packets.take(np.array([True, False, False, True]))

    assert some.destination_port.tolist() == [0, 3]


def test_what_is_left_at_the_end():
    """Fragments that stay alone come at the end, with the time that is given."""
    walker = Walker()
    walker.walk(1, ethernet(ip(udp(b"0123456789abcdef"), 17, fragment=0x2000)), 58)
    packets, data = end_packets(walker, 7)

    assert (packets.times_ns.tolist(), data) == ([7], b"0123456789abcdef")
