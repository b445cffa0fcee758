# SPDX-License-Identifier: Apache-2.0
"""QUIC is told by its long header, and RTP, STUN and DTLS are not taken for it."""

from __future__ import annotations

import pytest

from agentwall.detect.quic import is_quic


def packet(first: int, version: int, *, destination: int = 8, source: int = 0) -> bytes:
    """Return a datagram of 1 200 octets with a long header."""
    head = bytes([first]) + version.to_bytes(4) + bytes([destination]) + bytes(destination)
    return (head + bytes([source])).ljust(1200, b"\0")


@pytest.mark.parametrize("version", [0, 1, 0x6B3343CF, 0xFF00001D, 0x1A2A3A4A])
def test_quic(version):
    """Of every version, known or not, and whatever its packet type."""
    for first in range(0xC0, 0x100):
        assert is_quic(packet(first, version))


def test_greased_bit():
    """Without the fixed bit a version in use tells."""
    assert is_quic(packet(0x80, 1))
    assert not is_quic(packet(0x80, 0x1A2A3A4A))


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", packet(0xC0, 1)[:1199], packet(0x40, 1), packet(0xC0, 1, destination=21)),
        *(packet(0xC0, 1, source=21), b"\xe3\0\x06\xec" + bytes(44), b"\x16\xfe\xfd" + bytes(60)),
        b"\x80\x60\x12\x34\x00\x00\x10\x00\xde\xad\xbe\xef" + bytes(1300),
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
    ],
)
def test_other_datagrams(payload):
    """Too short, ids too long, a short header, NTP, DTLS, RTP, STUN."""
    assert not is_quic(payload)
