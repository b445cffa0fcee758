# SPDX-License-Identifier: Apache-2.0
"""Signatures in the kernel: what is said is found wherever it is cut, and does not get out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.inspection import (
    BANNER,
    HELLO,
    NOTIFY,
    SUBSCRIBE,
    UPGRADE,
    WEAK,
    Inspector,
    matched,
)
from rig.lab import OUTSIDE, PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import Server, tcp_server, udp_server
from rig.process import wait_until
from rig.puppet import PATIENCE_S, SILENCE_S, Puppet, PuppetSocket, puppet

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import ReasonCode, Verdict

pytestmark = pytest.mark.kernel

POLICY = f"""
    name: inspected
    allow:
      - {{cidr: {PERMITTED}, ports: [1-65535, udp/1-65535, icmp]}}
      - {{cidr: "{PERMITTED6}", ports: [1-65535, udp/1-65535, icmp]}}
      - {{cidr: {OUTSIDE}, ports: [1-65535], except: [mining, tunnel/test-ssh]}}
"""
ADDRESSES = (PERMITTED, PERMITTED6)
PORT = 3333


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    lab: Lab
    enclosure: Enclosure
    servers: dict[tuple[str, str], Server]

    @contextmanager
    def sandbox(self, text: str = POLICY) -> Iterator[tuple[SandboxKey, Puppet]]:
        with (
            temp_cgroup() as cgroup,
            self.enclosure.enclosed(cgroup, parse_policy(text)) as key,
            puppet(self.lab.near, cgroup, timeout_s=PATIENCE_S) as actor,
        ):
            for server in self.servers.values():
                server.clear()
            yield key, actor

    def found(self, key: SandboxKey) -> list[Attempt]:
        """What was recognised so far."""
        return [e for e in self.enclosure.events(key) if e.code is ReasonCode.SIGNATURE]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with lab() as made, enclosure(made.near) as wall, ExitStack() as stack:
        wall.inspector = Inspector(wall.wall)
        servers = {
            (kind, address): stack.enter_context(
                serve(made.far, address, PORT, session=lambda: answer)
            )
            for kind, serve in (("tcp", tcp_server), ("udp", udp_server))
            for address in (*ADDRESSES, OUTSIDE)
        }
        yield Bench(lab=made, enclosure=wall, servers=servers)


def answer(data: bytes) -> bytes:
    """Say what a pool says when it is asked to."""
    if data.startswith(b"pool"):
        return NOTIFY
    return BANNER if data.startswith(b"ssh") else b""


def opened(actor: Puppet, address: str, kind: str = "tcp") -> PuppetSocket:
    sock = actor.open(kind, address)
    sock.connect(address, PORT)
    return sock


def say(sock: PuppetSocket, data: bytes, size: int) -> None:
    """Write *data* in pieces of *size* bytes."""
    for at in range(0, len(data), size):
        sock.send(data[at : at + size])


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("message", [SUBSCRIBE, BANNER], ids=["mining", "ssh"])
def test_nothing_gets_out_in_one_piece(bench, address, message):
    """Said in one piece, 0 bytes arrive; the event says what it was."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, address)
        sock.send(message)
        sock.send(b"more")
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event is not None
        assert event.verdict is Verdict.DENY
        assert event.match.left_bytes == 0
        assert message.startswith(event.match.text)
        assert event.match.position == len(event.match.text)
        assert bench.servers["tcp", address].received == b""
        assert len(bench.found(key)) == 1


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("size", [1, 7, 10])
def test_pieces(bench, address, size):
    """Written in pieces, less than one message arrives, and the whole of it is in the event."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, address)
        say(sock, SUBSCRIBE, size)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)
        wanted = SUBSCRIBE[: event.match.left_bytes]

        assert bench.servers["tcp", address].wait(len(wanted)) == wanted
        assert event.match.text == SUBSCRIBE[: event.match.position]
        assert event.match.position == SUBSCRIBE.index(b'be"') + 3
        assert event.match.from_client


@pytest.mark.parametrize("before", [1, 3000, 20_000, 60_000])
def test_after_other_lines(bench, before):
    """What is no mining goes out, however much of it; the line behind it does not."""
    line = b'{"jsonrpc": "2.0", "method": "ping"}\n'
    said = (line * (before // len(line) + 1))[-before:] if before > 1 else b"\n"
    said = b"{" + said[1:] if before > 1 else said
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(said)
        # What waits to be sent when a match comes does not leave any more.
        arrived = bench.servers["tcp", PERMITTED].wait(len(said))
        sock.send(SUBSCRIBE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert arrived == bench.servers["tcp", PERMITTED].received == said
        assert matched(event.match) == ("mining/subscribe",)
        assert event.match.left_bytes == len(said)


def test_one_large_packet(bench):
    """A match far inside one large write holds all of it back."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(b"\n" * 30_000 + SUBSCRIBE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event is not None
        received = bench.servers["tcp", PERMITTED].received
        assert received.strip() == b""
        assert event.match.text.endswith(b'subscribe"')


def test_depth(bench):
    """What lies behind the depth of the policy is not looked at, and is said so in the docs."""
    text = POLICY + "    detect: {depth_bytes: 1000}\n"
    with bench.sandbox(text) as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(b"\n" * 1000)
        sock.send(SUBSCRIBE)

        assert bench.servers["tcp", PERMITTED].wait(1000 + len(SUBSCRIBE)).endswith(SUBSCRIBE)
        assert not bench.found(key)


