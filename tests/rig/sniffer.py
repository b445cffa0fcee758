# SPDX-License-Identifier: Apache-2.0
"""A packet sniffer on the lab's wire: the truth about what crossed it.

It sits on the far side's end of the veth, so it sees every frame of the near side, whatever kind
of socket made it, forged ones included, before the far side's kernel judges it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rig.lab import FAR_DEVICE, NEAR_DEVICE, Lab
from rig.packet import Packet, parse_frame
from rig.process import wait_until

_ETH_P_ALL = 0x0003
_ETH_P_MARKER = 0x88B5  # "local experimental", IEEE 802
_SO_RCVBUFFORCE = 33
_PACKET_STATISTICS = 6
_SOL_PACKET = 263
_RECEIVE_BUFFER_BYTES = 64 << 20
_LARGEST_FRAME_BYTES = 1 << 19


class Sniffer:
    """Frames that arrived at the far side from the near side, in order."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self._packets: list[Packet] = []
        self._markers: set[bytes] = set()
        self._lost = 0
        self._socket = lab.far.call(_open_far)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._record, name="sniffer", daemon=True)

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def close(self) -> None:
        """Stop recording; what was recorded stays readable."""
        os.close(self._wake_write)
        self._thread.join()
        os.close(self._wake_read)
        self._socket.close()

    def settle(self) -> None:
        """Wait until everything the near side has sent so far is recorded.

        Frames of one processor cannot overtake each other on a veth, so one marker is sent from
        each processor that is ours and awaited.

        Raises:
            TimeoutError: A marker never arrived.
            RuntimeError: The kernel dropped frames before they were read, so the record has holes.
        """
        markers = {os.urandom(16) for _ in os.sched_getaffinity(0)}
        self._lab.near.call(lambda: _send_markers(markers))
        wait_until(lambda: markers <= self._markers, what="sniffer: its markers")
        if self._lost_frames():
            raise RuntimeError(f"sniffer: expected every frame, got {self._lost} dropped")

    def packets(self, *, background: bool = False) -> list[Packet]:
        """Return what has crossed so far, with ARP, ND and MLD only if *background* is set."""
        with self._lock:
            return [p for p in self._packets if background or not p.is_background]

    def to(self, address: str, port: int | None = None) -> list[Packet]:
        """Return the packets to *address*, and to *port* if one is given."""
        return [packet for packet in self.packets() if packet.is_to(address, port)]

    def payload_to(self, address: str, port: int | None = None) -> bytes:
        """Return the payloads of :meth:`to`, joined in order of arrival.

        A segment that TCP sent again, as it does where the answer is late, counts once.
        """
        found: list[bytes] = []
        sent: set[tuple[str, int, int, bytes]] = set()
        for packet in self.to(address, port):
            segment = packet.source, packet.source_port, packet.sequence, packet.payload
            if packet.protocol == socket.IPPROTO_TCP and packet.payload:
                if segment in sent:
                    continue
                sent.add(segment)
            found.append(packet.payload)
        return b"".join(found)

    def clear(self) -> None:
        """Settle, then forget what was recorded so far."""
        self.settle()
        with self._lock:
            self._packets.clear()

    def _record(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                return
            frame, (_, _, kind, _, _) = self._socket.recvfrom(_LARGEST_FRAME_BYTES)
            if kind != socket.PACKET_OUTGOING:
                self._keep(frame)

    def _keep(self, frame: bytes) -> None:
        packet = parse_frame(frame)
        with self._lock:
            if packet.ether_type == _ETH_P_MARKER and packet.payload[:4] == b"mark":
                self._markers.add(packet.payload[4:20])
            else:
                self._packets.append(packet)

    def _lost_frames(self) -> int:
        # Reading the statistics resets them.
        _, dropped = struct.unpack(
            "II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        )
        self._lost += dropped
        return self._lost


def _open_far() -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    opened.bind((FAR_DEVICE, _ETH_P_ALL))
    return opened


def _send_markers(markers: set[bytes]) -> None:
    # On a thread of its own (Namespace.call), so pinning it leaves no trace.
    broadcast = b"\xff" * 6 + bytes(6) + _ETH_P_MARKER.to_bytes(2, "big")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as opened:
        opened.bind((NEAR_DEVICE, 0))
        for processor, marker in zip(sorted(os.sched_getaffinity(0)), markers, strict=True):
            os.sched_setaffinity(0, {processor})
            opened.send(broadcast + b"mark" + marker + bytes(26))


@contextmanager
def sniff(lab: Lab) -> Iterator[Sniffer]:
    """Record what crosses *lab*'s wire from near to far for the length of the block."""
    sniffer = Sniffer(lab)
    sniffer.start()
    try:
        yield sniffer
    finally:
        sniffer.close()
