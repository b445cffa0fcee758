# SPDX-License-Identifier: Apache-2.0
"""A scope's default policy, and the sandboxes below it: which of the two judges, from when on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, describe, parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import NEAR4, OUTSIDE6, OUTSIDE_OTHER, PERMITTED, PERMITTED6
from rig.lending import lent_wall
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.scoped import raise_scope, say, scope
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Direction, Hook, Verdict
from agentwall.kernel import cgroup2
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.links import effective_programs

pytestmark = pytest.mark.kernel

BIRTHS = 150
DEFAULT = parse_policy(
    f"""
    name: default
    allow:
      - {{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "{PERMITTED6}", ports: [{PORT}, udp/{PORT}]}}
    """
)
"""Permits the one address, and denies the other."""
OWN = parse_policy(
    f"""
    name: own
    allow:
      - {{cidr: {OUTSIDE_OTHER}, ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "{OUTSIDE6}", ports: [{PORT}, udp/{PORT}]}}
    inbound: [{{cidr: {PERMITTED}, ports: [{INBOUND_PORT}]}}]
    """
)
"""The other way round."""
CLOSED = parse_policy("name: closed\n")
ROADS = [
    (kind, *addresses)
    for addresses in ((PERMITTED, OUTSIDE_OTHER), (PERMITTED6, OUTSIDE6))
    for kind in ("tcp", "mptcp", "udp", "sendto")
]
# Each child joins a cgroup that was not there a moment ago, and connects at once: to what the
# default denies, and to what it permits.
BORN = """
import os, socket, sys

scope, births, port, denied, permitted = sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:6]
passed = refused = reached = 0
for number in range(births):
    os.mkdir(f"{scope}/born{number}")
    if not (child := os.fork()):
        with open(f"{scope}/born{number}/cgroup.procs", "w") as procs:
            procs.write("0")
        told = 0
        for address, bit in ((denied, 1), (permitted, 2)):
            with socket.socket() as sock:
                sock.settimeout(60)
                try:
                    sock.connect((address, port))
                except PermissionError:
                    continue
                told |= bit
        os._exit(told)
    told = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    passed += told & 1
    refused += not told & 1
    reached += bool(told & 2)
    os.rmdir(f"{scope}/born{number}")
print(passed, refused, reached)
"""


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


def refused_at(wall: Enclosure, key: SandboxKey) -> set[str]:
    """Return the addresses that *key* was refused, and ``a probe`` for UDP's connect()."""
    refused = {str(event.remote.address) for event in wall.refusals(key) if event.remote}
    return refused | ({"a probe"} if wall.counters(key).probes else set())


def test_the_default_holds_from_birth(bench: Workbench) -> None:
    """What a new cgroup's first process does is judged by the default: there is no window."""
    with scope(bench, DEFAULT) as made:
        told = bench.ground.near.run(
            *(sys.executable, "-I", "-S", "-c", BORN, bench.cgroup),
            *map(str, (BIRTHS, PORT, OUTSIDE_OTHER, PERMITTED)),
        )
        counted = made.enclosure.counters(made.key).denied

    assert told.stdout.split() == ["0", str(BIRTHS), str(BIRTHS)], told.stderr
    assert counted == BIRTHS


@pytest.mark.parametrize(("kind", "by_default", "by_own"), ROADS)
def test_the_default_judges_what_has_no_sandbox(
    bench: Workbench, kind: str, by_default: str, by_own: str
) -> None:
    """Below a scope, what belongs to no sandbox may do what the default permits, and no more."""
    with scope(bench, DEFAULT) as made, made.puppet(made.child("unbound")) as actor:
        answered = say(actor, kind, by_default, PORT)
        with pytest.raises(PermissionError):
            say(actor, kind, by_own, PORT)
        refused = refused_at(made.enclosure, made.key)

    assert answered == b"hello"
    assert refused == {by_own if kind != "udp" else "a probe"}


@pytest.mark.parametrize(("kind", "by_default", "by_own"), ROADS)
def test_a_sandbox_is_judged_by_its_policy_alone(
    bench: Workbench, kind: str, by_default: str, by_own: str
) -> None:
    """What the scope denies passes where the sandbox's policy permits it, and vice versa."""
    with scope(bench, DEFAULT) as made:
        child = made.child("bound")
        with made.enclosure.enclosed(child, OWN) as key, made.puppet(child) as actor:
            answered = say(actor, kind, by_own, PORT)
            with pytest.raises(PermissionError):
                say(actor, kind, by_default, PORT)
            refused = refused_at(made.enclosure, key)
            of_scope = made.enclosure.events(made.key)
            counted = made.enclosure.counters(made.key)

    assert answered == b"hello"
    assert refused == {by_default if kind != "udp" else "a probe"}
    assert [describe(event) for event in of_scope] == []
    assert (counted.denied, counted.probes) == (0, 0)


def test_children_of_a_sandbox_are_the_sandbox(bench: Workbench) -> None:
    """A cgroup made below a sandbox is judged by the sandbox's policy, not by the default."""
    with scope(bench, DEFAULT) as made:
        child = made.child("bound")
        with made.enclosure.enclosed(child, OWN):
            (child / "nested").mkdir()
            with made.puppet(child / "nested") as actor:
                answered = say(actor, "tcp", OUTSIDE_OTHER, PORT)
                with pytest.raises(PermissionError):
                    say(actor, "tcp", PERMITTED, PORT)

    assert answered == b"hello"


