# SPDX-License-Identifier: Apache-2.0
"""What passes for this host, and what only looks like it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from rig.enclosure import at, describe, parse_policy
from rig.ground import PORT
from rig.lab import FAR_DEVICE, FAR_MAC, NEAR4, NEAR6, NEAR_DEVICE, NEAR_MAC
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.workbench import Workbench, Workshop, workshop

from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel

SECRET = b"a secret of the sandbox"
RELAY_PORT = 6666
"""Where something listens on loopback that is not the sandbox's."""
SERVER_PORT = 9000
RETRANSMITTED_S = 1.5
"""By then a SYN without an answer was sent again."""
BEHIND_GATEWAYS = ("2002:7f00:1::66", "64:ff9b::7f00:1", "2002::66", "64:ff9b::")
"""6to4 and NAT64 forms of 127.0.0.1 and 0.0.0.0: packets to them leave for the far side."""
CLOSED = parse_policy("name: closed\n")
GROUP, GROUP_PORT = "239.1.1.1", 5000
TO_A_GROUP = parse_policy(
    f"""
    name: group
    allow: [{{cidr: {GROUP}, ports: [udp/{GROUP_PORT}]}}]
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


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", BEHIND_GATEWAYS)
def test_loopback_behind_a_gateway_is_not_this_host(
    bench: Workbench, address: str, kind: str
) -> None:
    """Free loopback does not open the IPv6 addresses in which a loopback address stands."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, CLOSED) as key, bench.puppet() as actor:
        sock = actor.open(kind, address)
        with pytest.raises(PermissionError):
            sock.connect(address, PORT)
        if kind == "udp":
            with pytest.raises(PermissionError):
                sock.sendto(SECRET, address, PORT)
        refusals = [describe(event) for event in wall.refusals(key)]

    assert bench.ground.settle_without_noise() == []
    assert len(refusals) == 1, refusals


def test_a_peer_behind_a_gateway_is_not_this_host(bench: Workbench) -> None:
    """A caller whose 6to4 address holds 127.0.0.1 is refused like any other."""
    source = BEHIND_GATEWAYS[0]
    bench.ground.far.ip("address", "replace", f"{source}/128", "dev", "lo", "nodad")
    with bench.enclosure.enclosed(bench.cgroup, CLOSED), bench.puppet() as actor:
        listener = actor.open("tcp", NEAR6)
        listener.bind("::", SERVER_PORT)
        listener.listen()
        with bench.ground.far.socket(socket.AF_INET6, socket.SOCK_STREAM) as caller:
            caller.settimeout(SILENCE_S)
            caller.bind((source, 0))
            with pytest.raises(TimeoutError):
                caller.connect((NEAR6, SERVER_PORT))


@pytest.mark.parametrize("is_v6", [False, True])
def test_the_unspecified_source_is_not_this_host(bench: Workbench, is_v6: bool) -> None:
    """A datagram from 0.0.0.0 or ::, which anyone on the link can send, is not heard."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, CLOSED) as key, bench.puppet() as actor:
        served = actor.open("udp", "::" if is_v6 else "0.0.0.0")
        served.bind("::" if is_v6 else "0.0.0.0", SERVER_PORT)
        frame = _nameless6() if is_v6 else _nameless4()
        with bench.ground.far.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((FAR_DEVICE, 0))
            wire.send(frame)
        assert wall.await_event(key, at("ingress"))
        with pytest.raises(TimeoutError):
            served.recvfrom(SILENCE_S)
        refusals = wall.refusals(key)

    assert [event.direction.value for event in refusals] == ["in"]
    assert refusals[0].remote is not None
    assert refusals[0].remote.address.is_unspecified


def _nameless4() -> bytes:
    """Return a broadcast from 0.0.0.0: unicast from there is a martian."""
    segment = struct.pack("!HHHH", 68, SERVER_PORT, 8 + len(SECRET), 0) + SECRET
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 17, 0)
    header += bytes(4) + b"\xff" * 4
    header = header[:10] + _checksum(header) + header[12:]
    return b"\xff" * 6 + _mac(FAR_MAC) + b"\x08\x00" + header + segment


def _nameless6() -> bytes:
    ends = bytes(16) + socket.inet_pton(socket.AF_INET6, NEAR6)
    segment = struct.pack("!HHHH", 68, SERVER_PORT, 8 + len(SECRET), 0) + SECRET
    pseudo = ends + struct.pack("!IHBB", len(segment), 0, 0, 17) + segment
    segment = segment[:6] + _checksum(pseudo) + segment[8:]
    header = struct.pack("!IHBB", 6 << 28, len(segment), 17, 64)
    return _mac(NEAR_MAC) + _mac(FAR_MAC) + b"\x86\xdd" + header + ends + segment


def _checksum(data: bytes) -> bytes:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@pytest.mark.parametrize(
    ("loopback", "elsewhere"), [("127.0.0.1", "127.0.0.2"), ("::1", NEAR6)], ids=["v4", "v6"]
)
def test_a_relay_cannot_be_impersonated(bench: Workbench, loopback: str, elsewhere: str) -> None:
    """A datagram the sandbox sends itself in a relay's name does not make the relay a caller."""
    wall = bench.enclosure
    family = socket.AF_INET6 if ":" in loopback else socket.AF_INET
    scope = LoopbackScope.OWN_LISTENERS
    with (
        wall.enclosed(bench.cgroup, CLOSED, loopback=scope),
        bench.puppet() as actor,
        bench.ground.near.socket(family, socket.SOCK_DGRAM) as relay,
    ):
        relay.settimeout(SILENCE_S)
        relay.bind((loopback, RELAY_PORT))
        served, impostor = actor.open("udp", loopback), actor.open("udp", loopback)
        served.bind(loopback, SERVER_PORT)
        impostor.bind(elsewhere, RELAY_PORT)
        impostor.sendto_as(loopback, b"hello", loopback, SERVER_PORT)
        assert served.recvfrom() == (b"hello", loopback, RELAY_PORT)
        with pytest.raises(PermissionError):
            served.sendto(SECRET, loopback, RELAY_PORT)
        served.connect(loopback, RELAY_PORT)
        with pytest.raises(PermissionError):
            served.send(SECRET)
        with pytest.raises(TimeoutError):
            relay.recv(64)


@pytest.mark.parametrize("scope", [LoopbackScope.OWN_LISTENERS, LoopbackScope.CLOSED])
@pytest.mark.parametrize(
    ("loopback", "bound"),
    [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::1", "::1"), ("::1", "::")],
)
def test_a_caller_on_the_host_is_answered(
    bench: Workbench, loopback: str, bound: str, scope: LoopbackScope
) -> None:
    """A process outside that connected its UDP socket to the sandbox's server gets its answer."""
    family = socket.AF_INET6 if ":" in loopback else socket.AF_INET
    with (
        bench.enclosure.enclosed(bench.cgroup, CLOSED, loopback=scope),
        bench.puppet() as actor,
        bench.ground.near.socket(family, socket.SOCK_DGRAM) as caller,
    ):
        served = actor.open("udp", loopback)
        served.bind(bound, SERVER_PORT)
        caller.settimeout(PATIENCE_S)
        caller.connect((loopback, SERVER_PORT))
        for _ in range(5):
            caller.send(b"question")
            _, address, port = served.recvfrom()
            served.sendto(b"answer", address, port)
            assert caller.recv(64) == b"answer"


def test_a_syn_sent_again_is_judged_again(bench: Workbench) -> None:
    """Who takes over the port of an own listener that never answered is not reached."""
    scope = LoopbackScope.OWN_LISTENERS
    with (
        bench.enclosure.enclosed(bench.cgroup, CLOSED, loopback=scope),
        bench.puppet() as actor,
        bench.ground.near.socket(socket.AF_INET, socket.SOCK_STREAM) as relay,
    ):
        listener, client = actor.open("tcp"), actor.open("tcp")
        listener.bind("127.0.0.1", RELAY_PORT)
        listener.turn_deaf()
        listener.listen()
        client.begin_connect("127.0.0.1", RELAY_PORT)
        listener.close()
        relay.settimeout(RETRANSMITTED_S)
        relay.bind(("127.0.0.1", RELAY_PORT))
        relay.listen()
        with pytest.raises(TimeoutError):
            relay.accept()


def test_a_group_on_this_host_hears_only_the_permitted_port(bench: Workbench) -> None:
    """A connected socket reaches members on this host past egress, so connect() takes the port."""
    wall = bench.enclosure
    bench.ground.near.ip("route", "replace", f"{GROUP}/32", "dev", NEAR_DEVICE)
    with (
        wall.enclosed(bench.cgroup, TO_A_GROUP) as key,
        bench.puppet() as actor,
        bench.ground.near.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
    ):
        member.settimeout(PATIENCE_S)
        member.bind(("0.0.0.0", GROUP_PORT))
        membership = socket.inet_aton(GROUP) + socket.inet_aton(NEAR4)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock = actor.open("udp")
        with pytest.raises(PermissionError):
            sock.connect(GROUP, GROUP_PORT + 1)
        sock.connect(GROUP, GROUP_PORT)
        sock.send(b"permitted")

        assert member.recv(64) == b"permitted"
        assert wall.refusals(key) == []
        assert wall.counters(key).probes == 1
