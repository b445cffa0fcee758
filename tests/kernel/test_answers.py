# SPDX-License-Identifier: Apache-2.0
"""UDP peers that may be answered: only for as long as they may call, and only at that port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from rig.enclosure import parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import NEAR4, OUTSIDE, PERMITTED
from rig.process import wait_until
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Direction

pytestmark = pytest.mark.kernel

CLOSED = parse_policy("name: closed\n")
EPHEMERAL = (45000, 45001)
EPHEMERAL_DEFAULT = "32768 60999"
CALLED_PORTS = f"udp/{INBOUND_PORT}, udp/{EPHEMERAL[0]}-{EPHEMERAL[1]}"
CALLED = parse_policy(
    f"""
    name: called
    allow: [{{cidr: {OUTSIDE}, ports: [udp/{PORT}]}}]
    inbound: [{{cidr: {PERMITTED}, ports: [{CALLED_PORTS}]}}]
    """
)


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


@pytest.fixture
def caller(bench: Workbench) -> Iterator[socket.socket]:
    """A far UDP socket that the inbound rule speaks of."""
    with bench.ground.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.bind((PERMITTED, 0))
        yield sock


def test_a_policy_switch_ends_the_right_to_answer(bench: Workbench, caller: socket.socket) -> None:
    """Once its inbound rule is gone, a peer that was heard a moment ago is answered no more."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, CALLED) as key, bench.puppet() as actor:
        served = actor.open("udp")
        served.bind("0.0.0.0", INBOUND_PORT)
        caller.sendto(b"question", (NEAR4, INBOUND_PORT))
        _, address, port = served.recvfrom()
        wall.bind(key, CALLED)
        served.sendto(b"still permitted", address, port)
        assert caller.recv(64) == b"still permitted"

        denying = wall.bind(key, CLOSED)
        with pytest.raises(PermissionError):
            served.sendto(b"secret", address, port)
        caller.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            caller.recv(64)
        [refusal] = [e for e in wall.refusals(key) if e.generation == denying]

    assert refusal.direction is Direction.OUT
    assert refusal.remote is not None
    assert (str(refusal.remote.address), refusal.remote.port) == (PERMITTED, port)


def test_a_socket_that_moves_to_another_port_is_judged_there(
    bench: Workbench, caller: socket.socket
) -> None:
    """A peer that was heard at a permitted port is not heard at another one of the same socket."""
    near = bench.ground.near
    near.set("net/ipv4/ip_local_port_range", " ".join(map(str, EPHEMERAL)))
    try:
        with bench.enclosure.enclosed(bench.cgroup, CALLED), bench.puppet() as actor:
            served = actor.open("udp")
            served.sendto(b"gives it a port", OUTSIDE, PORT)
            served.recv()
            caller.sendto(b"permitted", (NEAR4, served.port()))
            assert served.recv() == b"permitted"
            served.disconnect()
            served.bind("0.0.0.0", INBOUND_PORT + 1)
            caller.sendto(b"command", (NEAR4, INBOUND_PORT + 1))
            with pytest.raises(TimeoutError):
                served.recv(SILENCE_S)
    finally:
        near.set("net/ipv4/ip_local_port_range", EPHEMERAL_DEFAULT)


def test_a_sandbox_that_talks_to_itself_takes_no_room_from_others(bench: Workbench) -> None:
    """What a sandbox sends itself is not noted where the callers of all sandboxes are."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, CLOSED), bench.puppet() as actor:
        noted = len(list(wall.wall.maps()["aw_peers"].entries()))
        served = actor.open("udp")
        served.bind("127.0.0.1", INBOUND_PORT)
        for _ in range(5):
            sender = actor.open("udp")
            sender.sendto(b"question", "127.0.0.1", INBOUND_PORT)
            _, address, port = served.recvfrom()
            served.sendto(b"answer", address, port)
            assert sender.recv() == b"answer"

        assert len(list(wall.wall.maps()["aw_peers"].entries())) == noted


def test_what_is_dropped_before_admission_is_counted(
    bench: Workbench, caller: socket.socket
) -> None:
    """Between attach and the last step of admission a socket hears nothing, and that is counted."""
    wall = bench.enclosure
    with bench.puppet() as actor:
        early = actor.open("udp")
        early.bind("0.0.0.0", INBOUND_PORT)
        before = wall.counters(SandboxKey(0)).denied
        key = wall.attach(bench.cgroup)
        try:
            caller.sendto(b"too early", (NEAR4, INBOUND_PORT))
            nobody = SandboxKey(0)
            wait_until(lambda: wall.counters(nobody).denied > before, what="what was dropped")
            with pytest.raises(TimeoutError):
                early.recv(SILENCE_S)
            counted = wall.counters(SandboxKey(0)).denied - before
        finally:
            wall.wall.detach(key)

    assert counted == 1
