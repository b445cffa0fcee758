# SPDX-License-Identifier: Apache-2.0
"""A packet tap that is read on demand: every interface of a namespace, or one.

Unlike :mod:`rig.sniffer` it also hears roads that a test builds while it runs, and loopback, and
can be told to leave a permitted flood in peace.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import time
from collections.abc import Collection

from rig.namespace import Namespace
from rig.packet import Packet, parse_frame

ETH_P_ALL, ETH_P_IP = 3, 0x0800
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
FRAME_BYTES = 1 << 18
BUFFER_BYTES = 64 << 20


class Tap:
    """An AF_PACKET socket of *namespace*, on *interface* only if one is given."""

    def __init__(self, namespace: Namespace, interface: str = "") -> None:
        self._socket = namespace.call(lambda: _open(interface))

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self) -> list[Packet]:
        """Return what arrived since the last call; never what the namespace itself sent."""
        packets: list[Packet] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                return packets
            if address[2] != socket.PACKET_OUTGOING:
                packets.append(parse_frame(frame))

    def wait_for(self, needles: Collection[bytes], timeout_s: float) -> list[Packet]:
        """Read until a payload holds each of *needles*; return all that was read.

        Raises:
            TimeoutError: One did not come in *timeout_s*.
        """
        packets: list[Packet] = []
        missing = set(needles)
        deadline = time.monotonic() + timeout_s
        while True:
            fresh = self.read()
            packets += fresh
            missing -= {each for each in missing if any(each in one.payload for one in fresh)}
            if not missing:
                return packets
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"tap: expected {missing} within {timeout_s:g} s, got nothing")
            select.select([self._socket], [], [], left_s)

    def ignore(self, address: str, port: int) -> None:
        """Do not record IPv4 packets without options to *port* of *address*: a permitted flood."""
        host = int.from_bytes(socket.inet_aton(address), "big")
        program = (
            (0x28, 0, 0, 12),  # ldh ethertype
            (0x15, 0, 5, ETH_P_IP),
            (0x20, 0, 0, 30),  # ld destination
            (0x15, 0, 3, host),
            (0x28, 0, 0, 36),  # ldh destination port
            (0x15, 0, 1, port),
            (0x06, 0, 0, 0),  # ret: drop
            (0x06, 0, 0, FRAME_BYTES),
        )
        code = b"".join(struct.pack("HBBI", *line) for line in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        fprog = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)

    def count_lost(self) -> int:
        """Return how many frames the kernel could not queue since the last call."""
        raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return int(struct.unpack("II", raw)[1])


def _open(interface: str) -> socket.socket:
    protocol = 0 if interface else socket.htons(ETH_P_ALL)
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    opened.setblocking(False)
    if interface:
        opened.bind((interface, ETH_P_ALL))
    return opened