def test_two_sandboxes_of_a_scope(bench: Workbench) -> None:
    """Sandboxes below one scope have nothing of each other, and one's end is not the other's."""
    with scope(bench, CLOSED) as made:
        first, second = made.child("first"), made.child("second")
        wall = made.enclosure
        keys = wall.enclose(first, DEFAULT), wall.enclose(second, OWN)
        with made.puppet(first) as one, made.puppet(second) as other:
            before = [
                say(one, "tcp", PERMITTED, PORT),
                say(other, "tcp", OUTSIDE_OTHER, PORT),
            ]
            for actor, address in ((one, OUTSIDE_OTHER), (other, PERMITTED)):
                with pytest.raises(PermissionError):
                    say(actor, "tcp", address, PORT)
            refused = [len(wall.refusals(key)) for key in (*keys, made.key)]
            wall.wall.detach(keys[0])
            after = say(other, "tcp", OUTSIDE_OTHER, PORT)
            with pytest.raises(PermissionError):
                say(one, "tcp", PERMITTED, PORT)
            # But for the end of the flow before, where its server was slow to close.
            by_scope = [e.hook for e in wall.refusals(made.key) if e.hook is not Hook.EGRESS]
        wall.wall.detach(keys[1])

    assert before == [b"hello"] * 2
    assert refused == [1, 1, 0]
    assert after == b"hello"
    assert by_scope == [Hook.CONNECT4]


def test_a_sandbox_that_is_not_active_is_denied_everything(bench: Workbench) -> None:
    """From attach to activation nothing passes, not even what the default permits."""
    with scope(bench, DEFAULT) as made:
        child = made.child("early")
        with made.puppet(child) as actor:
            key = made.enclosure.attach(child)
            for kind in ("tcp", "udp", "sendto"):
                with pytest.raises(PermissionError):
                    say(actor, kind, PERMITTED, PORT)
            made.enclosure.wall.detach(key)
            after = say(actor, "tcp", PERMITTED, PORT)

    assert after == b"hello"


@pytest.mark.parametrize("bound", [True, False])
def test_who_may_call(bench: Workbench, bound: bool) -> None:
    """Callers are let in by the sandbox's inbound rules, and by the scope's where there is none."""
    with scope(bench, CLOSED) as made:
        child, wall = made.child("serving"), made.enclosure
        key = wall.enclose(child, OWN) if bound else made.key
        with (
            made.puppet(child) as actor,
            bench.ground.far.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
        ):
            listener = actor.open("tcp")
            listener.bind("0.0.0.0", INBOUND_PORT)
            listener.listen()
            caller.settimeout(PATIENCE_S if bound else SILENCE_S)
            caller.bind((PERMITTED, 0))
            answer = b""
            with suppress(TimeoutError):
                caller.connect((NEAR4, INBOUND_PORT))
                served = listener.accept()
                served.send(b"answer")
                answer = caller.recv(64)
            assert wall.await_event(key, lambda event: event.direction is Direction.IN)
            events = wall.events(key)
        if bound:
            wall.wall.detach(key)

    assert answer == (b"answer" if bound else b"")
    assert {(e.direction, e.verdict) for e in events} == {
        (Direction.IN, Verdict.ALLOW if bound else Verdict.DENY)
    }


def test_a_scope_below_a_scope(bench: Workbench) -> None:
    """Both defaults hold below both, and a sandbox there is judged by its own policy alone."""
    with scope(bench, DEFAULT) as made:
        inner, wall = made.child("inner"), made.enclosure
        key = raise_scope(wall, inner, OWN)
        (inner / "unbound").mkdir()
        (inner / "bound").mkdir()
        with made.puppet(inner / "unbound") as unbound, made.puppet(inner / "bound") as bound:
            for address in (PERMITTED, OUTSIDE_OTHER):
                for kind in ("tcp", "udp"):
                    with pytest.raises(PermissionError):
                        say(unbound, kind, address, PORT)
            with wall.enclosed(inner / "bound", OWN):
                answered = say(bound, "tcp", OUTSIDE_OTHER, PORT)
        wall.wall.detach(key)

    assert answered == b"hello"


@pytest.mark.parametrize("first", ["scope", "sandbox"])
def test_programs_of_the_sandbox_run_first(first: str) -> None:
    """At every hook the deeper cgroup's program comes first, whichever was attached first."""
    with lent_wall() as scopes, lent_wall() as sandboxes, temp_cgroup() as outer:
        inner = outer / "inner"
        inner.mkdir()
        order = [(scopes, outer), (sandboxes, inner)]
        for wall, cgroup in order if first == "scope" else reversed(order):
            wall.attach(cgroup, SandboxKey(1))
        with cgroup2.attachable(inner) as fd:
            found = {p.name: effective_programs(fd, p.attach_type) for p in scopes.programs()}
        expected = {
            own.name: [_id_of(own.fd), _id_of(above.fd)]
            for own, above in zip(sandboxes.programs(), scopes.programs(), strict=True)
        }
        sandboxes.detach(SandboxKey(1))
        scopes.detach(SandboxKey(1))

    assert found == expected
    assert set(found) >= {f"aw_{hook.name.lower()}" for hook in AttachType if hook.name[-1] in "46"}


def _id_of(program_fd: int) -> int:
    with open(f"/proc/self/fdinfo/{program_fd}", encoding="ascii") as facts:
        return next(int(line.split()[1]) for line in facts if line.startswith("prog_id:"))
