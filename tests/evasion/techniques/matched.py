# SPDX-License-Identifier: Apache-2.0
"""Ways to say, at a destination that is permitted, what a signature looks for."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Callable

from techniques.dns import lend
from techniques.identity import _in_child
from techniques.names import RECEIVED, SENT
from techniques.names import _open as open_by_name
from techniques.plan import Plan
from techniques.tcp import (
    MSG_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WINDOW_PROBE,
    TCP_REPAIR_QUEUE,
    TCP_REPAIR_WINDOW,
    disconnect,
)
from techniques.udp import UDP_SEGMENT, _IoVec, _MMsgHdr, _MsgHdr
from techniques.uring import OP_SEND, Ring

SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
UDP_CORK = 1
HELLO_BYTES = 148
JUNK_DATAGRAMS = 16
SEGMENTS = 4
ATTEMPTS = 20
HEAD, REST = b'{"id": 1, "method": "min', b'ing.subscribe", "params": ["'


def subscribe(marker: bytes) -> bytes:
    """Return what a miner says first."""
    return HEAD + REST + marker + b'"]}\n'


def wireguard(marker: bytes) -> bytes:
    """Return a datagram that has the shape of WireGuard's first."""
    return (b"\x01\0\0\0" + marker).ljust(HELLO_BYTES, b"z")


def _open(plan: Plan, to: str, protocol: int = 0) -> socket.socket:
    if to in ("named", "proxy"):
        return open_by_name(plan, to, protocol)
    sock = plan.open(to, socket.SOCK_STREAM, protocol)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # What is refused is not to be sent again after the wall is gone.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.connect(plan.place(to).address)
    return sock


def _hear(sock: socket.socket, size: int = 1) -> None:
    """Wait until *size* octets have come back; raise what a silent peer leads to."""
    while size > 0:
        size -= len(sock.recv(1 << 16)) or size


def say(plan: Plan, to: str, protocol: int = 0) -> None:
    """Say it in one write."""
    with _open(plan, to, protocol) as sock:
        sock.sendall(subscribe(plan.marker))
        _hear(sock)


def in_pieces(plan: Plan, to: str, piece: int) -> None:
    """Say it in writes of *piece* octets, each when the one before it has come back."""
    with _open(plan, to) as sock:
        for at in range(0, len(HEAD + REST), piece):
            part = (HEAD + REST)[at : at + piece]
            sock.sendall(part)
            _hear(sock, len(part))
        sock.sendall(plan.marker + b'"]}\n')
        _hear(sock)


def behind(plan: Plan, to: str, size: int) -> None:
    """Say *size* octets of nothing first."""
    with _open(plan, to) as sock:
        sock.sendall(b"\n" * size)
        _hear(sock, size)
        sock.sendall(subscribe(plan.marker))
        _hear(sock)


def lent(plan: Plan, to: str, how: str) -> None:
    """Lend the kernel a page that says something else, and write it into the page."""
    refused = subscribe(plan.marker)
    innocent = refused.replace(b"mining", b"xining")
    for _ in range(ATTEMPTS):
        descriptor = os.memfd_create("said")
        os.write(descriptor, innocent)
        with _open(plan, to) as sock, mmap.mmap(descriptor, len(refused)) as page:
            lend(descriptor, sock, len(innocent), how)
            page[:] = refused
            _hear(sock)
        os.close(descriptor)


def gifted(plan: Plan, to: str) -> None:
    """Put a page of memory into a pipe (vmsplice) and the pipe into the socket (splice)."""
    page, data = mmap.mmap(-1, mmap.PAGESIZE), subscribe(plan.marker)
    page[: len(data)] = data
    vector = _IoVec(ctypes.c_char_p(ctypes.addressof(ctypes.c_char.from_buffer(page))), len(data))
    out, into = os.pipe()
    if ctypes.CDLL(None, use_errno=True).vmsplice(into, ctypes.byref(vector), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "vmsplice")
    with _open(plan, to) as sock:
        os.splice(out, sock.fileno(), len(data))
        _hear(sock)


def zerocopy(plan: Plan, to: str) -> None:
    """Lend the application's own memory."""
    with _open(plan, to) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        sock.send(subscribe(plan.marker), MSG_ZEROCOPY)
        _hear(sock)


def urgent(plan: Plan, to: str) -> None:
    """Put an urgent octet in the middle, which the peer reads elsewhere."""
    with _open(plan, to) as sock:
        sock.sendall(HEAD)
        _hear(sock, len(HEAD))
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(REST + plan.marker + b'"]}\n')
        _hear(sock)


def gathered(plan: Plan, to: str, how: str) -> None:
    """Have the kernel put it together: ``more``, ``cork``, or ``vector``."""
    parts = [HEAD, REST, plan.marker, b'"]}\n']
    with _open(plan, to) as sock:
        if how == "vector":
            sock.sendmsg(parts)
        elif how == "cork":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            for part in parts:
                sock.send(part)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        else:
            for part in parts[:-1]:
                sock.send(part, socket.MSG_MORE)
            sock.send(parts[-1])
        _hear(sock)


def by_ring(plan: Plan, to: str) -> None:
    """Send by a request of io_uring."""
    data = subscribe(plan.marker)
    buffer = ctypes.create_string_buffer(data)
    with _open(plan, to) as sock:
        Ring().do(OP_SEND, sock.fileno(), 0, ctypes.addressof(buffer), len(data))
        _hear(sock)


