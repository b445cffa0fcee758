# SPDX-License-Identifier: Apache-2.0
"""Streams that say something, valid and not, and the kernel's reader of them."""

from __future__ import annotations

import contextlib
import ssl
import struct
from itertools import pairwise
from random import Random

from agentwall.detect.said import Kind, Outcome, Said
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.objects import BpfObject

NAMES = (b"hub.example.com", b"other.example.com", b"a.b", b"10.0.0.1", b"x_y.example.com")
SAYINGS = 8
MOST = 3000
"""Octets of a segment: prog_test_run takes less than a page."""
X25519_MLKEM768 = 1216
"""Octets of the key share of the post-quantum group, draft-ietf-tls-ecdhe-mlkem."""
_SAYING = struct.Struct("=IHHBBB254s")
_PORTS = struct.pack("!HH", 40000, 443)
_GREASE = (0x0A0A, 0x5A5A, 0xFAFA)


class Listener:
    """``tests/kernel/bpf/hello.bpf.c``, loaded: one flow after another."""

    def __init__(self, loaded: BpfObject) -> None:
        maps = loaded.maps()
        self._program = loaded.program("listen")
        self._datagram = loaded.program("datagram")
        self._hellos: BpfMap = maps["hellos"]
        self._sayings: BpfMap = maps["sayings"]
        self._zero = bytes(self._hellos.shape.value_size)

    def begin(self) -> None:
        """Forget the flow; the next segment is the first of another."""
        self._hellos.update(bytes(4), self._zero)

    def hear(self, payload: bytes, sequence: int, *, flags: int = 0x18) -> tuple[bool, list[Said]]:
        """Return whether a segment passes, and what it said."""
        self.outcomes: list[int] = []
        run = self._program.test_run(segment(payload, sequence, flags))
        found = []
        for index in range(SAYINGS):
            value = self._sayings.lookup(struct.pack("=I", index))
            assert value is not None
            code, length, port, kind, tunnel, more, text = _SAYING.unpack(value[: _SAYING.size])
            self.outcomes.append(code)
            if code in (0, 6, 7):
                break
            found.append(_said(code, text[:length], port, kind, tunnel))
            if not more:
                break
        return run.retval == 1, found

    @property
    def program_fd(self) -> int:
        """The program, to be attached to a cgroup whose only flow is the one it follows."""
        return self._program.fd

    def last_said(self) -> int:
        """Return the last ``enum aw_said`` of the last segment."""
        found = 0
        for index in range(SAYINGS):
            value = self._sayings.lookup(struct.pack("=I", index))
            assert value is not None
            found, more = _SAYING.unpack(value[: _SAYING.size])[0:6:5]
            if not more:
                break
        return found

    def is_quic(self, payload: bytes) -> bool:
        """Return whether a datagram is QUIC."""
        udp = _PORTS + struct.pack("!HH", 8 + len(payload), 0) + payload
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0x4000, 64, 17, 0)
        frame = bytes(12) + b"\x08\x00" + header + b"\x0a\0\0\1\x0a\0\0\2" + udp
        return self._datagram.test_run(frame).retval == 1


def _said(code: int, key: bytes, port: int, kind: int, tunnel: int) -> Said:
    outcome = Outcome(code)
    if outcome in (Outcome.BROKEN, Outcome.OTHER):
        return Said(outcome=outcome, kind=Kind.OTHER if outcome is Outcome.OTHER else None)
    name = key[-2::-1].decode("ascii") if key else None
    assert not key or key.endswith(b".")
    return Said(
        outcome=outcome, kind=Kind(kind), name=name, port=port or None, tunnelled=bool(tunnel)
    )


def segment(payload: bytes, sequence: int, flags: int = 0x18) -> bytes:
    """Return a TCP segment, every other one over IPv6, behind an Ethernet header."""
    tcp = _PORTS + struct.pack("!IIBBHHH", sequence % 2**32, 1, 8 << 4, flags, 1000, 0, 0)
    tcp += bytes([1]) * 12 + payload
    if sequence & 1:
        header = struct.pack("!IHBB", 6 << 28, len(tcp) & 0xFFFF, 6, 64) + bytes(15) + b"\1"
        return bytes(12) + b"\x86\xdd" + header + bytes(15) + b"\2" + tcp
    size = (20 + len(tcp)) & 0xFFFF
    header = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0x4000, 64, 6, 0)
    return bytes(12) + b"\x08\x00" + header + b"\x0a\0\0\1\x0a\0\0\2" + tcp


def records(message: bytes, sizes: list[int]) -> bytes:
    """Return a handshake message in TLS records of these sizes, the last one of what is left."""
    out = b""
    for size in [*sizes, len(message)]:
        part, message = message[:size], message[size:]
        if part:
            out += b"\x16\x03\x01" + struct.pack("!H", len(part)) + part
    return out


def hello_message(extensions: list[tuple[int, bytes]], *, session: int = 32) -> bytes:
    """Return a ClientHello as a handshake message."""
    block = b"".join(struct.pack("!HH", kind, len(body)) + body for kind, body in extensions)
    body = b"\x03\x03" + bytes(range(32)) + bytes([session]) + b"s" * session
    body += b"\x00\x06\x13\x01\x13\x02\x0a\x0a" + b"\x01\x00"
    body += struct.pack("!H", len(block)) + block
    return b"\x01" + len(body).to_bytes(3) + body


def server_name(name: bytes) -> tuple[int, bytes]:
    """Return the extension that names one server."""
    return 0, struct.pack("!HBH", len(name) + 3, 0, len(name)) + name