@pytest.mark.parametrize(("ask", "wanted"), [(b"pool", NOTIFY), (b"ssh", BANNER)])
def test_what_the_server_says(bench, ask, wanted):
    """What the other side says counts as well: it does not reach the application."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(ask)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event is not None
        assert not event.match.from_client
        assert wanted.startswith(event.match.text)
        with pytest.raises(TimeoutError):
            sock.recv(SILENCE_S)


@pytest.mark.parametrize("ask", [b"pool", b"ssh"])
def test_exceptions(bench, ask):
    """Behind a rule with exceptions what it excepts passes, both ways."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, OUTSIDE)
        sock.send(ask)

        assert sock.recv() in (NOTIFY, BANNER)
        other = opened(actor, OUTSIDE)
        other.send(SUBSCRIBE)
        bench.servers["tcp", OUTSIDE].wait(len(SUBSCRIBE))
        assert not bench.found(key)


def test_low_confidence_alerts(bench):
    """A weak signature is reported once and lets the flow be."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(WEAK + b"rest")
        bench.servers["tcp", PERMITTED].wait(7)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event.verdict is Verdict.ALLOW, describe(event)
        assert matched(event.match) == ("tunnel/weak",)


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("mode: audit", Verdict.WOULD_DENY),
        ("mode: observe", Verdict.ALLOW),
        ("detect: {mining: alert}", Verdict.ALLOW),
        ("detect: {mining: off}", None),
    ],
)
def test_where_nothing_is_blocked(bench, line, verdict):
    """In audit and observe mode, and where the policy only alerts, the message is delivered."""
    with bench.sandbox(POLICY + f"    {line}\n") as (key, actor):
        sock = opened(actor, PERMITTED)
        say(sock, SUBSCRIBE * 3, 50)
        bench.servers["tcp", PERMITTED].wait(3 * len(SUBSCRIBE))
        found = bench.found(key)

        assert [event.verdict for event in found] == ([verdict] if verdict else [])


@pytest.mark.parametrize("address", ADDRESSES)
def test_datagrams(bench, address):
    """A datagram is judged whole: one of another size passes, and so do others after a drop."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, address, "udp")
        sock.send(HELLO + b"x")
        sock.send(HELLO[:-1])
        with pytest.raises(PermissionError):
            sock.send(HELLO)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert matched(event.match) == ("tunnel/wireguard",)
        assert event.match.position == len(HELLO)
        wait_until(lambda: bench.servers["udp", address].connections == 2, what="two datagrams")


def test_a_new_connection_begins_anew(bench):
    """What one connection was cut off in the middle of says nothing about the next one."""
    with bench.sandbox() as (key, actor):
        half = len(SUBSCRIBE) // 2
        first = opened(actor, PERMITTED)
        first.send(SUBSCRIBE[:half])
        first.close()
        second = opened(actor, PERMITTED)
        second.send(SUBSCRIBE[half:])
        bench.servers["tcp", PERMITTED].wait(len(SUBSCRIBE))

        assert not bench.found(key)


def test_one_socket_used_again(bench):
    """A socket that connects again, after disconnecting, is read from its new first byte."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(b"x" * 100)
        sock.disconnect()
        sock.connect(PERMITTED, PORT)
        sock.send(SUBSCRIBE)

        assert bench.enclosure.await_event(key, lambda e: e.match is not None)


def test_an_urgent_byte(bench):
    """Urgent data, which the peer may read elsewhere, is not let into a stream that is read."""
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED)
        sock.send(SUBSCRIBE[:30])
        sock.send_urgent(b"X")
        with suppress(OSError):
            sock.send(SUBSCRIBE[30:])
        event = bench.enclosure.await_event(key, lambda e: e.code is ReasonCode.UNREADABLE)

        assert event is not None
        assert event.verdict is Verdict.DENY
        assert bench.servers["tcp", PERMITTED].wait(30) == SUBSCRIBE[:30]


def test_hand_over(bench):
    """After an upgrade both sides' bytes come to user space, in order, up to the limit."""
    with bench.sandbox() as (key, actor):
        bench.enclosure.wall.excerpts()
        sock = opened(actor, PERMITTED)
        sock.send(UPGRADE)
        sock.send(b"\x81\x85abcdefghi")
        bench.servers["tcp", PERMITTED].wait(len(UPGRADE) + 11)
        found = [e for e in bench.enclosure.wall.excerpts() if e.attempt.sandbox == key]

        assert [(e.position, e.data) for e in found] == [
            (0, UPGRADE),
            (len(UPGRADE), b"\x81\x85abcdefghi"),
        ]
        assert all(e.from_client for e in found)
        for _ in range(40):
            sock.send(b"y" * 1000)
        bench.servers["tcp", PERMITTED].wait(len(UPGRADE) + 11 + 40_000)
        more = [e for e in bench.enclosure.wall.excerpts() if e.attempt.sandbox == key]
        assert 3000 <= sum(len(e.data) for e in more) <= 5120
        assert not bench.found(key)


def test_inbound(bench):
    """A visitor is the client: what it says is read at ingress, what is answered at egress."""
    text = """
        name: visited
        inbound:
          - {cidr: any, ports: [3333]}
    """
    with bench.sandbox(text) as (key, actor):
        listener = actor.open("tcp", "0.0.0.0")
        listener.bind("0.0.0.0", PORT)
        listener.listen()
        with bench.lab.far.call(__import__("socket").socket) as visitor:
            visitor.settimeout(PATIENCE_S)
            visitor.connect(("192.0.2.2", PORT))
            accepted = listener.accept()
            visitor.sendall(b"hi")
            assert accepted.recv() == b"hi"
            accepted.send(NOTIFY)
            accepted.send(BANNER)
            event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        # The visitor said nothing of the kind, so the sandbox plays a pool's part.
        assert event is not None
        assert not event.match.from_client
        assert event.match.position <= len(NOTIFY)
