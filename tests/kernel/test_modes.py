# SPDX-License-Identifier: Apache-2.0
"""observe, audit and enforce, at every hook: what passes, what is recorded, and how often."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rig.attempts import Technique, attempt, has_arrived, make_marker, read_catalog
from rig.cgroup import temp_cgroup
from rig.enclosure import describe, parse_policy
from rig.ground import IPV6_PORT, OTHER_PORT, PORT
from rig.lab import NEAR4, OUTSIDE, OUTSIDE_OTHER, PERMITTED, PERMITTED6
from rig.puppet import PATIENCE_S
from rig.socket_features import missing
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.verdict import Hook, Mode, ReasonCode, Verdict

pytestmark = pytest.mark.kernel

POLICY = parse_policy(
    f"""
    name: modes
    loopback: deny
    allow:
      - {{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "{PERMITTED6}", ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "::/0", ports: [{IPV6_PORT}, udp/{IPV6_PORT}]}}
    """
)
TECHNIQUES = [t for t in read_catalog() if t.tried == "every-mode"]
MANY = 50
IP_OPTIONS = 4


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


def test_techniques_cover_every_hook() -> None:
    """The techniques below reach every hook that refuses system calls and packets."""
    hooks = {t.blocked.hook for t in TECHNIQUES if t.blocked}

    assert hooks == {hook.value for hook in Hook} - {"sock_release", "plain"}


@pytest.mark.parametrize(
    "mode", [Mode.AUDIT, pytest.param(Mode.OBSERVE, marks=pytest.mark.slow)], ids=lambda m: m.value
)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.id)
def test_everything_arrives_unless_enforced(
    bench: Workbench, technique: Technique, mode: Mode
) -> None:
    """No hook refuses: the payload arrives, audit says would-deny and observe judges nothing."""
    if reasons := [reason for name in technique.needs if (reason := missing(name))]:
        pytest.skip("; ".join(reasons))
    wall, marker = bench.enclosure, make_marker()
    key = wall.attach(bench.cgroup) if not technique.is_late else None

    def stand_up() -> None:
        nonlocal key
        key = key or wall.attach(bench.cgroup)
        wall.bind(key, replace(POLICY, mode=mode))
        wall.wall.activate(bench.cgroup, key)

    if not technique.is_late:
        stand_up()
    with temp_cgroup() as outside:
        outcome = attempt(
            bench.ground,
            technique,
            marker,
            cgroup=bench.cgroup,
            outside=outside,
            prepared=stand_up if technique.is_late else lambda: None,
        )
    assert key
    arrived = has_arrived(bench.ground, marker, technique.reaches)
    refusals = wall.refusals(key)
    counters = wall.counters(key)
    wall.wall.detach(key)

    assert outcome.errno is None
    assert arrived
    assert counters.denied == 0
    if mode is Mode.OBSERVE:
        assert [describe(event) for event in refusals] == []
        assert counters.would_denied == 0
        assert counters.probes == 0
    else:
        assert {event.verdict for event in refusals} == {Verdict.WOULD_DENY}
        assert counters.would_denied > 0


@pytest.mark.parametrize(
    ("technique", "hook"),
    [
        ("tcp/connect-v4", "connect4"),
        ("tcp/connect-v6", "connect6"),
        ("udp/sendto-v4", "sendmsg4"),
        ("udp/sendto-v6", "sendmsg6"),
        ("udp/connect-other-port", "egress"),
        ("ping/sendto-v4", "sock_create"),
        ("inbound/accepted-v4", "ingress"),
    ],
)
def test_audit_names_the_hook_that_would_refuse(
    bench: Workbench, technique: str, hook: str
) -> None:
    """The first would-deny of a flow comes from the hook that would have answered."""
    [row] = [t for t in TECHNIQUES if t.id == technique]
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        attempt(bench.ground, row, make_marker(), cgroup=bench.cgroup, outside=bench.cgroup)
        refusals = wall.refusals(key)

    assert refusals[0].hook.value in ({hook, "egress"} if hook == "ingress" else {hook})
    assert refusals[0].errno is None


def test_audit_records_a_tcp_flow_once(bench: Workbench) -> None:
    """Fifty messages each way over a connection that would be denied make one event."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        with bench.puppet() as actor:
            sock = actor.open("tcp")
            sock.connect(OUTSIDE_OTHER, PORT)
            for _ in range(MANY):
                sock.send(b"hello")
                assert sock.recv() == b"hello"
            sock.close()
        refusals = [describe(event) for event in wall.refusals(key)]

    assert len(refusals) == 1, refusals
    assert "would-deny" in refusals[0]


@pytest.mark.parametrize("connected", [True, False])
def test_audit_records_a_udp_flow_once(bench: Workbench, connected: bool) -> None:
    """Fifty datagrams to one destination that would be denied make one event."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        with bench.puppet() as actor:
            sock = actor.open("udp")
            if connected:
                sock.connect(OUTSIDE_OTHER, PORT)
            for _ in range(MANY):
                if connected:
                    sock.send(b"hello")
                else:
                    sock.sendto(b"hello", OUTSIDE_OTHER, PORT)
                assert sock.recv() == b"hello"
        refusals = [describe(event) for event in wall.refusals(key)]

    assert len(refusals) == 1, refusals


def test_audit_records_each_destination_of_one_socket_once(bench: Workbench) -> None:
    """A resolver's socket that turns from one peer to another and back makes one event for each."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        with bench.puppet() as actor:
            sock = actor.open("udp")
            for _ in range(MANY):
                sock.sendto(b"hello", OUTSIDE_OTHER, PORT)
                sock.sendto(b"hello", OUTSIDE, PORT)
        refusals = [describe(event) for event in wall.refusals(key)]

    assert len(refusals) == 2, f"{len(refusals)} events, such as {refusals[:4]}"


