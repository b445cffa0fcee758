# SPDX-License-Identifier: Apache-2.0
"""A connection whose beginning was not seen carries no question, wherever in it that stands."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from rig.answers import ScriptedServer, pack_name, scripted_server
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure, parse_policy
from rig.lab import Lab, lab
from rig.puppet import PATIENCE_S, puppet
from rig.zone import HUB, RESOLVER, STUB, ZONE, tell

from agentwall.flow.verdict import ReasonCode

pytestmark = pytest.mark.kernel

BEFORE = f"""
    name: streams
    dns: {{servers: [{STUB}]}}
    allow:
      - {{cidr: {RESOLVER}, ports: [53]}}
"""
AFTER = f"""
    name: streams
    dns: {{servers: [{RESOLVER}]}}
    allow:
      - {{host: "*.{ZONE}"}}
"""
TRIES = 10
"""Sequence numbers begin anywhere, and a comparison with zero holds for half of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall and a resolver."""

    lab: Lab
    enclosure: Enclosure
    resolver: ScriptedServer


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The bench, built once."""
    with (
        lab() as made,
        enclosure(made.near) as wall,
        scripted_server(made.far, RESOLVER, tell) as resolver,
    ):
        yield Bench(lab=made, enclosure=wall, resolver=resolver)


@pytest.mark.parametrize("name", ["evil.example", HUB])
def test_a_connection_older_than_the_server_asks_nothing(bench: Bench, name: str) -> None:
    """A rule on addresses permitted it when it was opened; then a DNS server was declared there."""
    asked = bytes.fromhex("415701000001000000000000") + pack_name(name) + b"\0\x01\0\x01"
    bench.resolver.asked.clear()
    for _ in range(TRIES):
        with temp_cgroup() as cgroup, puppet(bench.lab.near, cgroup, timeout_s=PATIENCE_S) as actor:
            key = bench.enclosure.enclose(cgroup, parse_policy(BEFORE))
            sock = actor.open("tcp")
            sock.connect(RESOLVER, 53)
            # What is refused is not to be sent again after the wall is gone: closed, it is dropped.
            sock.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            bench.enclosure.bind(key, parse_policy(AFTER))
            with suppress(OSError):
                sock.send(struct.pack("!H", len(asked)) + asked)
            refused = bench.enclosure.await_event(
                key, lambda event: event.code is ReasonCode.NOT_A_QUESTION
            )
            sock.close()
            bench.enclosure.wall.detach(key)
        assert refused
    assert bench.resolver.names() == []
