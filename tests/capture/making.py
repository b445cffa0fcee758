# SPDX-License-Identifier: Apache-2.0
"""Captures made of bytes, for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from agentwall.capture.reader import CaptureResult, read_captures
from agentwall.detect.conversation import Conversation

ETHERNET, RAW = 1, 101
CLIENT, SERVER = "192.0.2.10", "198.51.100.20"
CLIENT6, SERVER6 = "2001:db8::10", "2001:db8:1::20"
SYN, FIN, RST, ACK = 2, 1, 4, 16
SYN_ACK = SYN | ACK
START_S = 1_700_000_000


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    """An Ethernet frame."""
    return bytes.fromhex("020000000002020000000001") + struct.pack(">H", kind) + payload


def ip(
    payload: bytes, protocol: int, source: str = CLIENT, destination: str = SERVER, **more: int
) -> bytes:
    """An IP packet, version 4 or 6 by its addresses; ``fragment`` and ``identification`` of 4."""
    a, b = ip_address(source), ip_address(destination)
    if a.version == 6:
        head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
        return head + a.packed + b.packed + payload
    total = more.get("total", 20 + len(payload))
    identification, fragment = more.get("identification", 1), more.get("fragment", 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, total, identification, fragment, 64, protocol, 0)
    return head + a.packed + b.packed + payload


def tcp(
    payload: bytes = b"",
    *,
    ports: tuple[int, int] = (40000, 443),
    sequence: int = 0,
    acknowledged: int = 0,
    flags: int = ACK,
) -> bytes:
    """A TCP segment."""
    numbers = (sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF)
    return struct.pack(">HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 65535, 0, 0) + payload


def udp(payload: bytes, ports: tuple[int, int] = (40000, 53)) -> bytes:
    """A UDP datagram."""
    return struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload


def say(
    payload: bytes = b"",
    *,
    back: bool = False,
    sequence: int = 0,
    acknowledged: int = 0,
    flags: int = ACK,
    ports: tuple[int, int] = (40000, 443),
    ends: tuple[str, str] = (CLIENT, SERVER),
) -> bytes:
    """An Ethernet frame of a TCP flow between the usual endpoints, or of its other direction."""
    if back:
        ports, ends = (ports[1], ports[0]), (ends[1], ends[0])
    segment = tcp(payload, ports=ports, sequence=sequence, acknowledged=acknowledged, flags=flags)
    return ethernet(ip(segment, 6, *ends), 0x86DD if ":" in ends[0] else 0x0800)


def handshake(isn: int = 1000, other: int = 5000, **more: object) -> list[bytes]:
    """The three packets that open a TCP flow."""
    return [
        say(sequence=isn, flags=SYN, **more),
        say(back=True, sequence=other, acknowledged=isn + 1, flags=SYN_ACK, **more),
        say(sequence=isn + 1, acknowledged=other + 1, **more),
    ]


def pcap(
    packets: Iterable[bytes | tuple[bytes, int] | tuple[bytes, int, float]],
    link: int = ETHERNET,
    *,
    order: str = "<",
    nanoseconds: bool = False,
    snaplen: int = 262144,
) -> bytes:
    """A pcap file: of packets, or of packets with their length on the wire and their second."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snaplen, link)]
    for number, packet in enumerate(packets):
        data, *more = packet if isinstance(packet, tuple) else (packet,)
        wire = more[0] if more else len(data)
        second = more[1] if len(more) > 1 else number / 1000
        ticks = round(second * (1_000_000_000 if nanoseconds else 1_000_000))
        whole, rest = divmod(ticks, 1_000_000_000 if nanoseconds else 1_000_000)
        parts += [struct.pack(f"{order}IIII", START_S + whole, rest, len(data), wire), data]
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    """A section header block."""
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = ETHERNET, order: str = "<", options: bytes = b"", snaplen: int = 0):
    """An interface description block."""
    return block(1, struct.pack(f"{order}HHI", link, 0, snaplen) + options, order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """An option of a block."""
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(data: bytes, ticks: int = 0, order: str = "<", number: int = 0) -> bytes:
    """An enhanced packet block."""
    head = (number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(6, struct.pack(f"{order}5I", *head) + data, order)


def read(
    directory: Path, data: bytes, name: str = "x.pcap"
) -> tuple[list[Conversation], CaptureResult]:
    """Write a file, read it, return its conversations and the used-up result."""
    path = directory / name
    path.write_bytes(data)
    (result,) = read_captures([str(path)])
    return list(result.conversations), result


def flow(directory: Path, packets: Sequence[bytes]) -> Conversation:
    """Return the one conversation of these Ethernet frames."""
    (conversation,), result = read(directory, pcap(packets))
    assert result.errors == []
    return conversation
