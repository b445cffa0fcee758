# SPDX-License-Identifier: Apache-2.0
"""Who may call the sandbox, and what may be answered: inbound rules and reply state."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from rig.enclosure import at, describe, parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import (
    FAR4,
    FAR6,
    NEAR4,
    NEAR6,
    OUTSIDE,
    OUTSIDE6,
    OUTSIDE_OTHER,
    PERMITTED,
    PERMITTED6,
)
from rig.puppet import PATIENCE_S, SILENCE_S, PuppetSocket
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

REPLY_NS = 30_000_000_000
"""AW_PEER_NS."""
LEFT_NS = 10_000_000_000
"""What is answered in time is answered within so long, whatever else the machine does."""
SERVING = parse_policy(
    f"""
    name: serving
    allow: [{{cidr: {OUTSIDE}, ports: [{PORT}, udp/{PORT}]}}]
    inbound:
      - {{cidr: {PERMITTED}, ports: [{INBOUND_PORT}, udp/{INBOUND_PORT}], note: the orchestrator}}
      - {{cidr: "2001:db8:a::/64", ports: [{INBOUND_PORT}, udp/{INBOUND_PORT}]}}
    """
)
CLOSED = parse_policy("name: closed\n")


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    """The ground and the wall, built once."""
    with workshop() as made:
        yield made


@pytest.fixture
def bench(shop: Workshop) -> Iterator[Workbench]:
    """A new cgroup on the shared ground."""
    with shop.bench() as made:
        yield made


@contextmanager
def peer(bench: Workbench, address: str, kind: int, port: int = 0) -> Iterator[socket.socket]:
    """Make a far socket bound to *address*."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with bench.ground.far.socket(family, kind) as sock:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        yield sock


def near_of(address: str) -> str:
    """Return the near side's address of the family of *address*."""
    return NEAR6 if ":" in address else NEAR4


def listening(bench: Workbench, actor_socket: PuppetSocket, address: str, port: int) -> None:
    """Make the puppet's socket a listener on every address."""
    del bench
    actor_socket.bind("::" if ":" in address else "0.0.0.0", port)
    actor_socket.listen()


@pytest.mark.parametrize("address", [PERMITTED, PERMITTED6])
def test_a_permitted_peer_is_served_over_tcp(bench: Workbench, address: str) -> None:
    """The orchestrator connects, asks and is answered, many times over; one event says so."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, SERVING) as key, bench.puppet() as actor:
        listener = actor.open("tcp", address)
        listening(bench, listener, address, INBOUND_PORT)
        with peer(bench, address, socket.SOCK_STREAM) as caller:
            caller.connect((near_of(address), INBOUND_PORT))
            served = listener.accept()
            for number in range(20):
                question = b"question %d" % number
                caller.sendall(question)
                assert served.recv() == question
                served.send(b"answer")
                assert caller.recv(64) == b"answer"
        served.close()
        events = wall.events(key)

    assert [(e.direction, e.verdict, e.code) for e in events] == [
        (Direction.IN, Verdict.ALLOW, ReasonCode.RULE)
    ]
    assert events[0].remote is not None
    assert str(events[0].remote.address) == address


@pytest.mark.parametrize(
    ("address", "port"),
    [
        (OUTSIDE_OTHER, INBOUND_PORT),
        (OUTSIDE, INBOUND_PORT),  # where the sandbox itself may go
        (FAR4, INBOUND_PORT),
        (OUTSIDE6, INBOUND_PORT),
        (FAR6, INBOUND_PORT),
        (PERMITTED, INBOUND_PORT + 1),
        (PERMITTED6, INBOUND_PORT + 1),
    ],
)
def test_other_peers_and_ports_are_refused_over_tcp(
    bench: Workbench, address: str, port: int
) -> None:
    """A SYN that no inbound rule permits gets no answer at all, and is reported."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, SERVING) as key, bench.puppet() as actor:
        listener = actor.open("tcp", address)
        listening(bench, listener, address, port)
        with peer(bench, address, socket.SOCK_STREAM) as caller:
            caller.settimeout(SILENCE_S)
            called_from = caller.getsockname()[1]
            with pytest.raises(TimeoutError):
                caller.connect((near_of(address), port))
        event = wall.await_event(key, at("ingress"))
        answers = [p for p in bench.ground.settle() if p.is_to(address, called_from)]

    assert answers == []
    assert event
    assert event.direction is Direction.IN
    assert event.local is not None
    assert event.local.port == port
    assert event.remote is not None
    assert str(event.remote.address) == address


