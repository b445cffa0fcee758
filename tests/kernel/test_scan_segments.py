# SPDX-License-Identifier: Apache-2.0
"""Segments as a peer can send them, and as the sandbox's own kernel sends them again."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure, parse_policy
from rig.inspection import FAINT, HELLO, NOTIFY, SUBSCRIBE, Inspector, matched
from rig.lab import PERMITTED, Lab, lab
from rig.process import wait_until
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet
from rig.rawpeer import ACK, FIN, PSH, RST, SYN, RawPeer, raw_peer

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import ReasonCode, Verdict

pytestmark = pytest.mark.kernel

RAW = "203.0.113.77"
"""An address for which the far kernel does not answer."""
POLICY = f"""
    name: segments
    allow:
      - {{cidr: {RAW}, ports: [3333]}}
      - {{cidr: {PERMITTED}, ports: [1-65535, udp/1-65535]}}
"""
PORT = 3333
HALF = len(NOTIFY) // 2
NOTIFIED = NOTIFY.index(b'fy"') + 3
SUBSCRIBED = SUBSCRIBE.index(b'be"') + 3
IPPROTO_UDP, UDP_SEGMENT, TCP_FASTOPEN_CONNECT = 17, 103, 30
QUIET_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall that looks for the test set, and a sandbox in it."""

    lab: Lab
    enclosure: Enclosure
    key: SandboxKey
    actor: Puppet

    def since(self) -> int:
        """How many events there are by now."""
        return len(self.enclosure.events(self.key))

    def match(self, since: int) -> Attempt | None:
        """The first match after *since*."""
        return self.enclosure.await_event(self.key, lambda e: e.match is not None, since)

    @contextmanager
    def connected(self, first: int = 1000) -> Iterator[tuple[PuppetSocket, RawPeer]]:
        """Connect to a raw peer whose sequence numbers begin with *first*."""
        with raw_peer(self.lab, RAW, PORT, first) as peer:
            sock = self.actor.open("tcp")
            sock.begin_connect(RAW, PORT)
            peer.accept()
            yield sock, peer
            sock.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The bench, built once."""
    with lab() as made, enclosure(made.near) as wall, temp_cgroup() as cgroup:
        wall.inspector = Inspector(wall.wall)
        made.near.set("net/ipv4/tcp_fastopen", 0x607)
        with (
            wall.enclosed(cgroup, parse_policy(POLICY)) as key,
            puppet(made.near, cgroup, timeout_s=PATIENCE_S) as actor,
        ):
            yield Bench(lab=made, enclosure=wall, key=key, actor=actor)


def heard(sock: PuppetSocket, size: int) -> bytes:
    """Return what the application is given: *size* octets, and what more there is soon after."""
    got = b""
    while len(got) < size:
        got += sock.recv()
    with suppress(TimeoutError):
        got += sock.recv(QUIET_S)
    return got


def expect_notified(bench: Bench, since: int, left: int) -> None:
    """Hold that the match came, at the right octet."""
    event = bench.match(since)
    assert event is not None
    assert event.match is not None
    assert event.verdict is Verdict.DENY
    assert (event.match.position, event.match.left_bytes) == (NOTIFIED, left)
    assert event.match.text == NOTIFY[:NOTIFIED]


@pytest.mark.parametrize("first", [1000, 2**32 - 30, 2**32 - 1, 2**31 - 10])
def test_sent_again(bench: Bench, first: int) -> None:
    """What comes twice is read once, also where sequence numbers begin anew."""
    with bench.connected(first) as (sock, peer):
        since = bench.since()
        for _ in range(3):
            peer.say(0, NOTIFY[:HALF])
        peer.say(HALF, NOTIFY[HALF:])

        expect_notified(bench, since, HALF)
        assert heard(sock, HALF) == NOTIFY[:HALF]


def test_out_of_order(bench: Bench) -> None:
    """What comes too early is dropped, and is read when it comes again behind what was missing."""
    with bench.connected() as (sock, peer):
        since = bench.since()
        peer.say(HALF, NOTIFY[HALF:])
        assert heard(sock, 0) == b""
        assert peer.acknowledged() == 0
        peer.say(0, NOTIFY[:HALF])
        assert heard(sock, HALF) == NOTIFY[:HALF]
        peer.say(HALF, NOTIFY[HALF:])

        expect_notified(bench, since, HALF)


def test_harmless_out_of_order(bench: Bench) -> None:
    """The same with what no signature looks for: all of it arrives, in order."""
    said = b"{" + bytes(range(97, 123)) * 4
    with bench.connected() as (sock, peer):
        since = bench.since()
        peer.say(50, said[50:])
        peer.say(0, said[:50])
        assert heard(sock, 50) == said[:50]
        peer.say(50, said[50:])

        assert heard(sock, len(said) - 50) == said[50:]
        assert bench.since() == since


@pytest.mark.parametrize("back", [1, 10, HALF])
def test_overlap(bench: Bench, back: int) -> None:
    """Octets that were read count, whatever comes in their place later, as TCP has it."""
    with bench.connected() as (_, peer):
        since = bench.since()
        peer.say(0, NOTIFY[:HALF])
        peer.say(HALF - back, b"#" * back + NOTIFY[HALF:])

        expect_notified(bench, since, HALF)


def test_keepalive_probe(bench: Bench) -> None:
    """The garbage octet of an old keepalive probe (RFC 1122 section 4.2.3.6) is not read."""
    with bench.connected() as (_, peer):
        since = bench.since()
        peer.say(0, NOTIFY[:HALF])
        peer.say(HALF - 1, b"\0", ACK)
        peer.say(HALF, NOTIFY[HALF:])

        expect_notified(bench, since, HALF)


def test_a_syn_in_the_stream(bench: Bench) -> None:
    """A SYN of the peer in mid-stream, which TCP throws away, does not move where is read."""
    with bench.connected() as (_, peer):
        since = bench.since()
        peer.say(0, NOTIFY[:HALF])
        peer.say(5000, b"", SYN | ACK)
        peer.say(HALF, NOTIFY[HALF:])

        expect_notified(bench, since, HALF)


def test_a_match_with_fin(bench: Bench) -> None:
    """A FIN that carries the end of a match does not come in; the peer's RST still does."""
    with bench.connected() as (sock, peer):
        since = bench.since()
        peer.say(0, NOTIFY[:HALF])
        peer.say(HALF, NOTIFY[HALF:], FIN | PSH | ACK)
        expect_notified(bench, since, HALF)
        assert heard(sock, HALF) == NOTIFY[:HALF]
        # TCP may put an acknowledgement off.
        wait_until(lambda: peer.acknowledged() >= HALF, what="an acknowledgement")
        assert peer.acknowledged() == HALF
        peer.say(HALF, b"", RST | ACK)

        with pytest.raises(ConnectionResetError):
            sock.recv()


