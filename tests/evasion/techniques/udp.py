# SPDX-License-Identifier: Apache-2.0
"""Ways out over UDP and UDP-Lite."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

from techniques.plan import Place, Plan
from techniques.tcp import IP_OPTIONS, disconnect, loose_source_route

IP_PKTINFO = 8
IP_TRANSPARENT = 19
IPPROTO_UDPLITE = 136
IPV6_HEADERS = {"hop-by-hop": 54, "routing": 57, "destination": 59}
SO_BINDTODEVICE, SO_MARK = 25, 36
UDP_SEGMENT = 103


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class _MsgHdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _MMsgHdr(ctypes.Structure):
    _fields_ = [("header", _MsgHdr), ("sent", ctypes.c_uint)]


def sendto(
    plan: Plan, to: str, kind: int = 0, local_port: int = 0, broadcast: bool = False
) -> None:
    """Send one datagram from an unconnected socket."""
    with plan.open(to, socket.SOCK_DGRAM, kind) as sock:
        if local_port:
            sock.bind(("", local_port))
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            _bind_device(sock, plan)
        sock.sendto(plan.marker, plan.place(to).address)


def _bind_device(sock: socket.socket, plan: Plan) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, plan.interface.encode() + b"\0")


def made_before_attach(plan: Plan, to: str, kind: int = 0, connected: bool = False) -> None:
    """Make (and connect) the socket before there is a wall, and send once there is one."""
    with plan.open(to, socket.SOCK_DGRAM, kind) as sock:
        if connected:
            sock.connect(plan.place(to).address)
        plan.pause()
        if connected:
            sock.send(plan.marker)
        else:
            sock.sendto(plan.marker, plan.place(to).address)


def connect_send(plan: Plan, to: str, kind: int = 0) -> None:
    """Connect, which sends nothing, and send."""
    with plan.open(to, socket.SOCK_DGRAM, kind) as sock:
        sock.connect(plan.place(to).address)
        sock.send(plan.marker)


def send_after_refused_connect(plan: Plan, to: str) -> None:
    """Ignore what connect() said and send without an address."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        with contextlib.suppress(OSError):
            sock.connect(plan.place(to).address)
        sock.send(plan.marker)


def connect_then_sendto(plan: Plan, first: str, to: str) -> None:
    """Connect to a permitted peer, talk to it, then name another in sendto."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(first).address)
        sock.send(b"hello")
        sock.sendto(plan.marker, plan.place(to).address)


def connect_twice(plan: Plan, first: str, to: str, through_unspec: bool = False) -> None:
    """Connect to a permitted peer, talk to it, connect to another, send."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(first).address)
        sock.send(b"hello")
        if through_unspec:
            disconnect(sock)
        sock.connect(plan.place(to).address)
        sock.send(plan.marker)


def alternate(plan: Plan, first: str, to: str) -> None:
    """Send to a permitted peer, then to another, from one unconnected socket."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        for _ in range(3):
            sock.sendto(b"hello", plan.place(first).address)
        sock.sendto(plan.marker, plan.place(to).address)


def sendmmsg(plan: Plan, first: str, to: str) -> None:
    """Send two datagrams in one call, the second to another peer."""
    libc = ctypes.CDLL(None, use_errno=True)
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        vector = _IoVec(plan.marker, len(plan.marker))
        hello = _IoVec(b"hello", 5)
        batch = (_MMsgHdr * 2)()
        for row, data, role in zip(batch, (hello, vector), (first, to), strict=True):
            name = plan.place(role).pack()
            row.header = _MsgHdr(name, len(name), ctypes.pointer(data), 1)
        sent = libc.sendmmsg(sock.fileno(), batch, 2, 0)
        if sent < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        if sent < 2:
            # The kernel keeps the error of a later message for the next call.
            sock.sendto(plan.marker, plan.place(to).address)


def forged_family(plan: Plan, to: str, family: int) -> None:
    """Send with a sockaddr whose sa_family is not the socket's."""
    _send_raw_name(plan, plan.place(to).family, plan.place(to), family)


def inet_name_on_inet6_socket(plan: Plan, to: str) -> None:
    """Name an IPv4 sockaddr_in on an AF_INET6 socket."""
    _send_raw_name(plan, socket.AF_INET6, plan.place(to), socket.AF_INET)


def _send_raw_name(plan: Plan, socket_family: int, to: Place, name_family: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket_family, socket.SOCK_DGRAM) as sock:
        name = to.pack(name_family)
        if libc.sendto(sock.fileno(), plan.marker, len(plan.marker), 0, name, len(name)) < 0:
            raise OSError(ctypes.get_errno(), "sendto")


def packet_info(plan: Plan, to: str) -> None:
    """Choose the outgoing interface by an IP_PKTINFO control message."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        info = struct.pack("i4s4s", socket.if_nametoindex(plan.interface), bytes(4), bytes(4))
        ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, info)]
        sock.sendmsg([plan.marker], ancillary, 0, plan.place(to).address)


def segmented(plan: Plan, to: str) -> None:
    """Let the kernel cut one large send into datagrams (UDP GSO)."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 500)
        sock.sendto(plan.marker + bytes(1500), plan.place(to).address)


def corked(plan: Plan, first: str, to: str) -> None:
    """Cork a datagram to a permitted peer and finish it towards another."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", socket.MSG_MORE, plan.place(first).address)
        sock.sendto(plan.marker, plan.place(to).address)


def source_route(plan: Plan, claim: str, via: str) -> None:
    """Claim one destination and let an IPv4 loose source route lead over another."""
    with plan.open(claim, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, loose_source_route(plan.place(via)))
        sock.sendto(plan.marker, plan.place(claim).address)


def routing_header(plan: Plan, claim: str, via: str) -> None:
    """Claim one destination and let an IPv6 segment routing header lead over another."""
    # The kernel writes the final segment, here zero, itself (RFC 8754 section 4.1).
    hop = socket.inet_pton(socket.AF_INET6, plan.place(via).host)
    header = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + bytes(16) + hop
    with plan.open(claim, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HEADERS["routing"], header)
        sock.sendto(plan.marker, plan.place(claim).address)


def extension_header(plan: Plan, to: str, header: str, connected: bool = False) -> None:
    """Put an IPv6 options header between the address and the ports (needs NET_RAW)."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        padding = struct.pack("!BBBB4x", 0, 0, 1, 4)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HEADERS[header], padding)
        if connected:
            sock.connect(plan.place(to).address)
            sock.send(plan.marker)
        else:
            sock.sendto(plan.marker, plan.place(to).address)


def marked(plan: Plan, to: str) -> None:
    """Set SO_MARK and bind to the device, to be routed by other rules (needs NET_ADMIN)."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, 7)
        _bind_device(sock, plan)
        sock.sendto(plan.marker, plan.place(to).address)


def foreign_source(plan: Plan, source: str, to: str) -> None:
    """Send from an address that is not ours, a permitted peer's (needs NET_ADMIN)."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        sock.bind((plan.place(source).host, 0))
        sock.sendto(plan.marker, plan.place(to).address)
