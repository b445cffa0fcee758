# SPDX-License-Identifier: Apache-2.0
"""Ways out over TCP and what rides on it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import tempfile

from techniques.plan import Place, Plan

IPPROTO_MPTCP = 262
IP_OPTIONS = 4
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_REPAIR_WINDOW = 29
TCP_REPAIR_OFF_NO_WINDOW_PROBE = -1
IPOPT_LSRR = 131


def connect(plan: Plan, to: str, local_port: int = 0, protocol: int = 0, first: str = "") -> None:
    """Connect and send; bound to *local_port* if given, after a connect to *first* if given."""
    with plan.open(to, socket.SOCK_STREAM, protocol) as sock:
        if local_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", local_port))
        if first:
            sock.connect(plan.place(first).address)
            sock.sendall(b"hello")
            disconnect(sock)
        sock.connect(plan.place(to).address)
        sock.sendall(plan.marker)


def disconnect(sock: socket.socket) -> None:
    """Dissolve the association: connect() with AF_UNSPEC."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "connect AF_UNSPEC")


def nonblocking(plan: Plan, to: str) -> None:
    """Start a connection without waiting, then send once the socket is writable."""
    with socket.socket(plan.place(to).family, socket.SOCK_STREAM) as sock:
        sock.settimeout(plan.timeout_s)
        sock.connect(plan.place(to).address)
        sock.sendall(plan.marker)


def fastopen_sendto(plan: Plan, to: str, protocol: int = 0) -> None:
    """Send data in the SYN: sendto with MSG_FASTOPEN, no connect() at all."""
    with plan.open(to, socket.SOCK_STREAM, protocol) as sock:
        sock.sendto(plan.marker, MSG_FASTOPEN, plan.place(to).address)


def fastopen_connect(plan: Plan, to: str) -> None:
    """Let connect() return at once and the first send() carry the SYN."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect(plan.place(to).address)
        sock.sendall(plan.marker)


def repair(plan: Plan, to: str) -> None:
    """Conjure up an established connection without a handshake (needs NET_ADMIN)."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        for queue in (1, 2):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, 1000)
        sock.connect(plan.place(to).address)
        # struct tcp_repair_window: without one no data may leave.
        window = struct.pack("IIIII", 0, 1 << 16, 1 << 16, 1 << 16, 1000)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, window)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WINDOW_PROBE)
        sock.send(plan.marker)


def file_to_socket(plan: Plan, to: str, how: str) -> None:
    """Hand the kernel a file or a pipe to send: sendfile or splice."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(plan.place(to).address)
        _move(plan.marker, sock, how)


def open_before_attach(plan: Plan, to: str, how: str) -> None:
    """Connect before there is a wall, and send once there is one."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(plan.place(to).address)
        plan.pause()
        # An orphan would retransmit the marker after the wall is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _move(plan.marker, sock, how)
        sock.recv(64)


def made_before_attach(plan: Plan, to: str) -> None:
    """Make the socket before there is a wall, and connect once there is one."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        plan.pause()
        sock.connect(plan.place(to).address)
        sock.sendall(plan.marker)


def _move(data: bytes, sock: socket.socket, how: str) -> None:
    if how == "send":
        sock.sendall(data)
    elif how == "sendfile":
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            os.sendfile(sock.fileno(), file.fileno(), 0, len(data))
    else:
        out, into = os.pipe()
        os.write(into, data)
        os.splice(out, sock.fileno(), len(data))


def source_route(plan: Plan, claim: str, via: str) -> None:
    """Claim one destination and let an IPv4 loose source route lead over another."""
    with plan.open(claim, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, loose_source_route(plan.place(via)))
        sock.connect(plan.place(claim).address)
        sock.sendall(plan.marker)


def loose_source_route(via: Place) -> bytes:
    """Return the LSRR option over one hop (RFC 791 section 3.1), padded to a word."""
    return struct.pack("!BBB4s", IPOPT_LSRR, 7, 4, socket.inet_aton(via.host)) + b"\x00"