def test_an_urgent_octet_of_the_peer(bench: Bench) -> None:
    """Where the peer says something urgent, nobody can tell what the application reads."""
    with bench.connected() as (_, peer):
        since = bench.since()
        peer.say(0, NOTIFY[:HALF])
        peer.say(HALF, NOTIFY[HALF:], 0x20 | ACK)

        assert bench.enclosure.await_event(
            bench.key, lambda e: e.code is ReasonCode.UNREADABLE, since
        )


def test_the_sandbox_sends_again(bench: Bench) -> None:
    """A peer that acknowledges nothing gets the same octets again: they are read once."""
    with bench.connected() as (sock, peer):
        since = bench.since()
        sock.send(SUBSCRIBE[:20])
        wait_until(lambda: peer.count(SUBSCRIBE[:20]) >= 2, what="a retransmission")
        peer.say(0, b"", ACK, heard=20)
        sock.send(SUBSCRIBE[20:])
        event = bench.match(since)

        assert event is not None
        assert event.match is not None
        assert (event.match.position, event.match.left_bytes) == (SUBSCRIBED, 20)
        assert not peer.count(SUBSCRIBE[20:])


def test_a_window_of_zero(bench: Bench) -> None:
    """A peer that lets nothing in for a while, and what is written meanwhile goes together."""
    with bench.connected() as (sock, peer):
        since = bench.since()
        sock.send(SUBSCRIBE[:10])
        wait_until(lambda: peer.count(SUBSCRIBE[:10]) >= 1, what="the first octets")
        peer.say(0, b"", ACK, heard=10, window=0)
        sock.send(SUBSCRIBE[10:20])
        sock.send(SUBSCRIBE[20:])
        time.sleep(QUIET_S)
        peer.say(0, b"", ACK, heard=10)
        event = bench.match(since)

        assert event is not None
        assert event.match is not None
        assert event.match.position == SUBSCRIBED
        assert not peer.count(b"subscribe")


