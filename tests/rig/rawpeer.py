# SPDX-License-Identifier: Apache-2.0
"""A TCP peer on the far side that sends exactly the segments a test tells it to."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from rig.lab import FAR_DEVICE, FAR_MAC, NEAR4, NEAR_MAC, Lab
from rig.packet import Packet
from rig.process import wait_until
from rig.tap import Tap

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_ETHERNET_BYTES, _IP_BYTES = 14, 20
_WINDOW = 1 << 15


class RawPeer:
    """One connection; *offset* and *heard* count octets of either stream, from 0."""

    def __init__(self, made: Lab, address: str, port: int, first: int) -> None:
        self._tap = Tap(made.far, FAR_DEVICE)
        self._socket = made.far.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((FAR_DEVICE, 0))
        self._address, self._port, self._first = address, port, first
        self._near_port = self._near_first = 0
        self._packets: list[Packet] = []
        self._processor = min(os.sched_getaffinity(0))

    def accept(self) -> None:
        """Wait for a SYN that has no data, and answer it."""
        syns: list[Packet] = []

        def is_called() -> bool:
            syns.extend(p for p in self.packets() if p.tcp_flags == SYN and not p.payload)
            return bool(syns)

        wait_until(is_called, what=f"a SYN to {self._address}")
        self._near_port = syns[-1].source_port
        self._near_first = _sequence(syns[-1])[0]
        self.say(-1, b"", SYN | ACK)
        wait_until(
            lambda: any(p.tcp_flags & ACK for p in self.packets()), what="the handshake's end"
        )

    def say(
        self,
        offset: int,
        data: bytes,
        flags: int = PSH | ACK,
        *,
        heard: int = 0,
        window: int = _WINDOW,
    ) -> None:
        """Send a segment that begins at *offset*, and acknowledge the first *heard* octets."""
        sequence = (self._first + 1 + offset) % 2**32
        acknowledged = (self._near_first + 1 + heard) % 2**32
        urgent = 1 if flags & 0x20 else 0
        head = struct.pack(
            "!HHIIBBHHH",
            *(self._port, self._near_port, sequence, acknowledged, 5 << 4, flags, window, 0),
            urgent,
        )
        ends = IPv4Address(self._address).packed + IPv4Address(NEAR4).packed
        size = len(head) + len(data)
        check = _checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, size) + head + data)
        head = head[:16] + struct.pack("!H", check) + head[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, _IP_BYTES + size, 1, 0x4000, 64, 6, 0)
        ip = ip[:10] + struct.pack("!H", _checksum(ip + ends)) + ends
        frame = _mac(NEAR_MAC) + _mac(FAR_MAC) + b"\x08\x00" + ip + head + data
        with self._on_one_processor():
            self._socket.send(frame)

    @contextmanager
    def _on_one_processor(self) -> Iterator[None]:
        # Those of one cannot overtake each other on a veth.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._processor})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def packets(self) -> list[Packet]:
        """Return the segments that came since :meth:`forget`."""
        self._packets += [p for p in self._tap.read() if p.is_to(self._address, self._port)]
        return self._packets

    def count(self, data: bytes) -> int:
        """Return in how many segments *data* stood."""
        return sum(data in packet.payload for packet in self.packets())

    def acknowledged(self) -> int:
        """Return how many octets the near side has acknowledged."""
        last = [p for p in self.packets() if p.tcp_flags & ACK][-1]
        return (_sequence(last)[1] - self._first - 1) % 2**32

    def forget(self) -> None:
        """Forget what came so far."""
        self.packets()
        self._packets.clear()

    def close(self) -> None:
        """Hear and say no more."""
        self._socket.close()
        self._tap.__exit__()


def _sequence(packet: Packet) -> tuple[int, int]:
    """Return the sequence and the acknowledgement number of an IPv4 segment."""
    at = _ETHERNET_BYTES + (packet.raw[_ETHERNET_BYTES] & 0x0F) * 4 + 4
    sequence, acknowledgement = struct.unpack_from("!II", packet.raw, at)
    return int(sequence), int(acknowledgement)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@contextmanager
def raw_peer(made: Lab, address: str, port: int, first: int) -> Iterator[RawPeer]:
    """Play *address*, whose kernel is kept from answering; its octets are numbered from *first*."""
    made.far.ip("route", "replace", "blackhole", f"{address}/32")
    peer = RawPeer(made, address, port, first)
    try:
        yield peer
    finally:
        peer.close()
