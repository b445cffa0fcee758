# SPDX-License-Identifier: Apache-2.0
"""Ways out through io_uring: no connect, sendto or socket system call is made.

A ring by hand: three mmaps and two system calls (io_uring_setup(2), io_uring_enter(2);
``include/uapi/linux/io_uring.h``).
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
import time

from techniques.plan import Plan

SYS_IO_URING_SETUP, SYS_IO_URING_ENTER = 425, 426
IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES = 0, 0x8000000, 0x10000000
IORING_SETUP_SQPOLL = 1 << 1
IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP = 1, 2
OP_SENDMSG, OP_CONNECT, OP_SEND, OP_SOCKET = 9, 16, 26, 45
ENTRIES = 4
WAIT_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A submission and a completion queue, used one request at a time."""

    def __init__(self, flags: int = 0) -> None:
        parameters = bytearray(120)
        struct.pack_into("IIIII", parameters, 0, 0, 0, flags, 0, 100)
        raw = (ctypes.c_char * len(parameters)).from_buffer(parameters)
        self._fd = _libc.syscall(SYS_IO_URING_SETUP, ENTRIES, raw)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        self._polled = bool(flags & IORING_SETUP_SQPOLL)
        entries, cq_entries = struct.unpack_from("II", parameters, 0)
        self._sq = struct.unpack_from(
            "7I", parameters, 40
        )  # head tail mask entries flags dropped array
        self._cq = struct.unpack_from("6I", parameters, 80)  # head tail mask entries overflow cqes
        self._sq_map = self._map(self._sq[6] + entries * 4, IORING_OFF_SQ_RING)
        self._cq_map = self._map(self._cq[5] + cq_entries * 16, IORING_OFF_CQ_RING)
        self._sqes = self._map(entries * 64, IORING_OFF_SQES)

    def _map(self, size: int, offset: int) -> mmap.mmap:
        return mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)

    def do(self, opcode: int, fd: int, offset: int, address: int, length: int) -> int:
        """Run one request and return its result.

        Raises:
            OSError: The request failed, or (TimeoutError) it did not complete in WAIT_S.
        """
        tail = struct.unpack_from("I", self._sq_map, self._sq[1])[0]
        slot = tail & struct.unpack_from("I", self._sq_map, self._sq[2])[0]
        sqe = struct.pack("BBHiQQIIQ", opcode, 0, 0, fd, offset, address, length, 0, 7)
        self._sqes[slot * 64 : slot * 64 + 64] = sqe.ljust(64, b"\0")
        struct.pack_into("I", self._sq_map, self._sq[6] + slot * 4, slot)
        struct.pack_into("I", self._sq_map, self._sq[1], tail + 1)
        flags = IORING_ENTER_SQ_WAKEUP if self._polled else 0
        _libc.syscall(SYS_IO_URING_ENTER, self._fd, 1, 0, flags, None, 0)
        return self._reap()

    def _reap(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            head = struct.unpack_from("I", self._cq_map, self._cq[0])[0]
            if head == struct.unpack_from("I", self._cq_map, self._cq[1])[0]:
                time.sleep(0.001)
                _libc.syscall(SYS_IO_URING_ENTER, self._fd, 0, 0, IORING_ENTER_GETEVENTS, None, 0)
                continue
            slot = head & struct.unpack_from("I", self._cq_map, self._cq[2])[0]
            result = struct.unpack_from("i", self._cq_map, self._cq[5] + slot * 16 + 8)[0]
            struct.pack_into("I", self._cq_map, self._cq[0], head + 1)
            if result < 0:
                raise OSError(-result, "io_uring request")
            return int(result)
        raise TimeoutError("io_uring: no completion")


def connect_send(plan: Plan, to: str, polled: bool = False, own_socket: bool = False) -> None:
    """Connect and send by requests; by a kernel thread if *polled*, the socket too if asked."""
    ring = Ring(IORING_SETUP_SQPOLL if polled else 0)
    place = plan.place(to)
    if own_socket:
        fd = ring.do(OP_SOCKET, place.family, socket.SOCK_STREAM, 0, 0)
    else:
        fd = plan.open(to, socket.SOCK_STREAM).detach()
    name = ctypes.create_string_buffer(place.pack())
    data = ctypes.create_string_buffer(plan.marker)
    ring.do(OP_CONNECT, fd, 16 if place.family == socket.AF_INET else 28, ctypes.addressof(name), 0)
    ring.do(OP_SEND, fd, 0, ctypes.addressof(data), len(plan.marker))


def raw_socket(plan: Plan, to: str) -> None:
    """Make a raw socket by a request, past any filter on socket(2), and send on it."""
    ring = Ring()
    fd = ring.do(OP_SOCKET, socket.AF_INET, socket.SOCK_RAW, 0, 253)
    with socket.socket(fileno=fd) as sock:
        sock.sendto(plan.marker, (plan.place(to).host, 0))


def sendmsg(plan: Plan, to: str) -> None:
    """Send a datagram by a sendmsg request."""
    ring = Ring()
    place = plan.place(to)
    name = ctypes.create_string_buffer(place.pack())
    data = ctypes.create_string_buffer(plan.marker)
    vector = ctypes.create_string_buffer(
        struct.pack("QQ", ctypes.addressof(data), len(plan.marker))
    )
    header = ctypes.create_string_buffer(
        struct.pack(
            "QIxxxxQQQQi",
            ctypes.addressof(name),
            len(place.pack()),
            ctypes.addressof(vector),
            1,
            0,
            0,
            0,
        )
    )
    with socket.socket(place.family, socket.SOCK_DGRAM) as sock:
        ring.do(OP_SENDMSG, sock.fileno(), 0, ctypes.addressof(header), 1)
