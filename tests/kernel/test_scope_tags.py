# SPDX-License-Identifier: Apache-2.0
"""Whose a socket is: where it was made, wherever it goes; no other sandbox lends it a tag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.enclosure import parse_policy
from rig.ground import PORT
from rig.lab import OUTSIDE_OTHER, PERMITTED
from rig.puppet import Puppet
from rig.scoped import connected, is_answered, say, scope
from rig.workbench import Workbench, Workshop, workshop

from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel

DEFAULT = parse_policy(
    f"name: default\nallow: [{{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}]}}]"
)
OTHER = parse_policy(
    f"name: other\nallow: [{{cidr: {OUTSIDE_OTHER}, ports: [{PORT}, udp/{PORT}]}}]"
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


def move(actor: Puppet, cgroup: Path) -> None:
    """Put the puppet into *cgroup*; its sockets stay where they were made."""
    (cgroup / "cgroup.procs").write_text(str(actor.pid))


def test_a_socket_is_judged_where_it_was_made(bench: Workbench) -> None:
    """Carried into another cgroup, a socket is judged by none but the one it was made in."""
    with scope(bench, CLOSED) as made:
        bound, unbound, wall = made.child("bound"), made.child("unbound"), made.enclosure
        with wall.enclosed(bound, DEFAULT) as key, made.puppet(unbound) as actor:
            poor = actor.open("udp")
            move(actor, bound)
            with pytest.raises(PermissionError):
                poor.sendto(b"hello", PERMITTED, PORT)
            rich = actor.open("udp")
            move(actor, unbound)
            rich.sendto(b"hello", PERMITTED, PORT)
            answered = rich.recv()
            with pytest.raises(PermissionError):
                say(actor, "tcp", PERMITTED, PORT)
            refusals = len(wall.refusals(made.key)), len(wall.refusals(key))

    assert answered == b"hello"
    assert refusals == (2, 0)


def test_another_sandbox_gives_no_tag(bench: Workbench) -> None:
    """To connect to a sandbox's listener, and be accepted, does not make a socket its own."""
    with scope(bench, CLOSED) as made:
        bound, unbound, wall = made.child("bound"), made.child("unbound"), made.enclosure
        free = parse_policy(f"name: free\nloopback: allow\nallow: [{{cidr: any, ports: [{PORT}]}}]")
        wall.bind(made.key, CLOSED, loopback=LoopbackScope.FREE, is_scope=True)
        with (
            wall.enclosed(bound, free),
            made.puppet(bound) as server,
            made.puppet(unbound) as client,
        ):
            listener = server.open("tcp")
            listener.bind("127.0.0.1", 9000)
            listener.listen()
            sock = client.open("tcp")
            sock.connect("127.0.0.1", 9000)
            accepted = listener.accept()
            accepted.send(b"hello")
            heard = sock.recv()
            sock.disconnect()
            with pytest.raises(PermissionError):
                sock.connect(PERMITTED, PORT)
            wall.bind(made.key, CLOSED, is_scope=True)

    assert heard == b"hello"


def test_a_socket_outlives_its_cgroup(bench: Workbench) -> None:
    """A socket whose cgroup is gone is judged by its sandbox to the end, then by the default."""
    with scope(bench, CLOSED) as made:
        bound, unbound, wall = made.child("bound"), made.child("unbound"), made.enclosure
        key = wall.enclose(bound, DEFAULT)
        with made.puppet(bound) as actor:
            sock = connected(actor, "udp", PERMITTED, PORT)
            move(actor, unbound)
            bound.rmdir()
            orphaned = is_answered(sock, b"orphaned")
            with pytest.raises(PermissionError):
                sock.connect(OUTSIDE_OTHER, PORT)
            wall.wall.detach(key)
            with pytest.raises(PermissionError):
                sock.connect(PERMITTED, PORT)
            after = is_answered(sock, b"after")

    assert orphaned
    assert not after


def test_a_tag_of_one_that_left_is_worth_nothing(bench: Workbench) -> None:
    """Bound anew under another key, a sandbox has no past: what was permitted is judged again."""
    with scope(bench, CLOSED) as made:
        child, wall = made.child("bound"), made.enclosure
        with made.puppet(child) as actor:
            first = wall.enclose(child, DEFAULT)
            sock = connected(actor, "udp", PERMITTED, PORT)
            wall.wall.detach(first)
            second = wall.enclose(child, OTHER)
            with pytest.raises(PermissionError):
                sock.send(b"during")
            wall.bind(second, DEFAULT)
            again = is_answered(sock, b"again")
            wall.wall.detach(second)
            after = is_answered(sock, b"after")

    assert again
    assert not after