def test_an_inbound_rule_opens_no_way_out(bench: Workbench) -> None:
    """The sandbox cannot call its orchestrator, not even from the port it is called at."""
    with bench.enclosure.enclosed(bench.cgroup, SERVING), bench.puppet() as actor:
        for kind in ("tcp", "udp"):
            sock = actor.open(kind)
            sock.bind("0.0.0.0", INBOUND_PORT)
            with pytest.raises(PermissionError):
                sock.connect(PERMITTED, PORT)
        unconnected = actor.open("udp")
        unconnected.bind("0.0.0.0", INBOUND_PORT)
        with pytest.raises(PermissionError):
            unconnected.sendto(b"x", PERMITTED, PORT)

    assert bench.ground.settle_without_noise() == []


@pytest.mark.parametrize("address", [PERMITTED, PERMITTED6])
def test_udp_is_answered_to_the_peer_that_asked(bench: Workbench, address: str) -> None:
    """A permitted peer's datagram is heard and answered; its other port and others are not."""
    wall = bench.enclosure
    with (
        wall.enclosed(bench.cgroup, SERVING) as key,
        bench.puppet() as actor,
        peer(bench, address, socket.SOCK_DGRAM) as caller,
    ):
        served = actor.open("udp", address)
        served.bind("::" if ":" in address else "0.0.0.0", INBOUND_PORT)
        asked_from = caller.getsockname()[1]
        with pytest.raises(PermissionError):
            served.sendto(b"early", address, asked_from)
        for _ in range(20):
            caller.sendto(b"question", (near_of(address), INBOUND_PORT))
            assert served.recvfrom() == (b"question", address, asked_from)
            served.sendto(b"answer", address, asked_from)
            assert caller.recv(64) == b"answer"
        with pytest.raises(PermissionError):
            served.sendto(b"elsewhere", address, asked_from ^ 1)
        other = actor.open("udp", address)
        with pytest.raises(PermissionError):
            other.sendto(b"from another socket", address, asked_from)
        permitted = [e for e in wall.events(key) if e.verdict is Verdict.ALLOW]

    assert {(e.direction, e.code) for e in permitted} == {(Direction.IN, ReasonCode.RULE)}
    assert len(permitted) == 1


def test_a_server_may_connect_back_to_the_peer_it_heard(bench: Workbench) -> None:
    """DTLS and QUIC servers connect() their socket to the peer; before it was heard that fails."""
    with (
        bench.enclosure.enclosed(bench.cgroup, SERVING),
        bench.puppet() as actor,
        peer(bench, PERMITTED, socket.SOCK_DGRAM) as caller,
    ):
        served = actor.open("udp")
        served.bind("0.0.0.0", INBOUND_PORT)
        asked_from = caller.getsockname()[1]
        with pytest.raises(PermissionError):
            served.connect(PERMITTED, asked_from)
        caller.sendto(b"question", (NEAR4, INBOUND_PORT))
        served.recvfrom()
        served.connect(PERMITTED, asked_from)
        served.send(b"answer")

        assert caller.recv(64) == b"answer"


@pytest.mark.parametrize(
    ("address", "port"),
    [(OUTSIDE_OTHER, INBOUND_PORT), (OUTSIDE6, INBOUND_PORT), (PERMITTED, INBOUND_PORT + 1)],
)
def test_udp_from_other_peers_is_not_heard(bench: Workbench, address: str, port: int) -> None:
    """A datagram that no rule permits never reaches the application, and opens no way back."""
    wall = bench.enclosure
    with (
        wall.enclosed(bench.cgroup, SERVING) as key,
        bench.puppet() as actor,
        peer(bench, address, socket.SOCK_DGRAM) as caller,
    ):
        served = actor.open("udp", address)
        served.bind("::" if ":" in address else "0.0.0.0", port)
        caller.sendto(b"question", (near_of(address), port))
        event = wall.await_event(key, at("ingress"))
        with pytest.raises(TimeoutError):
            served.recvfrom(SILENCE_S)
        with pytest.raises(PermissionError):
            served.sendto(b"answer", address, caller.getsockname()[1])

    assert event
    assert event.direction is Direction.IN
    assert [p for p in bench.ground.settle() if p.payload] == []


