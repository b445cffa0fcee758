# SPDX-License-Identifier: Apache-2.0
"""connect and sendmsg: the decision table, the errno, who is judged, and when."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, at, describe, parse_policy
from rig.ground import PORT
from rig.lab import INTERNAL, METADATA, OUTSIDE, OUTSIDE6, OUTSIDE_OTHER, PERMITTED, PERMITTED6
from rig.puppet import PATIENCE_S, Puppet, puppet
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Hook, ReasonCode, Verdict
from agentwall.policy.model import REFUSALS, LoopbackScope

pytestmark = pytest.mark.kernel

TABLE_POLICY = parse_policy(
    f"""
    name: table
    allow:
      - {{cidr: 203.0.113.0/24, ports: [7000-7005, udp/7000]}}
      - {{cidr: "2001:db8:a::/64", ports: [7000, udp/7000]}}
      - {{cidr: any, ports: [7064, udp/7064]}}
      - {{cidr: {INTERNAL}, ports: [7000]}}
    deny:
      - cidr: {OUTSIDE_OTHER}
      - {{cidr: 203.0.113.11, ports: [7001]}}
    """
)
ONE_DESTINATION = parse_policy(
    f"""
    name: one
    allow: [{{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}]}}]
    """
)
NOTHING = parse_policy("name: nothing\n")


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


def try_once(actor: Puppet, call: str, address: str, port: int) -> int:
    """Make one call and return its errno, 0 for success."""
    sock = actor.open("tcp" if call == "tcp" else "udp", address)
    try:
        if call == "sendto":
            sock.sendto(b"x", address, port)
        else:
            sock.connect(address, port)
    except OSError as err:
        return err.errno or errno.EIO
    finally:
        sock.close()
    return 0


@pytest.fixture(scope="module")
def table(shop: Workshop) -> Iterator[tuple[Puppet, Enclosure, SandboxKey]]:
    """A puppet behind TABLE_POLICY."""
    with (
        shop.bench() as made,
        shop.enclosure.enclosed(made.cgroup, TABLE_POLICY) as key,
        made.puppet() as actor,
    ):
        yield actor, shop.enclosure, key


@pytest.mark.parametrize(
    ("call", "address", "port", "hook"),
    [
        # Inside an allowed prefix, and at the edges of its ports.
        ("tcp", PERMITTED, 7000, None),
        ("tcp", PERMITTED, 7005, None),
        ("tcp", PERMITTED, 6999, "connect4"),
        ("tcp", PERMITTED, 7006, "connect4"),
        ("tcp", "203.0.114.1", 7000, "connect4"),
        ("tcp", PERMITTED6, 7000, None),
        ("tcp", PERMITTED6, 7001, "connect6"),
        ("tcp", OUTSIDE6, 7000, "connect6"),
        ("sendto", PERMITTED, 7000, None),
        ("sendto", PERMITTED, 7001, "sendmsg4"),
        ("sendto", PERMITTED6, 7000, None),
        ("sendto", OUTSIDE6, 7000, "sendmsg6"),
        # A deny beats the allow around it, with and without ports.
        ("tcp", OUTSIDE_OTHER, 7000, "connect4"),
        ("sendto", OUTSIDE_OTHER, 7000, "sendmsg4"),
        ("tcp", OUTSIDE_OTHER, 7064, "connect4"),
        ("tcp", "203.0.113.11", 7000, None),
        ("tcp", "203.0.113.11", 7001, "connect4"),
        # IPv4 in every IPv6 form is that IPv4.
        ("tcp", f"::ffff:{PERMITTED}", 7000, None),
        ("tcp", f"::ffff:{OUTSIDE_OTHER}", 7000, "connect6"),
        ("sendto", f"::ffff:{PERMITTED}", 7000, None),
        ("sendto", f"::ffff:{OUTSIDE_OTHER}", 7064, "sendmsg4"),
        ("tcp", "64:ff9b::cb00:710a", 7000, None),
        ("tcp", "64:ff9b::cb00:7142", 7064, "connect6"),
        ("tcp", "2002:cb00:710a::1", 7000, None),
        ("tcp", "2002:cb00:7142::1", 7064, "connect6"),
        # `any` opens what is not reserved, a rule inside a reserved block only itself.
        ("tcp", OUTSIDE, 7064, None),
        ("tcp", OUTSIDE6, 7064, None),
        ("sendto", OUTSIDE, 7064, None),
        ("tcp", INTERNAL, 7000, None),
        ("tcp", INTERNAL, 7064, "connect4"),
        ("tcp", "10.77.0.21", 7000, "connect4"),
        ("tcp", METADATA, 7064, "connect4"),
        ("tcp", "64:ff9b::a9fe:a9fe", 7064, "connect6"),
        ("tcp", "fe80::f", 7064, "connect6"),
        ("tcp", "fd00:ec2::254", 7064, "connect6"),
        ("sendto", "255.255.255.255", 7064, "sendmsg4"),
        ("sendto", "224.0.0.251", 7064, "sendmsg4"),
        ("sendto", "ff02::fb", 7064, "sendmsg6"),
        # Loopback is free in a namespace of the sandbox's own, by each of its names.
        ("tcp", "127.0.0.1", 7000, None),
        ("tcp", "127.8.9.10", 7000, None),
        ("tcp", "0.0.0.0", 7000, None),
        ("tcp", "::1", 7000, None),
        ("tcp", "::", 7000, None),
        ("sendto", "127.0.0.1", 7000, None),
    ],
)
def test_connect_and_sendmsg_decide_as_the_policy_says(
    table: tuple[Puppet, Enclosure, SandboxKey],
    call: str,
    address: str,
    port: int,
    hook: str | None,
) -> None:
    """A denied call gets EPERM at once and one event; a permitted one goes through."""
    actor, wall, key = table
    before = len(wall.events(key))

    seen = try_once(actor, call, address, port)

    refusals = wall.refusals(key, before)
    if hook is None:
        # Where nobody listens the far kernel answers; that is not ours to refuse.
        assert seen in (0, errno.ECONNREFUSED)
        assert [describe(event) for event in refusals] == []
    else:
        assert seen == errno.EPERM
        assert [event.hook.value for event in refusals] == [hook]
        assert refusals[0].errno == errno.EPERM
        assert refusals[0].task.pid == actor.pid
        assert refusals[0].remote is not None
        assert refusals[0].remote.port == port


@pytest.mark.parametrize(
    ("address", "port", "seen", "probes"),
    [
        (PERMITTED, 7001, 0, 0),
        (PERMITTED6, 9, 0, 0),
        (OUTSIDE, 9, 0, 0),
        (OUTSIDE_OTHER, 9, errno.EPERM, 1),
        (METADATA, 80, errno.EPERM, 1),
        (f"::ffff:{OUTSIDE_OTHER}", 9, errno.EPERM, 1),
    ],
)
def test_udp_connect_asks_for_the_address_only(
    table: tuple[Puppet, Enclosure, SandboxKey], address: str, port: int, seen: int, probes: int
) -> None:
    """UDP connect() passes where some port of the address is open; refused, it is but a probe."""
    actor, wall, key = table
    before, counted = len(wall.events(key)), wall.counters(key)

    assert try_once(actor, "udp-connect", address, port) == seen
    assert wall.counters(key).probes - counted.probes == probes
    assert wall.counters(key).denied == counted.denied
    assert wall.events(key, before) == []


@pytest.mark.parametrize("refuse_with", sorted(REFUSALS))
def test_refuse_with_chooses_the_errno(bench: Workbench, refuse_with: str) -> None:
    """connect and sendmsg, IPv4 and IPv6, fail with the errno that the policy names."""
    policy = replace(NOTHING, refuse_with=refuse_with)
    calls = [(call, to) for call in ("tcp", "sendto", "udp-connect") for to in (OUTSIDE, OUTSIDE6)]

    with bench.enclosure.enclosed(bench.cgroup, policy) as key:
        with bench.puppet() as actor:
            seen = {try_once(actor, call, to, PORT) for call, to in calls}
        reported = {event.errno for event in bench.enclosure.refusals(key)}

    assert seen == {REFUSALS[refuse_with]}
    assert reported == {REFUSALS[refuse_with]}
    assert bench.ground.settle_without_noise() == []


def test_attached_is_denied_until_activated(bench: Workbench) -> None:
    """From attach on everything is refused, also with a policy bound, until activate."""
    wall = bench.enclosure
    with bench.puppet() as actor:
        old = actor.open("udp")
        key = wall.attach(bench.cgroup)
        try:
            seen = []
            for step in (lambda: None, lambda: wall.bind(key, ONE_DESTINATION)):
                step()
                with pytest.raises(PermissionError):
                    actor.open("tcp")
                with pytest.raises(PermissionError):
                    old.sendto(b"x", PERMITTED, PORT)
                seen.append(bench.ground.settle_without_noise())
            wall.wall.activate(bench.cgroup, key)
            old.sendto(b"now", PERMITTED, PORT)
            arrived = bench.ground.settle()
        finally:
            wall.wall.detach(key)

    assert seen == [[], []]
    assert [p.payload for p in arrived if p.is_to(PERMITTED, PORT)] == [b"now"]


@pytest.mark.parametrize(
    ("scope", "relay", "own"),
    [
        (LoopbackScope.FREE, True, True),
        (LoopbackScope.OWN_LISTENERS, False, True),
        (LoopbackScope.CLOSED, False, False),
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("call", ["tcp", "sendto"])
def test_loopback_reaches_as_far_as_its_scope(
    bench: Workbench, scope: LoopbackScope, relay: bool, own: bool, address: str, call: str
) -> None:
    """A relay of another cgroup is reached only if loopback is free, an own one unless closed."""
    with (
        bench.enclosure.enclosed(bench.cgroup, NOTHING, loopback=scope),
        bench.puppet() as actor,
    ):
        listener = actor.open("tcp" if call == "tcp" else "udp", address)
        listener.bind(address, 7777)
        if call == "tcp":
            listener.listen()

        reached = [try_once(actor, call, address, port) == 0 for port in (PORT, 7777)]

    assert reached == [relay, own]


def test_children_inherit(bench: Workbench) -> None:
    """A cgroup made inside the sandbox's, before or after attach and two deep, is judged alike."""
    before = bench.cgroup / "before"
    before.mkdir()
    with bench.enclosure.enclosed(bench.cgroup, ONE_DESTINATION) as key:
        after = bench.cgroup / "after" / "deeper"
        after.mkdir(parents=True)
        for child in (before, after):
            with puppet(bench.ground.near, child, timeout_s=PATIENCE_S) as actor:
                assert try_once(actor, "tcp", PERMITTED, PORT) == 0
                assert try_once(actor, "tcp", OUTSIDE, PORT) == errno.EPERM
                assert try_once(actor, "sendto", OUTSIDE, PORT) == errno.EPERM
        refusals = bench.enclosure.refusals(key)

    assert [event.hook.value for event in refusals] == ["connect4", "sendmsg4"] * 2


