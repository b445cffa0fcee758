# SPDX-License-Identifier: Apache-2.0
"""Names below a scope: what was learned under the default opens nothing for a sandbox, or back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import name_server
from rig.enclosure import enclosure, parse_policy
from rig.lab import OUTSIDE, PERMITTED, lab
from rig.listeners import tcp_server
from rig.namebench import NameBench
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet
from rig.scoped import question, raise_scope

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import ReasonCode

pytestmark = pytest.mark.kernel

RESOLVER, PORT = "198.51.100.53", 443
HUB, CDN = "hub.example.com", "a.cdn.example.com"
DEFAULT, OWN = (
    parse_policy(
        f"""
        name: {name}
        dns: {{servers: [{RESOLVER}]}}
        allow: [{{host: {host}}}]
        """
    )
    for name, host in (("default", HUB), ("own", CDN))
)
NO_ERROR = 0


@pytest.fixture(scope="module")
def bench() -> Iterator[NameBench]:
    """A lab with two names and a server behind each, and the wall."""
    with (
        lab() as made,
        enclosure(made.near) as wall,
        tcp_server(made.far, PERMITTED, PORT),
        tcp_server(made.far, OUTSIDE, PORT),
        name_server(made, RESOLVER, {HUB: PERMITTED, CDN: OUTSIDE}) as resolver,
    ):
        yield NameBench(lab=made, enclosure=wall, resolver=resolver)


@contextmanager
def scoped(bench: NameBench) -> Iterator[tuple[SandboxKey, Path]]:
    """A scope with DEFAULT, and one cgroup below it."""
    with temp_cgroup() as cgroup:
        key = raise_scope(bench.enclosure, cgroup, DEFAULT)
        (cgroup / "child").mkdir()
        yield key, cgroup / "child"
        bench.enclosure.wall.detach(key)


def asking(actor: Puppet) -> PuppetSocket:
    """Return a socket for questions to the resolver."""
    sock = actor.open("udp")
    sock.connect(RESOLVER, 53)
    return sock


def resolve(sock: PuppetSocket, name: str) -> int:
    """Ask for *name*; return the answer's code. A question that is refused is an OSError."""
    sock.send(question(name))
    return sock.recv()[3] & 15


def reach(actor: Puppet, address: str) -> None:
    """Connect to the server there."""
    sock = actor.open("tcp")
    try:
        sock.connect(address, PORT)
    finally:
        sock.close()


def test_each_learns_for_itself(bench: NameBench) -> None:
    """What the default learned is not the sandbox's; what that learned is gone when it goes."""
    with (
        scoped(bench) as (key, child),
        puppet(bench.lab.near, child, timeout_s=PATIENCE_S) as actor,
    ):
        assert resolve(asking(actor), HUB) == NO_ERROR
        reach(actor, PERMITTED)
        with bench.enclosure.enclosed(child, OWN) as own:
            with pytest.raises(PermissionError):
                reach(actor, PERMITTED)
            assert resolve(asking(actor), CDN) == NO_ERROR
            reach(actor, OUTSIDE)
            learned = {item.name for item in bench.enclosure.wall.learned(own)}
        with pytest.raises(PermissionError):
            reach(actor, OUTSIDE)
        reach(actor, PERMITTED)
        of_scope = {item.name for item in bench.enclosure.wall.learned(key)}

    assert learned == {CDN}
    assert of_scope == {HUB}


def test_a_resolver_socket_changes_hands(bench: NameBench) -> None:
    """Questions on one socket are judged by whoever judges now, and its namespace stays known."""
    with (
        scoped(bench) as (_, child),
        puppet(bench.lab.near, child, timeout_s=PATIENCE_S) as actor,
    ):
        sock = asking(actor)
        assert resolve(sock, HUB) == NO_ERROR
        with pytest.raises(PermissionError):
            resolve(sock, CDN)
        with bench.enclosure.enclosed(child, OWN) as own:
            assert resolve(sock, CDN) == NO_ERROR
            with pytest.raises(PermissionError):
                resolve(sock, HUB)
            reach(actor, OUTSIDE)
            refused = {event.code for event in bench.enclosure.refusals(own)}
        after = resolve(sock, HUB)

    assert refused == {ReasonCode.QUESTION}
    assert after == NO_ERROR
    assert bench.resolver.log


def test_an_answer_to_the_other(bench: NameBench) -> None:
    """A server that only the scope declares teaches a sandbox nothing, even on its old socket."""
    elsewhere = parse_policy(
        f"""
        name: elsewhere
        dns: {{servers: [198.51.100.54]}}
        allow: [{{host: {HUB}}}]
        """
    )
    with (
        scoped(bench) as (_, child),
        puppet(bench.lab.near, child, timeout_s=PATIENCE_S) as actor,
    ):
        sock = asking(actor)
        assert resolve(sock, HUB) == NO_ERROR
        with bench.enclosure.enclosed(child, elsewhere) as own:
            with pytest.raises(PermissionError):
                resolve(sock, HUB)
            learned = bench.enclosure.wall.learned(own)

    assert learned == []