def fast_open(plan: Plan, to: str, how: str) -> None:
    """Say it in the SYN, the first time to be read by nobody: ``sendto`` or ``connect``."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "sendto":
            sock.sendto(subscribe(plan.marker), MSG_FASTOPEN, plan.place(to).address)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            sock.connect(plan.place(to).address)
            sock.sendall(subscribe(plan.marker))
        _hear(sock)


def by_other(plan: Plan, to: str, how: str) -> None:
    """Connect in one process and say it in another: ``inherited`` or ``passed``."""
    ours, theirs = socket.socketpair()
    with _open(plan, to) as sock:

        def use(descriptor: int) -> None:
            with socket.socket(fileno=descriptor) as other:
                other.sendall(subscribe(plan.marker))
                _hear(other)

        if how == "inherited":
            _in_child(lambda: use(os.dup(sock.fileno())))
            return
        socket.send_fds(ours, [b"x"], [sock.fileno()])
        _in_child(lambda: use(socket.recv_fds(theirs, 1, 1)[1][0]))


def again(plan: Plan, to: str) -> None:
    """Say the first half, dissolve the connection, connect anew, and say all of it."""
    with _open(plan, to) as sock:
        sock.sendall(HEAD)
        _hear(sock, len(HEAD))
        disconnect(sock)
        sock.connect(plan.place(to).address)
        sock.sendall(subscribe(plan.marker))
        _hear(sock)


def repaired(plan: Plan, to: str) -> None:
    """Take a connection over by TCP_REPAIR, as if it had been said, and have it sent again."""
    tcp, sequences = socket.IPPROTO_TCP, {}
    with _open(plan, to) as sock:
        own = sock.getsockname()
        sock.setsockopt(tcp, TCP_REPAIR, 1)
        for queue in (RECEIVED, SENT):
            sock.setsockopt(tcp, TCP_REPAIR_QUEUE, queue)
            sequences[queue] = sock.getsockopt(tcp, TCP_QUEUE_SEQ) & 0xFFFFFFFF
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(tcp, TCP_REPAIR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(own)
        for queue, sequence in sequences.items():
            sock.setsockopt(tcp, TCP_REPAIR_QUEUE, queue)
            sock.setsockopt(tcp, TCP_QUEUE_SEQ, struct.pack("I", sequence))
        sock.connect(plan.place(to).address)
        received = sequences[RECEIVED]
        window = struct.pack("IIIII", received, 1 << 15, 1 << 15, 1 << 15, received)
        sock.setsockopt(tcp, TCP_REPAIR_WINDOW, window)
        sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
        sock.setsockopt(tcp, TCP_REPAIR_QUEUE, SENT)
        sock.sendall(subscribe(plan.marker))
        sock.setsockopt(tcp, TCP_REPAIR, TCP_REPAIR_OFF_NO_WINDOW_PROBE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"x\n")
        _hear(sock)


def _datagram(plan: Plan, to: str, send: Callable[[socket.socket], object]) -> None:
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        send(sock)
        _hear(sock)


def datagram(plan: Plan, to: str) -> None:
    """Send it in one datagram."""
    _datagram(plan, to, lambda sock: sock.send(wireguard(plan.marker)))


def datagrams_at_once(plan: Plan, to: str) -> None:
    """Send it behind another datagram, in one call (sendmmsg)."""
    data, name = wireguard(plan.marker), plan.place(to).pack()
    libc = ctypes.CDLL(None, use_errno=True)

    def send(sock: socket.socket) -> None:
        batch = (_MMsgHdr * 2)()
        for row, said in zip(batch, (b"hello", data), strict=True):
            vector = _IoVec(said, len(said))
            row.header = _MsgHdr(name, len(name), ctypes.pointer(vector), 1)
        if libc.sendmmsg(sock.fileno(), batch, 2, 0) < 2:
            # The kernel keeps the error of a later message for the next call.
            sock.send(data)

    _datagram(plan, to, send)


def segmented(plan: Plan, to: str) -> None:
    """Send it as the last of several datagrams of one write (UDP_SEGMENT)."""

    def send(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, HELLO_BYTES)
        sock.send(b"y" * HELLO_BYTES * (SEGMENTS - 1) + wireguard(plan.marker))

    _datagram(plan, to, send)


def corked(plan: Plan, to: str) -> None:
    """Have the kernel put the datagram together (UDP_CORK)."""

    def send(sock: socket.socket) -> None:
        data = wireguard(plan.marker)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        sock.send(data[:2])
        sock.send(data[2:])
        sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)

    _datagram(plan, to, send)


def lent_datagram(plan: Plan, to: str) -> None:
    """Lend the kernel the datagram's page."""
    data = wireguard(plan.marker)
    descriptor = os.memfd_create("said")
    os.write(descriptor, data.replace(b"\x01\0\0\0", b"\x01\0\0\x01"))
    with mmap.mmap(descriptor, len(data)) as page:

        def send(sock: socket.socket) -> None:
            lend(descriptor, sock, len(data), "splice")
            page[:] = data

        _datagram(plan, to, send)


def behind_junk(plan: Plan, to: str) -> None:
    """Send it behind as many datagrams as are read of one peer."""

    def send(sock: socket.socket) -> None:
        for _ in range(JUNK_DATAGRAMS):
            sock.send(b"junk")
        sock.send(wireguard(plan.marker))

    _datagram(plan, to, send)