def key_share(size: int = X25519_MLKEM768) -> tuple[int, bytes]:
    """Return the extension with one key share of a post-quantum group."""
    return 51, struct.pack("!HHH", size + 4, 0x11EC, size) + b"k" * size


def python_hello(name: str | None, version: ssl.TLSVersion) -> bytes:
    """Return the first flight of the ``ssl`` module's own client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def random_hello(random: Random) -> bytes:
    """Return a well-formed ClientHello in records, with what browsers put around the name."""
    extensions = [(random.choice(_GREASE), b""), (43, b"\x04\x03\x04\x03\x03"), (16, b"\0\3\2h2")]
    if random.random() < 0.9:
        extensions.append(server_name(random.choice(NAMES)))
    if random.random() < 0.4:
        extensions.append(key_share(random.choice((32, 1184, X25519_MLKEM768, 1600))))
    if random.random() < 0.2:
        extensions.append((0xFE0D, b"\0" * 186))
    random.shuffle(extensions)
    message = hello_message(extensions, session=random.choice((0, 32)))
    sizes = [random.randint(1, 700) for _ in range(random.choice((0, 0, 0, 1, 3, 15)))]
    return records(message, sizes) + random.choice((b"", b"", b"\x17\x03\x03\0\5early"))


def _body(random: Random) -> tuple[bytes, bytes]:
    choice = random.randrange(4)
    if choice == 0:
        data = b"x" * random.choice((0, 1, 7, 900, 9000))
        return b"Content-Length: %d\r\n" % len(data), data
    if choice == 1:
        parts = [b"y" * random.choice((1, 3, 20, 5000)) for _ in range(random.randint(0, 5))]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
        return b"transfer-encoding:\tChunked \r\n", chunks
    return b"", b""


def random_request(random: Random, name: bytes) -> bytes:
    """Return a well-formed request, with its body."""
    method = random.choice((b"GET", b"POST", b"PURGE", b"OPTIONS"))
    target, port = random.choice((b"/", b"/a?b=c", b"*", b"")), random.choice((b"", b":8080"))
    if not target:
        target = random.choice((b"http", b"HTTPS")) + b"://" + name + port + b"/p"
    minor = random.choice((b"0", b"1", b"1", b"1"))
    fields, body = _body(random)
    if minor == b"0" and fields.startswith(b"t"):
        minor = b"1"
    host = random.choice((b"Host", b"hOST")) + b":" + random.choice((b" ", b"")) + name + port
    headers = [host + b"\r\n", fields, b"User-Agent: test \x80 x\r\n", b"X:\r\n"]
    random.shuffle(headers)
    line = method + b" " + target + b" HTTP/1." + minor + b"\r\n"
    return random.choice((b"", b"", b"\r\n")) + line + b"".join(headers) + b"\r\n" + body


def random_requests(random: Random) -> bytes:
    """Return a connection of some requests, at times behind a CONNECT."""
    name = random.choice(NAMES)
    out = b""
    if random.random() < 0.3:
        out = b"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n" % (name, name)
        if random.random() < 0.5:
            return out + records(hello_message([server_name(name)]), [])
    for _ in range(random.randint(1, 4)):
        out += random_request(random, name if random.random() < 0.9 else random.choice(NAMES))
    return out


OTHERS = (
    *(
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\nmore",
        b"EHLO me.example\r\n",
        b"\0\0\0\x08\x04\xd2\x16/",
    ),
    *(
        b"*1\r\n$4\r\nPING\r\n",
        b"0032git-upload-pack /x\0host=y\0",
        b"\x80\x2e\x01\x03\x01",
        b"GET",
    ),
    *(
        b"NICK x HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /old\r\n",
        b"\x16\x01\x01",
    ),
    *(
        b"get / x",
        b"FOO  /  HTTP/1.1\r\n",
        b"A\tHTTP/1.1",
        b"OPTIONS * RTSP/1.0\r\n",
        b"\x82\x85abc",
    ),
)
"""Other protocols, and what only looks like one of the two."""
_SPICE = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"Host: evil.example\r\n",
        b"Content-Length: 3\r\n",
    ),
    *(
        b"\0",
        b"\x16\x03\x01",
        b"\0\0\0\x0e\0\x0c\0\0\x09evil.test",
        b"..",
        b"[::1]",
        b"GET ",
        b"\xff",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b" HTTP/1.1", b"z" * 300, b"\0" * 2000, b"q" * 5000, b"`"),
)


def damaged(random: Random, stream: bytes) -> bytes:
    """Return *stream* with some octets changed, cut out or put in."""
    out = bytearray(stream)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(min(len(out), 400) + 1) if out else 0
        choice = random.randrange(5)
        if choice == 0 and at < len(out):
            out[at] = random.randrange(256)
        elif choice == 1 and at < len(out):
            out[at] = (out[at] + random.choice((-1, 1))) % 256
        elif choice == 2:
            del out[at : at + random.choice((1, 2, 9))]
        else:
            out[at:at] = random.choice(_SPICE)
    return bytes(out)


def cut(random: Random, stream: bytes) -> list[bytes]:
    """Return *stream* in segments: whole, in a few pieces, or octet by octet at its beginning."""
    places = set(range(0, len(stream), MOST))
    choice = random.randrange(5)
    if choice == 1:
        places |= set(range(min(40, len(stream))))
    elif choice > 1 and len(stream) > 1:
        places |= {random.randrange(1, len(stream)) for _ in range(random.randint(1, 5))}
    return [stream[a:b] for a, b in pairwise([*sorted(places), len(stream)])]


def pieces(stream: bytes, size: int) -> list[bytes]:
    """Return *stream* in segments of *size* octets."""
    return [stream[i : i + size] for i in range(0, len(stream), size)]