def test_audit_records_packets_of_a_refused_shape_once(bench: Workbench) -> None:
    """Fifty datagrams with a source route, which no rule can permit, make one event."""
    wall = bench.enclosure
    route = bytes([131, 7, 4, *socket.inet_aton(OUTSIDE), 0])
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        with bench.puppet() as actor:
            sock = actor.open("udp")
            sock.set_option(socket.IPPROTO_IP, IP_OPTIONS, route)
            for _ in range(MANY):
                sock.sendto(b"hello", PERMITTED, PORT)
        refusals = wall.refusals(key)
        counters = wall.counters(key)

    assert [event.code for event in refusals] == [ReasonCode.IP_OPTIONS]
    assert counters.would_denied == MANY


def test_audit_records_an_inbound_flow_once(bench: Workbench) -> None:
    """A peer that would be refused is served, and recorded once, however much it says."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, replace(POLICY, mode=Mode.AUDIT)) as key:
        with (
            bench.puppet() as actor,
            bench.ground.far.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
        ):
            listener = actor.open("tcp")
            listener.bind("0.0.0.0", 8889)
            listener.listen()
            caller.settimeout(PATIENCE_S)
            caller.bind((PERMITTED, 0))
            caller.connect((NEAR4, 8889))
            served = listener.accept()
            for _ in range(MANY):
                caller.sendall(b"question")
                assert served.recv() == b"question"
                served.send(b"answer")
                assert caller.recv(64) == b"answer"
        refusals = wall.refusals(key)

    assert [event.direction.value for event in refusals] == ["in"], [*map(describe, refusals)]
    assert refusals[0].verdict is Verdict.WOULD_DENY


def test_enforce_reports_a_dropped_flow_once(bench: Workbench) -> None:
    """Datagrams of a connected socket that egress drops are all counted and reported once."""
    wall = bench.enclosure
    with wall.enclosed(bench.cgroup, POLICY) as key:
        with bench.puppet() as actor:
            sock = actor.open("udp")
            sock.connect(PERMITTED, OTHER_PORT)
            for _ in range(MANY):
                with pytest.raises(PermissionError):
                    sock.send(b"hello")
        refusals = wall.refusals(key)
        counters = wall.counters(key)

    assert [describe(e) for e in refusals] == [
        f"egress out deny no-rule 17 {PERMITTED}:{OTHER_PORT} errno=None"
    ]
    assert counters.denied == MANY


def test_totals_tell_what_passed_in_each_mode(bench: Workbench) -> None:
    """Traffic that passed is counted under its verdict: allow, would-deny, and observed."""
    wall = bench.enclosure
    verdicts = {}
    with wall.enclosed(bench.cgroup, POLICY) as key, bench.puppet() as actor:
        wall.wall.totals()
        for mode, to in (
            (Mode.ENFORCE, PERMITTED),
            (Mode.AUDIT, OUTSIDE_OTHER),
            (Mode.OBSERVE, OUTSIDE),
        ):
            wall.bind(key, replace(POLICY, mode=mode))
            sock = actor.open("tcp")
            sock.connect(to, PORT)
            for _ in range(MANY):
                sock.send(bytes(100))
                sock.recv()
            sock.close()
            bench.ground.settle()
            # The end of the flow before may come late, and is judged and counted anew.
            found = [t for t in wall.wall.totals() if t.sandbox == key]
            [total] = [t for t in found if str(t.remote.address) == to]
            verdicts[mode] = (total.verdict, total.code)

            assert total.bytes_out > MANY * 100
            assert total.bytes_in > MANY * 100
            assert total.sockets == 1
            assert total.duration_ns > 0

    assert verdicts == {
        Mode.ENFORCE: (Verdict.ALLOW, ReasonCode.RULE),
        Mode.AUDIT: (Verdict.WOULD_DENY, ReasonCode.NO_RULE),
        Mode.OBSERVE: (Verdict.ALLOW, ReasonCode.OBSERVED),
    }


def test_a_mode_switch_holds_from_the_next_packet(bench: Workbench) -> None:
    """Flows that audit let through, and answers to them, open nothing once enforce holds."""
    wall = bench.enclosure
    audited = replace(POLICY, mode=Mode.AUDIT)
    with wall.enclosed(bench.cgroup, audited) as key, bench.puppet() as actor:
        connected, unconnected = actor.open("udp"), actor.open("udp")
        connected.connect(OUTSIDE_OTHER, PORT)
        connected.send(b"audited")
        unconnected.sendto(b"audited", OUTSIDE_OTHER, PORT)
        assert [sock.recv() for sock in (connected, unconnected)] == [b"audited"] * 2
        bench.ground.settle()
        wall.bind(key, POLICY)
        with pytest.raises(PermissionError):
            connected.send(b"enforced")
        with pytest.raises(PermissionError):
            unconnected.sendto(b"enforced", OUTSIDE_OTHER, PORT)

    assert [p for p in bench.ground.settle() if b"enforced" in p.payload] == []
