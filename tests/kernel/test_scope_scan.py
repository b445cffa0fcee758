# SPDX-License-Identifier: Apache-2.0
"""Signatures below a scope, and beside a flood: whose policy looks, and that it is heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, describe, parse_policy
from rig.inspection import SUBSCRIBE, Inspector
from rig.lab import OUTSIDE, PERMITTED, Lab, lab
from rig.listeners import Server, tcp_server
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet
from rig.scoped import raise_scope

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import Verdict
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

PORT = 3333
BUDGET = 20
BLOCKING, LETTING = (
    parse_policy(
        f"""
        name: {response}
        allow: [{{cidr: {PERMITTED}, ports: [{PORT}]}}]
        detect: {{mining: {response}}}
        """
    )
    for response in ("block", "alert")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a server, and a wall with a budget that looks for signatures."""

    lab: Lab
    enclosure: Enclosure
    server: Server

    @contextmanager
    def cgroups(self) -> Iterator[tuple[Path, Path, Puppet]]:
        """A cgroup, one below it, and a puppet in that."""
        with temp_cgroup() as above:
            below = above / "below"
            below.mkdir()
            self.server.clear()
            with puppet(self.lab.near, below, timeout_s=PATIENCE_S) as actor:
                yield above, below, actor

    def matches(self, key: SandboxKey) -> list[Attempt]:
        """What was recognised so far."""
        return [event for event in self.enclosure.events(key) if event.match is not None]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Built once."""
    with lab() as made, Wall.load(event_budget=BUDGET) as wall, ExitStack() as stack:
        enclosure = Enclosure(wall)
        enclosure.inspector = Inspector(wall)
        server = stack.enter_context(tcp_server(made.far, PERMITTED, PORT))
        yield Bench(lab=made, enclosure=enclosure, server=server)


def opened(actor: Puppet) -> PuppetSocket:
    """Return a connection to the server, on which nothing was said."""
    sock = actor.open("tcp")
    sock.connect(PERMITTED, PORT)
    return sock


def test_the_sandbox_looks_alone(bench: Bench) -> None:
    """What the scope would block passes where the sandbox's policy only reports it."""
    wall = bench.enclosure
    with bench.cgroups() as (above, below, actor):
        key = raise_scope(wall, above, BLOCKING)
        with wall.enclosed(below, LETTING) as own:
            sock = opened(actor)
            sock.send(SUBSCRIBE)
            answered = sock.recv()
            found = [event.verdict for event in bench.matches(own)]
        of_scope = [describe(event) for event in wall.events(key)]
        wall.wall.detach(key)

    assert answered == SUBSCRIBE
    assert found == [Verdict.ALLOW]
    assert of_scope == []


def test_a_flow_that_changes_hands_is_read(bench: Bench) -> None:
    """Of a connection opened under the default, the sandbox's policy reads what follows."""
    wall = bench.enclosure
    with bench.cgroups() as (above, below, actor):
        key = raise_scope(wall, above, LETTING)
        sock = opened(actor)
        with wall.enclosed(below, BLOCKING) as own:
            sock.send(SUBSCRIBE)
            event = wall.await_event(own, lambda seen: seen.match is not None)
            received = bench.server.received
        wall.wall.detach(key)

    assert event is not None
    assert event.verdict is Verdict.DENY
    assert received == b""


def test_a_flood_does_not_hide_a_match(bench: Bench) -> None:
    """With its budget used up by refusals, what a sandbox mines with is still reported."""
    wall = bench.enclosure
    with bench.cgroups() as (_, below, actor), wall.enclosed(below, LETTING) as key:
        sock, noise = opened(actor), actor.open("udp")
        for _ in range(3 * BUDGET):
            with pytest.raises(PermissionError):
                noise.sendto(b"hello", OUTSIDE, PORT)
        sock.send(SUBSCRIBE)
        answered = sock.recv()
        counters, refused = wall.counters(key), len(wall.refusals(key))
        found = len(bench.matches(key))

    assert answered == SUBSCRIBE
    assert (found, counters.matches) == (1, 1)
    assert counters.denied == 3 * BUDGET
    assert counters.lost_denials == 3 * BUDGET - refused
