# SPDX-License-Identifier: Apache-2.0
"""The readers of what a flow says agree: in the kernel, and in ``agentwall.detect``."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from random import Random

import pytest
from agree.hellos import (
    MOST,
    NAMES,
    OTHERS,
    Listener,
    cut,
    damaged,
    hello_message,
    key_share,
    pieces,
    python_hello,
    random_hello,
    random_requests,
    records,
    server_name,
)
from rig.cgroup import in_cgroup, temp_cgroup

from agentwall.detect.quic import is_quic
from agentwall.detect.said import Outcome
from agentwall.detect.sayings import sayings
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.links import Link
from agentwall.kernel.objects import BpfObject

pytestmark = pytest.mark.kernel

STREAMS = 12_000
REFUSED = (5, 7)
"""Of ``enum aw_said``: what cannot be read, and what comes after it."""


@pytest.fixture(scope="module")
def listener(compile_bpf):
    with BpfObject.open(compile_bpf("hello")) as loaded:
        loaded.load()
        yield Listener(loaded)


def compare(listener: Listener, segments: list[bytes], start: int) -> list[Outcome]:
    """Feed segments to both, and hold what was said so far equal after each."""
    listener.begin()
    seen, heard = b"", []
    for piece in segments:
        passes, said = listener.hear(piece, start + len(seen))
        seen += piece
        heard += said
        assert heard == sayings(seen), (segments, start)
        if not passes or (heard and heard[-1].outcome is Outcome.BROKEN):
            break
    return [said.outcome for said in heard] or [Outcome.NOTHING_YET]


def stream_of(random: Random) -> bytes:
    made = random.choice((random_hello, random_requests))(random)
    choice = random.random()
    if choice < 0.45:
        return made
    if choice < 0.9:
        return damaged(random, made)
    other = random.choice(OTHERS)
    return random.choice((other, damaged(random, other), other + made, made + other))


def test_readers_agree(listener):
    """Random streams in random segments say the same to both, after every segment."""
    random = Random(20260)
    outcomes: Counter[Outcome] = Counter()
    for _ in range(STREAMS):
        stream = stream_of(random)
        outcomes.update(compare(listener, cut(random, stream), random.randrange(2**32)))

    assert outcomes.total() >= STREAMS
    assert outcomes[Outcome.NAME] >= STREAMS / 3
    assert min(outcomes[outcome] for outcome in Outcome) >= STREAMS / 100


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [1, 7, 100, MOST])
def test_real_hellos(listener, version, step):
    """The hello of OpenSSL names its server however it is cut."""
    stream = python_hello("Hub.Example.COM", version)

    assert compare(listener, pieces(stream, step), 1) == [Outcome.NAME]
    assert sayings(stream)[0].name == "hub.example.com"


@pytest.mark.parametrize("first", [True, False])
def test_post_quantum_hellos(listener, first):
    """A key share of 1 216 octets before or after the name changes nothing."""
    extensions = [key_share(), server_name(b"hub.example.com")]
    stream = records(hello_message(extensions if first else extensions[::-1]), [])

    assert compare(listener, pieces(stream, 1000), 2**32 - 700) == [Outcome.NAME]


def test_hello_at_the_limit(listener):
    """4 096 octets with the record's header are read, one more is refused at once."""

    def of_size(size):
        spare = size - len(records(hello_message([server_name(NAMES[0]), (21, b"")]), []))
        return records(hello_message([server_name(NAMES[0]), (21, bytes(spare))]), [])

    assert compare(listener, pieces(of_size(4096), MOST), 9) == [Outcome.NAME]
    assert compare(listener, [of_size(4097)[:20]], 9) == [Outcome.BROKEN]


def test_sent_again(listener):
    """What was read is not read again; overlaps are, from where they are new; gaps do not pass."""
    stream = python_hello("hub.example.com", ssl.TLSVersion.TLSv1_3)
    start = 2**32 - 50
    listener.begin()

    assert listener.hear(stream[:100], start) == (True, [])
    assert listener.hear(stream[:100], start) == (True, [])
    assert listener.hear(stream[150:], start + 150) == (False, [])
    assert listener.outcomes == [6]
    passes, said = listener.hear(stream[40:], start + 40)
    assert passes
    assert [one.name for one in said] == ["hub.example.com"]
    assert listener.hear(b"anything", start + len(stream)) == (True, [])


