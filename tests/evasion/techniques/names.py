# SPDX-License-Identifier: Apache-2.0
"""Ways out at an address that a permitted name shares: what a flow says of itself."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Callable

from techniques.dns import ZONE, header, lend, question
from techniques.plan import Plan
from techniques.tcp import (
    IPPROTO_MPTCP,
    MSG_FASTOPEN,
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WINDOW_PROBE,
    TCP_REPAIR_QUEUE,
    TCP_REPAIR_WINDOW,
)

HUB = f"hub.{ZONE}".encode()
"""The name that the policy permits, and by which the address is open."""
OTHER = f"other.{ZONE}".encode()
"""Another permitted name of the same address."""
SERVER_NAME, PADDING, KEY_SHARE = 0, 21, 51
ECH, ESNI, GREASE = 0xFE0D, 0xFFCE, 0x0A0A
X25519, X25519MLKEM768 = 29, 0x11EC
HYBRID_SHARE = 1216
"""Octets of a client's X25519MLKEM768 share (draft-ietf-tls-ecdhe-mlkem)."""


WHOLE = 1 << 16
RECEIVED, SENT = 1, 2  # queues of TCP_REPAIR


def evil(marker: bytes) -> bytes:
    """Return a name that is not permitted and carries the marker."""
    return marker + b".evil.example"


def extension(kind: int, data: bytes) -> bytes:
    """Return one extension of a ClientHello."""
    return struct.pack("!2H", kind, len(data)) + data


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """Return the extension of RFC 6066 section 3 with *names*."""
    entries = b"".join(struct.pack("!BH", kind, len(name)) + name for name in names)
    return extension(SERVER_NAME, struct.pack("!H", len(entries)) + entries)


def ech(outer: bool = True) -> bytes:
    """Return the extension of RFC 9849; GREASE is the same with nothing sealed in it."""
    sealed = struct.pack("!H", 32) + os.urandom(32) + struct.pack("!H", 144) + os.urandom(144)
    return extension(ECH, b"\0\0\x01\0\x01\x07" + sealed if outer else b"\x01")


def key_share(group: int, size: int) -> bytes:
    """Return the extension of RFC 8446 section 4.2.8 with one share."""
    share = struct.pack("!2H", group, size) + os.urandom(size)
    return extension(KEY_SHARE, struct.pack("!H", len(share)) + share)