def test_two_sandboxes_do_not_share(bench: Workbench) -> None:
    """What one sandbox may do opens nothing for another, and each gets its own events."""
    wall = bench.enclosure
    with (
        temp_cgroup() as other,
        wall.enclosed(bench.cgroup, ONE_DESTINATION) as key,
        wall.enclosed(other, NOTHING) as other_key,
        bench.puppet() as actor,
        puppet(bench.ground.near, other, timeout_s=PATIENCE_S) as neighbour,
    ):
        assert try_once(actor, "tcp", PERMITTED, PORT) == 0
        assert try_once(neighbour, "tcp", PERMITTED, PORT) == errno.EPERM
        assert wall.refusals(key) == []
        assert [event.task.pid for event in wall.refusals(other_key)] == [neighbour.pid]


def test_a_policy_switch_judges_a_live_tcp_flow_again(bench: Workbench) -> None:
    """After the switch nothing more gets out of an open connection; switched back, it goes on."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, ONE_DESTINATION) as key, bench.puppet() as actor:
        sock = actor.open("tcp")
        sock.connect(PERMITTED, PORT)
        sock.send(b"before")
        assert sock.recv() == b"before"
        bench.ground.settle()

        denying = wall.bind(key, NOTHING)
        sock.send(b"secret")
        event = wall.await_event(key, at("egress"))
        silence = [p for p in bench.ground.settle() if p.payload]
        wall.bind(key, ONE_DESTINATION)

        assert event
        assert event.generation == denying
        assert silence == []
        assert sock.recv() == b"secret"


def test_a_policy_switch_judges_a_live_udp_flow_again(bench: Workbench) -> None:
    """After the switch the next datagram of a connected socket is refused, both ways round."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, ONE_DESTINATION) as key, bench.puppet() as actor:
        connected, unconnected = actor.open("udp"), actor.open("udp")
        connected.connect(PERMITTED, PORT)
        connected.send(b"one")
        unconnected.sendto(b"one", PERMITTED, PORT)
        bench.ground.settle()

        wall.bind(key, NOTHING)
        with pytest.raises(PermissionError):
            connected.send(b"two")
        with pytest.raises(PermissionError):
            unconnected.sendto(b"two", PERMITTED, PORT)
        silence = bench.ground.settle()
        wall.bind(key, ONE_DESTINATION)
        connected.send(b"three")
        unconnected.sendto(b"three", PERMITTED, PORT)
        arrived = bench.ground.settle()

    assert [p for p in silence if p.payload] == []
    assert [p.payload for p in arrived if p.is_to(PERMITTED, PORT)] == [b"three"] * 2


def test_socket_types_beyond_tcp_and_udp_need_a_rule(bench: Workbench) -> None:
    """A ping socket is refused at socket() unless a rule says icmp, and then judged by egress."""
    permitting = parse_policy(
        f"""
        name: ping
        allow: [{{cidr: {PERMITTED}, ports: [icmp]}}]
        """
    )
    echo = bytes([8, 0, 0, 0, 0, 7, 0, 1])
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, ONE_DESTINATION) as key:
        with bench.puppet() as actor:
            with pytest.raises(PermissionError):
                actor.open("ping")
            [refusal] = wall.refusals(key)
            wall.bind(key, permitting)
            sock = actor.open("ping")
            sock.sendto(echo, PERMITTED, 0)
            answer = sock.recv()
            with pytest.raises(PermissionError):
                sock.sendto(echo, OUTSIDE, 0)
        denied = wall.await_event(key, at("egress"))

    assert refusal.hook is Hook.SOCK_CREATE
    assert refusal.code is ReasonCode.SOCKET_TYPE
    assert refusal.verdict is Verdict.DENY
    assert refusal.protocol == 1
    assert answer[0] == 0
    assert denied
    assert denied.protocol == 1
