# SPDX-License-Identifier: Apache-2.0
"""The pcapng format, whole and broken."""

from __future__ import annotations

import struct

import pytest
from capture.making import RAW, block, enhanced, interface, ip, option, read, say, section, udp

FRAME = say(b"a", sequence=1)
NS = 1_000_000_000


@pytest.mark.parametrize("order", ["<", ">"])
def test_enhanced(tmp_path, order):
    """Enhanced packet blocks in both byte orders, microseconds where nothing else is said."""
    data = section(order) + interface(order=order) + enhanced(FRAME, 1_500_000, order)
    (found,), result = read(tmp_path, data)

    assert found.begin_ns == NS * 3 // 2
    assert (result.packets, result.bytes, result.errors) == (1, len(FRAME), [])


@pytest.mark.parametrize(
    ("resolution", "ticks"),
    [(9, 1_500_000_000), (3, 1500), (0x80 | 10, 1536), (0, 1), (12, 1_500_000_000_000)],
)
def test_resolution(tmp_path, resolution, ticks):
    """Ticks are powers of 10 or of 2 a second, and an interface may count from elsewhere."""
    options = option(9, bytes([resolution])) + option(14, struct.pack("<q", 100)) + option(0, b"")
    data = section() + interface(options=options) + enhanced(FRAME, ticks)
    (found,), _ = read(tmp_path, data)

    assert found.begin_ns == 100 * NS + (NS if resolution == 0 else NS * 3 // 2)


def test_time_that_cannot_be(tmp_path):
    """Times beyond 64 bits of nanoseconds become the last that there is."""
    options = option(9, b"\x00")
    data = section() + interface(options=options) + enhanced(FRAME, (1 << 64) - 1)

    assert read(tmp_path, data)[0][0].begin_ns == (1 << 63) - 1


def test_interfaces_and_sections(tmp_path):
    """Each packet has the link type of its interface, each section interfaces of its own."""
    raw = ip(udp(b"b"), 17)
    data = section() + interface() + interface(RAW) + enhanced(FRAME) + enhanced(raw, number=1)
    data += section(">") + interface(RAW, ">") + enhanced(raw, order=">")
    found, result = read(tmp_path, data)

    assert [c.packets for c in found] == [1, 2]
    assert result.errors == []


def test_simple_and_old_blocks(tmp_path):
    """Simple packet blocks have no time, old ones count drops; others are passed over."""
    simple = block(3, struct.pack("<I", len(FRAME)) + FRAME)
    old = block(2, struct.pack("<HHIIII", 0, 7, 0, 5, len(FRAME), len(FRAME)) + FRAME)
    data = section() + interface() + simple + block(5, bytes(12)) + old + block(0xBAD, b"")
    (found,), result = read(tmp_path, data)

    assert (found.begin_ns, found.end_ns, found.packets) == (0, 5000, 2)
    assert result.errors == []


def test_simple_blocks_are_cut_at_the_snaplen(tmp_path):
    """A simple packet block is as long as the interface lets packets be."""
    simple = block(3, struct.pack("<I", 200) + FRAME[:54])
    (found,), _ = read(tmp_path, section() + interface(snaplen=54) + simple)

    assert found.packets == 1


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (enhanced(FRAME, number=5), "interface: expected below 1, got 5"),
        (block(6, bytes(8)), "packet block too short"),
        (
            block(6, struct.pack("<5I", 0, 0, 0, 4_000_000_000, 60) + FRAME),
            "captured length: expected at most 56, got 4000000000",
        ),
        (
            enhanced(FRAME)[:-4] + struct.pack("<I", 4),
            "block's second length differs, got 4",
        ),
    ],
)
def test_bad_blocks(tmp_path, bad, what):
    """A block that is wrong in itself is an error; those behind it are read."""
    data = section() + interface()
    found, result = read(tmp_path, data + bad + enhanced(FRAME))

    assert [(error.what, error.offset) for error in result.errors] == [(what, len(data))]
    assert found[0].client_head == b"a"


@pytest.mark.parametrize("length", [0, 8, 0xFFFFFFFF, 0x7FFFFFF0])
def test_lengths_that_cannot_be(tmp_path, length):
    """A length that leads nowhere ends the reading with an error."""
    data = section() + interface() + enhanced(FRAME) + struct.pack("<II", 6, length) + bytes(60)
    found, result = read(tmp_path, data)

    assert (len(found), len(result.errors)) == (1, 1)
    assert result.errors[0].what.endswith(f"got {length}")


def test_simple_block_without_interface(tmp_path):
    """A packet of no interface has no link type."""
    simple = block(3, struct.pack("<I", len(FRAME)) + FRAME)
    found, result = read(tmp_path, section() + simple)

    assert (found, len(result.errors)) == ([], 1)


def test_order_that_cannot_be(tmp_path):
    """A section must say its byte order."""
    data = section()[:8] + b"\1\2\3\4" + section()[12:]

    assert read(tmp_path, data)[1].errors[0].what == "byte order: expected 1a2b3c4d, got 01020304"


@pytest.mark.parametrize("kept", [3, 12, 30, 28 + 54, 28 + 55])
def test_cut_short(tmp_path, kept):
    """A last block that is cut short is an error and no packet; what it says counts."""
    data = section() + interface() + enhanced(say(sequence=0)) + enhanced(FRAME)[:kept]
    (found,), result = read(tmp_path, data)

    assert (result.packets, len(result.errors)) == (1, 1)
    assert found.client_head == (b"a" if kept == 28 + 55 else b"")