def test_a_reply_is_permitted_for_thirty_seconds(bench: Workbench) -> None:
    """Shortly before 30 s since the peer's last datagram it may be answered; later it may not."""
    wall = bench.enclosure
    with (
        wall.enclosed(bench.cgroup, SERVING),
        bench.puppet() as actor,
        peer(bench, PERMITTED, socket.SOCK_DGRAM) as caller,
    ):
        served = actor.open("udp")
        served.bind("0.0.0.0", INBOUND_PORT)
        caller.sendto(b"question", (NEAR4, INBOUND_PORT))
        _, address, port = served.recvfrom()

        age_peers(wall.wall, REPLY_NS - LEFT_NS)
        served.sendto(b"in time", address, port)
        in_time = caller.recv(64)
        age_peers(wall.wall, LEFT_NS)
        with pytest.raises(PermissionError):
            served.sendto(b"too late", address, port)
        caller.sendto(b"again", (NEAR4, INBOUND_PORT))
        served.recvfrom()
        served.sendto(b"heard again", address, port)

        assert in_time == b"in time"
        assert caller.recv(64) == b"heard again"


def age_peers(wall: Wall, by_ns: int) -> None:
    """Let *by_ns* pass for every entry of aw_peers: when a peer was last heard."""
    peers = wall.maps()["aw_peers"]
    for key, value in peers.entries():
        peers.update(key, (int.from_bytes(value, "little") - by_ns).to_bytes(8, "little"))


def test_answers_to_permitted_flows_need_no_inbound_rule(bench: Workbench) -> None:
    """What the sandbox opens is answered, TCP and both ways of UDP."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, SERVING) as key, bench.puppet() as actor:
        stream, connected, unconnected = (actor.open(kind) for kind in ("tcp", "udp", "udp"))
        stream.connect(OUTSIDE, PORT)
        connected.connect(OUTSIDE, PORT)
        for sock in (stream, connected):
            sock.send(b"hello")
        unconnected.sendto(b"hello", OUTSIDE, PORT)

        assert [sock.recv() for sock in (stream, connected, unconnected)] == [b"hello"] * 3
        assert wall.refusals(key) == []


def test_own_loopback_is_not_inbound(bench: Workbench) -> None:
    """A server of the sandbox serves its own clients on loopback without any rule."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, CLOSED) as key, bench.puppet() as actor:
        for address in ("127.0.0.1", "::1"):
            listener, client = actor.open("tcp", address), actor.open("tcp", address)
            listener.bind(address, 7777)
            listener.listen()
            client.connect(address, 7777)
            served = listener.accept()
            client.send(b"question")
            assert served.recv() == b"question"
            served.send(b"answer")
            assert client.recv() == b"answer"
            datagrams, sender = actor.open("udp", address), actor.open("udp", address)
            datagrams.bind(address, 7778)
            sender.sendto(b"question", address, 7778)
            _, host, port = datagrams.recvfrom()
            datagrams.sendto(b"answer", host, port)
            assert sender.recv() == b"answer"
        assert [describe(event) for event in wall.refusals(key)] == []


def test_a_policy_switch_judges_a_live_inbound_flow_again(bench: Workbench) -> None:
    """Once its inbound rule is gone, an accepted connection gets nothing more out, nor in."""
    wall = bench.enclosure
    with (
        wall.enclosed(bench.cgroup, SERVING) as key,
        bench.puppet() as actor,
        peer(bench, PERMITTED, socket.SOCK_STREAM) as caller,
    ):
        listener = actor.open("tcp")
        listening(bench, listener, PERMITTED, INBOUND_PORT)
        caller.connect((NEAR4, INBOUND_PORT))
        served = listener.accept()
        served.send(b"before")
        assert caller.recv(64) == b"before"
        bench.ground.settle()

        denying = wall.bind(key, CLOSED)
        served.send(b"secret")
        event = wall.await_event(key, lambda e: e.verdict is Verdict.DENY)
        silence = [p for p in bench.ground.settle() if p.payload]
        with suppress(TimeoutError):
            caller.sendall(b"command")
        with pytest.raises(TimeoutError):
            served.recv(SILENCE_S)

    assert event
    assert event.generation == denying
    assert event.direction is Direction.IN
    assert silence == []


def test_only_sockets_of_the_sandbox_are_guarded(bench: Workbench) -> None:
    """A server outside the sandbox, in the same namespace, is reached as if there were no wall."""
    with (
        bench.enclosure.enclosed(bench.cgroup, CLOSED),
        peer(bench, OUTSIDE_OTHER, socket.SOCK_STREAM) as caller,
    ):
        caller.connect((NEAR4, PORT))
        caller.sendall(b"hello relay")

        assert caller.recv(64) == b"hello relay"
