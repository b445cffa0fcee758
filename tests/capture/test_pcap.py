# SPDX-License-Identifier: Apache-2.0
"""The pcap format, whole and broken."""

from __future__ import annotations

import struct

import pytest
from capture.making import RAW, START_S, ip, pcap, read, say, udp

from agentwall.capture.source import CHUNK

NS = 1_000_000_000


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_kinds(tmp_path, order, nanoseconds):
    """Both byte orders, with microseconds and nanoseconds."""
    frame = say(b"a", sequence=1)
    data = pcap([(frame, len(frame), 1.25)], order=order, nanoseconds=nanoseconds)
    (found,), result = read(tmp_path, data)

    assert found.begin_ns == START_S * NS + NS * 5 // 4
    assert (result.packets, result.bytes, result.errors) == (1, len(frame), [])


def test_patched_kind(tmp_path):
    """The records of Kuznetzov's libpcap have 8 bytes more."""
    frame = say(b"a", sequence=1)
    head = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    record = struct.pack("<IIII8x", 1, 0, len(frame), len(frame)) + frame
    found, result = read(tmp_path, head + record * 3)

    assert (result.packets, found[0].packets, result.errors) == (3, 3, [])


def test_link_type_with_checksum_bits(tmp_path):
    """The upper bits of the link type say something else."""
    data = pcap([ip(udp(b"a"), 17)], link=RAW | 0x14000000)

    assert len(read(tmp_path, data)[0]) == 1


@pytest.mark.parametrize("kept", [1, 15, 16, 17, 40, 80])
def test_cut_short(tmp_path, kept):
    """A last record that is cut short is an error and no packet; what it says counts."""
    whole = pcap([say(b"a", sequence=1), say(b"b" * 20, sequence=2)])
    second = 24 + 16 + 55
    found, result = read(tmp_path, whole[: second + kept])

    assert result.packets == 1
    assert [str(error) for error in result.errors] == [
        f"{tmp_path}/x.pcap: record cut short, {kept} bytes of it are there at byte {second}"
    ]
    assert found[0].client_head == b"a" + b"b" * max(0, kept - 16 - 54)


def test_length_that_cannot_be(tmp_path):
    """A record of 4 GiB is an error where it stands; what comes before it is read."""
    data = pcap([say(b"a", sequence=1)]) + struct.pack("<IIII", 1, 0, 0xFFFFFFFF, 60) + bytes(60)
    found, result = read(tmp_path, data)

    assert len(found) == 1
    assert result.errors[0].what == "record length: expected at most 1048576, got 4294967295"
    assert result.errors[0].offset == 24 + 16 + 55


def test_length_on_the_wire_that_cannot_be(tmp_path):
    """A packet was at least as long as what is there of it."""
    (found,), result = read(tmp_path, pcap([(say(b"abc", sequence=1), 0)]))

    assert (found.client_head, found.client_bytes, result.errors) == (b"abc", 3, [])


def test_records_across_chunks(tmp_path):
    """Records that lie across the end of a chunk are whole all the same."""
    frame = say(bytes(1400), sequence=1)
    count = 2 * CHUNK // len(frame) + 10
    (found,), result = read(tmp_path, pcap([frame] * count))

    assert (result.packets, found.packets, result.errors) == (count, count, [])