def test_refused_flow_stays_refused(listener):
    """After what cannot be read nothing of the flow passes, until another connection begins."""
    listener.begin()

    assert [one.outcome for one in listener.hear(b"GET /\r\n", 1)[1]] == [Outcome.BROKEN]
    assert listener.hear(b"GET /\r\n", 1) == (False, [])
    assert listener.hear(b"GET / HTTP/1.1\r\n", 8) == (False, [])
    assert listener.outcomes == [7]
    assert listener.hear(b"", 500, flags=0x02) == (True, [])
    passes, said = listener.hear(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n", 501)
    assert passes
    assert said[0].name == "a.b"


def test_hello_in_the_syn(listener):
    """The payload of a SYN begins one number behind it."""
    stream = python_hello("hub.example.com", ssl.TLSVersion.TLSv1_3)
    listener.begin()

    assert listener.hear(stream[:30], 77, flags=0x02) == (True, [])
    assert [one.name for one in listener.hear(stream[30:], 108)[1]] == ["hub.example.com"]


def test_urgent_data(listener):
    """An urgent octet, which the receiver may take out of the stream, is refused."""
    listener.begin()

    assert not listener.hear(b"GET / HTTP/1.1\r\nHost: a.bX", 5, flags=0x38)[0]


def test_quic_agrees(listener):
    """Long headers are told in the same way, of all first octets, versions and lengths of ids."""
    random = Random(9000)
    found: Counter[bool] = Counter()
    for _ in range(10_000):
        version = random.choice((0, 1, 0x6B3343CF, 0xFF00001D, 0x0A0A0A0A, random.randrange(2**32)))
        first, second = random.choice((0, 8, 20, 21)), random.choice((0, 8, 20, 21, 255))
        payload = bytes([random.choice((0x00, 0x40, 0x80, 0xC0)) | random.randrange(64)])
        payload += version.to_bytes(4) + bytes([first]) + bytes(first) + bytes([second])
        payload = payload.ljust(1300, b"\0")[: random.choice((7, 1199, 1200, 1300))]
        found[is_quic(payload)] += 1

        assert listener.is_quic(payload) == is_quic(payload)

    assert min(found.values()) > 500


SEND = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
sock.sendall(sys.stdin.buffer.read())
sock.shutdown(socket.SHUT_WR)
sock.recv(1)
"""


def send_through(listener: Listener, stream: bytes) -> bytes:
    """Send *stream* over loopback from a cgroup with the listener, and return what arrived."""
    with temp_cgroup() as cgroup, socket.create_server(("127.0.0.1", 0)) as server:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        link = Link.attach(listener.program_fd, fd, AttachType.INET_EGRESS)
        command = in_cgroup(cgroup, sys.executable, "-c", SEND, str(server.getsockname()[1]))
        client = subprocess.Popen(command, stdin=subprocess.PIPE)
        server.settimeout(60)
        peer, _ = server.accept()
        feeder = threading.Thread(target=client.communicate, args=(stream,))
        feeder.start()
        with peer:
            arrived = all_of(peer, listener)
        if len(arrived) < len(stream):
            client.kill()
        feeder.join()
        client.wait()
        link.close()
        os.close(fd)
    return arrived


def all_of(peer: socket.socket, listener: Listener) -> bytes:
    """Return what arrives until the end, or until the listener has refused what comes next."""
    arrived = bytearray()
    peer.settimeout(0.5)
    for _ in range(120):
        with contextlib.suppress(TimeoutError):
            while data := peer.recv(1 << 20):
                arrived += data
            break
        if listener.last_said() in REFUSED:
            break
    return bytes(arrived)


HEAD = b"POST / HTTP/1.1\r\nHost: a.b\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UPLOADS = {
    "chunks": CHUNKED + 3000 * (b"190\r\n%s\r\n" % (400 * b"c")),
    "large chunk": CHUNKED + b"7a120\r\n" + 500_000 * b"d" + b"\r\n",
    "counted": HEAD + b"Content-Length: 1000000\r\n\r\n" + 1_000_000 * b"e",
}


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize("follows", [True, False])
def test_large_segments(listener, kind, follows):
    """Segments of up to 64 kB, as real sockets send them, are followed to the next request."""
    upload = UPLOADS[kind] + (b"" if kind == "counted" else b"0\r\n\r\n")
    if follows:
        upload += HEAD + b"\r\n"
        assert send_through(listener, upload) == upload
        assert listener.last_said() == 0
        assert [said.name for said in sayings(upload)] == ["a.b", "a.b"]
    else:
        arrived = send_through(listener, upload + b"GET / HTTP/9\r\n")
        assert len(upload) - 65536 * 2 <= len(arrived) <= len(upload)
        assert listener.last_said() in REFUSED