def hello(marker: bytes, extensions: bytes) -> bytes:
    """Return a ClientHello message of TLS 1.3 whose session id begins with *marker*."""
    suites = b"\x13\x01\x13\x02\x13\x03"
    body = b"\x03\x03" + bytes(32) + b"\x20" + marker.ljust(32, b"s")
    body += struct.pack("!H", len(suites)) + suites + b"\x01\0"
    extensions += extension(43, b"\x02\x03\x04") + key_share(X25519, 32)
    body += struct.pack("!H", len(extensions)) + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def records(data: bytes, size: int = 1 << 14) -> bytes:
    """Return handshake records of at most *size* octets each."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(p)) + p for p in pieces)


def padding(size: int) -> bytes:
    """Return the extension of RFC 7685."""
    return extension(PADDING, bytes(size))


def _hello_of(marker: bytes, shape: str) -> bytes:
    refused = evil(marker)
    large = padding(300) + key_share(X25519MLKEM768, HYBRID_SHARE)
    homoglyph = marker + ".n\u0430mes.example.com".encode()
    shapes = {
        "permitted": server_name(HUB),
        "capitals": server_name(HUB.upper()),
        "innocent": server_name(b"innocent-11." + ZONE.encode()),
        "neighbour": server_name(OTHER),
        "other": server_name(refused),
        "below": server_name(marker + b"." + HUB),
        "none": b"",
        "address": server_name(b"198.51.100.79"),
        "address6": server_name(b"[2001:db8::1]"),
        "zero-octet": server_name(refused + b"\0." + ZONE.encode()),
        "space": server_name(refused + b" ." + ZONE.encode()),
        "percent": server_name(refused + b"%00." + HUB),
        "trailing-dot": server_name(refused + b"."),
        "punycode": server_name(marker + b".xn--nmes-43d.example.com"),
        "homoglyph": server_name(homoglyph),
        "empty": server_name(b""),
        "twice": server_name(HUB) + server_name(refused),
        "twice-reversed": server_name(refused) + server_name(HUB),
        "two-names": server_name(HUB, refused),
        "other-type": server_name(refused, kind=1),
        "ech": server_name(HUB) + ech(),
        "ech-first": ech() + server_name(HUB),
        "ech-inner": server_name(HUB) + ech(outer=False),
        "ech-nameless": ech(),
        "esni": server_name(HUB) + extension(ESNI, os.urandom(64)),
        "grease": extension(GREASE, b"") + server_name(refused),
        "hybrid": large + server_name(refused),
        "hybrid-permitted": large + server_name(HUB),
    }
    return hello(marker, shapes[shape])


def _request_of(marker: bytes, shape: str) -> bytes:
    refused = evil(marker)
    told = b"X-Told: " + marker + b"\r\n"
    get, end = b"GET / HTTP/1.1\r\n", b"\r\n\r\n"
    shapes = {
        "permitted": get + b"Host: " + HUB + b"\r\n" + told + b"\r\n",
        "other": get + b"Host: " + refused + end,
        "innocent": get + b"Host: innocent-11." + ZONE.encode() + end,
        "none": get + told + b"\r\n",
        "none-1.0": b"GET / HTTP/1.0\r\n" + told + b"\r\n",
        "address": get + b"Host: 198.51.100.79\r\n" + told + b"\r\n",
        "twice": get + b"Host: " + HUB + b"\r\nHost: " + refused + end,
        "folded": get + b"Host: " + HUB + b"\r\n " + refused + end,
        "folded-name": get + b"X: y\r\n Host: " + HUB + b"\r\nHost: " + refused + end,
        "gap": get + b"Host : " + refused + b"\r\nHost: " + HUB + end,
        "zero-octet": get + b"Host: " + refused + b"\0." + ZONE.encode() + end,
        "list": get + b"Host: " + HUB + b", " + refused + end,
        "target": b"GET http://" + refused + b"/ HTTP/1.1\r\nHost: " + HUB + end,
        "target-permitted": b"GET http://" + HUB + b"/ HTTP/1.1\r\nHost: " + refused + end,
        "user": b"GET http://" + HUB + b"@" + refused + b"/ HTTP/1.1\r\nHost: " + HUB + end,
        "bare-lf": b"GET / HTTP/1.1\nHost: " + refused + b"\n\n",
        "bare-cr": get + b"X: y\rHost: " + refused + b"\r\nHost: " + HUB + end,
        "two-lengths": _smuggled(refused),
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + marker,
        "connect": b"CONNECT " + refused + b":443 HTTP/1.1\r\nHost: " + refused + end,
        "connect-permitted": _connect(HUB + b":7000", told),
        "connect-port": _connect(HUB + b":7001", told),
        "connect-address": _connect(b"203.0.113.66:7000", told),
        "connect-address6": _connect(b"[2001:db8:b::66]:7000", told),
        "connect-host": b"CONNECT " + HUB + b":7000 HTTP/1.1\r\nHost: " + refused + end,
        "absolute-permitted": b"GET http://" + HUB + b":7000/ HTTP/1.1\r\nHost: "
        b"" + HUB + b":7000\r\n" + told + b"\r\n",
        "socks5": b"\x05\x01\0\x05\x01\0\x03" + bytes([len(refused)]) + refused + b"\x01\xbb",
        "socks4": b"\x04\x01\x01\xbb\0\0\0\x01\0" + refused + b"\0",
        "ssh": b"SSH-2.0-" + marker + b"\r\n",
        "stratum": b'{"id":1,"method":"mining.subscribe","params":["' + marker + b'"]}\n',
    }
    return shapes[shape]


def _connect(target: bytes, headers: bytes) -> bytes:
    return b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n" + headers + b"\r\n"


def _smuggled(refused: bytes) -> bytes:
    inner = b"GET / HTTP/1.1\r\nHost: " + refused + b"\r\n\r\n"
    start = b"POST / HTTP/1.1\r\nHost: " + HUB + b"\r\nTransfer-Encoding: chunked\r\n"
    return start + b"Content-Length: %d\r\n\r\n0\r\n\r\n" % (len(inner) + 5) + inner


def ask(plan: Plan, shape: str, to: str = "resolver") -> None:
    """Ask a DNS server for a name that looks like a permitted one."""
    zone = ZONE.encode()
    names = {
        "space": evil(plan.marker) + b" ." + zone,
        "percent": evil(plan.marker) + b"%00.hub." + zone,
        "punycode": plan.marker + b".xn--nmes-43d.example.com",
        "homoglyph": plan.marker + ".n\u0430mes.example.com".encode(),
        "capitals": plan.marker + b"." + zone.upper(),
    }
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        sock.send(header() + question(names[shape]))


def _open(plan: Plan, to: str, protocol: int = 0) -> socket.socket:
    # The address is the permitted name's for as long as the answer is good.
    with plan.open("resolver", socket.SOCK_DGRAM) as asking:
        asking.connect(plan.place("resolver").address)
        number = int.from_bytes(os.urandom(2), "big")
        asking.send(header(number) + question(HUB))
        asking.recv(4096)
    sock = plan.open(to, socket.SOCK_STREAM, protocol)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # What is refused is not to be sent again after the wall is gone.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.connect(plan.place(to).address)
    return sock


def _send(sock: socket.socket, data: bytes, piece: int = WHOLE) -> None:
    """Send *data* in segments of *piece* octets, each when the one before it has come back."""
    for at in range(0, len(data), piece):
        sock.sendall(data[at : at + piece])
        left = len(data[at : at + piece])
        while left > 0:
            heard = sock.recv(left)
            if not heard:
                raise ConnectionError("the peer hung up")
            left -= len(heard)


def _deliver(
    plan: Plan, to: str, made: Callable[[bytes, str], bytes], shape: str, piece: int
) -> None:
    # In pieces, all but what completes them may pass: the marker is what comes behind.
    marker = plan.marker if piece == WHOLE else b"x" * len(plan.marker)
    with _open(plan, to) as sock:
        _send(sock, made(marker, shape), piece)
        if piece != WHOLE:
            _send(sock, plan.marker)


def tls(
    plan: Plan, shape: str, to: str = "named", piece: int = WHOLE, record: int = 1 << 14
) -> None:
    """Send a ClientHello in records of *record* and segments of *piece* octets, and hear it."""
    _deliver(plan, to, lambda *of: records(_hello_of(*of), record), shape, piece)


def multipath(plan: Plan, shape: str, to: str = "named") -> None:
    """Send a ClientHello by MPTCP."""
    with _open(plan, to, IPPROTO_MPTCP) as sock:
        _send(sock, records(_hello_of(plan.marker, shape)))


def http(plan: Plan, shape: str, to: str = "named", piece: int = WHOLE) -> None:
    """Send what is, or looks like, a request in segments of *piece* octets, and hear it back."""
    _deliver(plan, to, _request_of, shape, piece)


def second(plan: Plan, shape: str, to: str = "named", joined: bool = False) -> None:
    """Send a permitted request, and the one of *shape* behind it: *joined*, in one segment."""
    url = b"/" if to == "named" else b"http://" + HUB + b":7000/"
    port = b"" if to == "named" else b":7000"
    first = b"GET " + url + b" HTTP/1.1\r\nHost: " + HUB + port + b"\r\n\r\n"
    with _open(plan, to) as sock:
        if joined:
            _send(sock, first + _request_of(plan.marker, shape))
            return
        _send(sock, first)
        _send(sock, _request_of(plan.marker, shape))


def tunnel(plan: Plan, shape: str, how: str = "tls", to: str = "proxy") -> None:
    """Ask the proxy for a permitted target, and say something else in the tunnel."""
    made = _hello_of if how == "tls" else _request_of
    inner = made(plan.marker, shape)
    with _open(plan, to) as sock:
        _send(sock, _connect(HUB + b":7000", b""))
        _send(sock, records(inner) if how == "tls" else inner)


def urgent(plan: Plan, to: str = "named") -> None:
    """Send one octet of a permitted Host as urgent: who reads the stream reads another name."""
    start = b"GET / HTTP/1.1\r\nHost: " + HUB[:-1]
    with _open(plan, to) as sock:
        _send(sock, start)
        sock.send(HUB[-1:], socket.MSG_OOB)
        _send(sock, b"\r\n\r\n" + plan.marker)


def rewritten(plan: Plan, how: str, shape: str = "tls", to: str = "named") -> None:
    """Lend the kernel a page that says a permitted name, and write another one into it.

    *how*: the page is lent by ``sendfile`` or by ``splice``.
    """
    made = _hello_of if shape == "tls" else _request_of
    refused = made(plan.marker, "other")
    innocent = made(plan.marker, "innocent")
    if shape == "tls":
        refused, innocent = records(refused), records(innocent)
    if len(refused) != len(innocent):
        raise AssertionError(f"rewritten: expected one size, got {len(refused)}, {len(innocent)}")
    for _ in range(20):
        descriptor = os.memfd_create("hello")
        os.write(descriptor, innocent)
        with _open(plan, to) as sock, mmap.mmap(descriptor, len(refused)) as page:
            lend(descriptor, sock, len(innocent), how)
            page[:] = refused
            sock.recv(4096)
        os.close(descriptor)


def body_lent(plan: Plan, to: str = "named") -> None:
    """Send the head of a permitted request, and its body by sendfile(), as web clients do."""
    descriptor = os.memfd_create("body")
    os.write(descriptor, plan.marker)
    size = b"Content-Length: %d\r\n\r\n" % len(plan.marker)
    with _open(plan, to) as sock:
        _send(sock, b"PUT / HTTP/1.1\r\nHost: " + HUB + b"\r\n" + size)
        lend(descriptor, sock, len(plan.marker), "sendfile")
        sock.recv(4096)
    os.close(descriptor)


def fast_open(plan: Plan, shape: str, to: str = "named") -> None:
    """Send a ClientHello in the SYN."""
    _open(plan, to).close()
    with plan.open(to, socket.SOCK_STREAM) as sock:
        said = records(_hello_of(plan.marker, shape))
        sock.sendto(said, MSG_FASTOPEN, plan.place(to).address)
        sock.recv(4096)


def repaired(plan: Plan, shape: str, to: str = "named") -> None:
    """Take a connection over by TCP_REPAIR, as if the request of *shape* had been sent already.

    What is sent then is the first segment that is seen; the request itself is sent again.
    """
    place, tcp = plan.place(to), socket.IPPROTO_TCP
    sequences = {}
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
        sock.connect(place.address)
        received = sequences[RECEIVED]
        window = struct.pack("IIIII", received, 1 << 15, 1 << 15, 1 << 15, received)
        sock.setsockopt(tcp, TCP_REPAIR_WINDOW, window)
        sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
        sock.setsockopt(tcp, TCP_REPAIR_QUEUE, SENT)
        sock.sendall(_request_of(plan.marker, shape))
        sock.setsockopt(tcp, TCP_REPAIR, TCP_REPAIR_OFF_NO_WINDOW_PROBE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"x\n")
        sock.recv(4096)


def quic(plan: Plan, version: int = 1, to: str = "named") -> None:
    """Send a datagram that opens a connection of QUIC (RFC 9000 section 17.2.2)."""
    with _open(plan, to), plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        start = b"\xc3" + struct.pack("!I", version) + b"\x08" + bytes(8) + b"\0"
        sock.send((start + plan.marker).ljust(1200, b"\0"))
