# SPDX-License-Identifier: Apache-2.0
"""A mode that lets more through than the rules ends by itself, whoever is there to end it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rig.ageing import end_mode
from rig.attempts import make_marker
from rig.enclosure import at, parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import NEAR4, OUTSIDE6, OUTSIDE_OTHER, PERMITTED
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.scoped import is_answered, question, raise_scope, say
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.verdict import Hook, Mode, Verdict
from agentwall.host.netns import netns_cookie

pytestmark = pytest.mark.kernel

HOUR_NS = 3600 * 1_000_000_000
POLICY = parse_policy(f"name: lenient\nallow: [{{cidr: {PERMITTED}, ports: [{PORT}]}}]")


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


def in_an_hour() -> int:
    """Return the CLOCK_BOOTTIME of then."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + HOUR_NS


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.OBSERVE])
def test_the_end_of_a_lenient_mode(bench: Workbench, mode: Mode) -> None:
    """Every hook lets through until then and refuses afterwards, live flows included."""
    wall, marker = bench.enclosure, make_marker()
    key = wall.enclose(bench.cgroup, POLICY)
    with (
        bench.puppet() as actor,
        bench.ground.far.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
        bench.ground.far.socket(socket.AF_INET, socket.SOCK_STREAM) as late_caller,
    ):
        wall.bind(key, replace(POLICY, mode=mode), until_ns=in_an_hour())
        tcp, udp, listener = actor.open("tcp"), actor.open("udp"), actor.open("tcp")
        for sock in (tcp, udp):
            sock.connect(OUTSIDE_OTHER, PORT)
        before = [is_answered(sock, b"before") for sock in (tcp, udp)]
        before.append(say(actor, "sendto", OUTSIDE6, PORT) == b"hello")
        actor.open("ping").close()
        listener.bind("0.0.0.0", INBOUND_PORT)
        listener.listen()
        caller.settimeout(PATIENCE_S)
        caller.connect((NEAR4, INBOUND_PORT))
        denied = wall.counters(key).denied
        end_mode(wall.wall, key)
        seen = len(wall.events(key))
        for kind in ("tcp", "udp", "sendto"):
            with pytest.raises(PermissionError):
                say(actor, kind, OUTSIDE_OTHER, PORT)
        with pytest.raises(PermissionError):
            actor.open("ping")
        after = [is_answered(sock, marker, SILENCE_S) for sock in (udp, tcp)]
        late_caller.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            late_caller.connect((NEAR4, INBOUND_PORT))
        assert wall.await_event(key, at("ingress"), seen)
        left = [p for p in bench.ground.settle() if marker in p.payload]
        events = wall.events(key, seen)
    wall.wall.detach(key)

    assert (before, denied) == ([True] * 3, 0)
    assert (after, left) == ([False] * 2, [])
    assert {event.verdict for event in events} == {Verdict.DENY}
    assert {event.hook for event in events} == {
        *(Hook.CONNECT4, Hook.SENDMSG4, Hook.SOCK_CREATE, Hook.EGRESS, Hook.INGRESS)
    }


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.OBSERVE])
@pytest.mark.parametrize("ends", [False, True])
def test_a_mode_that_has_not_ended(bench: Workbench, mode: Mode, ends: bool) -> None:
    """Without an end, and before it, the mode holds."""
    wall = bench.enclosure
    key = wall.attach(bench.cgroup)
    wall.bind(key, replace(POLICY, mode=mode), until_ns=in_an_hour() if ends else 0)
    wall.wall.activate(bench.cgroup, key)
    with bench.puppet() as actor:
        answers = [say(actor, kind, OUTSIDE_OTHER, PORT) for kind in ("tcp", "udp", "sendto")]
    denied = wall.counters(key).denied
    wall.wall.detach(key)

    assert answers == [b"hello"] * 3
    assert denied == 0


def test_enforce_does_not_end(bench: Workbench) -> None:
    """A time that is over makes nothing of enforce."""
    wall = bench.enclosure
    key = wall.attach(bench.cgroup)
    wall.bind(key, POLICY, until_ns=1)
    wall.wall.activate(bench.cgroup, key)
    with bench.puppet() as actor:
        answer = say(actor, "tcp", PERMITTED, PORT)
        with pytest.raises(PermissionError):
            say(actor, "tcp", OUTSIDE_OTHER, PORT)
    wall.wall.detach(key)

    assert answer == b"hello"


def test_the_default_of_a_scope_ends_as_well(bench: Workbench) -> None:
    """A scope whose default is audited for a while enforces it afterwards."""
    wall, audited = bench.enclosure, replace(POLICY, mode=Mode.AUDIT)
    key = raise_scope(wall, bench.cgroup, POLICY)
    (bench.cgroup / "unbound").mkdir()
    with bench.puppet() as actor:
        (bench.cgroup / "unbound" / "cgroup.procs").write_text(str(actor.pid))
        wall.bind(key, audited, is_scope=True, until_ns=in_an_hour())
        before = say(actor, "tcp", OUTSIDE_OTHER, PORT)
        end_mode(wall.wall, key)
        with pytest.raises(PermissionError):
            say(actor, "tcp", OUTSIDE_OTHER, PORT)
    wall.wall.detach(key)

    assert before == b"hello"


QUESTIONS = parse_policy(
    """
    name: questions
    dns: {servers: [198.51.100.53]}
    allow: [{host: hub.example.com}]
    """
)


def test_questions_are_refused_again(bench: Workbench) -> None:
    """A name that no rule permits may be asked for in audit mode, and no longer than that."""
    wall, asked = bench.enclosure, question("evil.example")
    with bench.puppet() as actor:
        key = wall.attach(bench.cgroup)
        wall.netns = bench.ground.near.call(netns_cookie)
        wall.bind(key, replace(QUESTIONS, mode=Mode.AUDIT), until_ns=in_an_hour())
        wall.netns = 0
        wall.wall.activate(bench.cgroup, key)
        sock = actor.open("udp")
        sock.connect("198.51.100.53", 53)
        sock.send(asked)
        end_mode(wall.wall, key)
        with pytest.raises(PermissionError):
            sock.send(asked)
        verdicts = [event.verdict for event in wall.refusals(key)]
    wall.wall.detach(key)

    assert verdicts == [Verdict.WOULD_DENY, Verdict.DENY]