def test_a_syn_with_data_that_is_lost(bench: Bench) -> None:
    """Data of a Fast Open SYN goes again behind a SYN without: it is read once, as one stream."""
    since = bench.since()
    with raw_peer(bench.lab, RAW, PORT, 7) as peer:
        sock = bench.actor.open("tcp")
        sock.set_option(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, struct.pack("i", 1))
        sock.connect(RAW, PORT)
        sock.send(SUBSCRIBE[:20])
        wait_until(lambda: peer.count(SUBSCRIBE[:20]) >= 1, what="a SYN with data")
        peer.forget()
        peer.accept()
        wait_until(lambda: peer.count(SUBSCRIBE[:20]) >= 1, what="the data again")
        peer.say(0, b"", ACK, heard=20)
        sock.send(SUBSCRIBE[20:])
        event = bench.match(since)

        assert event is not None
        assert event.match is not None
        assert (event.match.position, event.match.left_bytes) == (SUBSCRIBED, 20)
        assert not peer.count(SUBSCRIBE[20:])
        sock.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


@contextmanager
def datagrams(bench: Bench) -> Iterator[tuple[PuppetSocket, socket.socket]]:
    """A UDP socket of the sandbox, and the one it is connected to."""
    with bench.lab.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind((PERMITTED, 0))
        far.settimeout(PATIENCE_S)
        near = bench.actor.open("udp")
        near.connect(PERMITTED, far.getsockname()[1])
        yield near, far
        near.close()


def test_many_datagrams_in_one_packet(bench: Bench) -> None:
    """A packet of more datagrams than are read of a peer passes, as they would one by one."""
    with datagrams(bench) as (near, far):
        since = bench.since()
        near.set_option(IPPROTO_UDP, UDP_SEGMENT, struct.pack("i", 100))
        near.send(b"q" * 4000)

        assert [len(far.recv(4096)) for _ in range(40)] == [100] * 40
        assert [e for e in bench.enclosure.events(bench.key, since) if e.match] == []


@pytest.mark.parametrize("before", [0, 1, 15])
def test_the_place_of_a_datagram_in_a_packet(bench: Bench, before: int) -> None:
    """Of several datagrams in one packet each is read from its beginning; all are held back."""
    with datagrams(bench) as (near, far):
        since = bench.since()
        near.set_option(IPPROTO_UDP, UDP_SEGMENT, struct.pack("i", len(HELLO)))
        with pytest.raises(PermissionError):
            near.send(b"q" * len(HELLO) * before + HELLO)
        event = bench.match(since)

        assert event is not None
        assert event.match is not None
        assert event.match.position == len(HELLO)
        far.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            far.recv(4096)


@pytest.mark.parametrize("is_joined", [False, True])
def test_a_faint_match_hides_no_clear_one(bench: Bench, is_joined: bool) -> None:
    """Behind a match that only alerts, one of the same dialect that blocks is still found."""
    faint = FAINT.ljust(len(HELLO), b"f")
    with datagrams(bench) as (near, far):
        since = bench.since()
        if is_joined:
            near.set_option(IPPROTO_UDP, UDP_SEGMENT, struct.pack("i", len(HELLO)))
        else:
            near.send(faint)
        with pytest.raises(PermissionError):
            near.send(faint + HELLO if is_joined else HELLO)
        events = [e for e in bench.enclosure.events(bench.key, since) if e.match]

        assert [(matched(e.match), e.verdict) for e in events if e.match] == [
            (("tunnel/faint",), Verdict.ALLOW),
            (("tunnel/wireguard",), Verdict.DENY),
        ]
        if not is_joined:
            assert far.recv(4096) == faint
        far.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            far.recv(4096)


def test_a_connection_older_than_the_wall(bench: Bench) -> None:
    """What is said first once there is a wall is read as a beginning."""
    with (
        temp_cgroup() as cgroup,
        puppet(bench.lab.near, cgroup, timeout_s=PATIENCE_S) as actor,
        raw_peer(bench.lab, RAW, PORT, 99) as peer,
    ):
        sock = actor.open("tcp")
        sock.begin_connect(RAW, PORT)
        peer.accept()
        sock.send(b"older")
        wait_until(lambda: peer.count(b"older") >= 1, what="what was said before")
        peer.say(0, b"", ACK, heard=5)
        with bench.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
            sock.send(SUBSCRIBE)
            event = bench.enclosure.await_event(key, lambda e: e.match is not None)

            assert event is not None
            assert not peer.count(SUBSCRIBE)
            sock.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
