# SPDX-License-Identifier: Apache-2.0
"""Connections of many processes, sandboxes inside others, and what one may keep from the rest."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import parse_policy
from rig.inspection import SUBSCRIBE
from rig.lab import FAR4, NEAR4, OUTSIDE, PERMITTED
from rig.process import wait_until
from rig.spoken import HELLO, POLICY, Ground, ground, record

from agentwall.flow.verdict import Direction
from agentwall.host.process import living
from agentwall.kernel import plain
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

LINE = b'{"jsonrpc": "2.0", "method": "ping"}\n'
MOST = 2048
"""AW_PLAIN_MOST."""
BELOW = f"""
name: below
allow:
  - {{cidr: {PERMITTED}, ports: [1-65535]}}
"""
ABOVE = f"""
name: above
allow:
  - {{cidr: {PERMITTED}, ports: [1-65535]}}
  - {{cidr: {OUTSIDE}, ports: [1-65535]}}
"""
SERVER_HELLO = b"\x02\x00\x00\x26\x03\x03" + bytes(36)
SERVING = """
name: serving
inbound:
  - {cidr: 192.0.2.1, ports: [4444]}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads, for all tests here."""
    with ground(tmp_path_factory.mktemp("crowds")) as made:
        yield made


def known(bench: Ground) -> int:
    """Return how many connections are known."""
    return len(list(bench.enclosure.wall.maps()["aw_plain_connections"].keys()))


def test_one_sandbox_leaves_room_for_others(bench):
    """Connections that a sandbox makes up find no room beyond its share; another's are read."""
    with bench.sandbox() as (key, talker), bench.sandbox() as (other_key, other):
        before = bench.counts()
        talker.ask("claim", MOST + 100)
        after = bench.counts()
        talker.ask("say", talker.opened(), LINE)
        other.ask("say", other.opened(), SUBSCRIBE)

        assert after.connections - before.connections == MOST
        assert after.lost - before.lost == 100
        assert bench.matches(key) == []
        assert len(bench.matches(other_key)) == 1
    bench.enclosure.wall.plain.sweep(living)


def test_freed_connections_make_room(bench):
    """What the library frees counts no longer."""
    with bench.sandbox() as (key, talker):
        numbers = [talker.opened() for _ in range(20)]
        there = known(bench)
        for number in numbers:
            talker.ask("free", number)
        left = known(bench)
        talker.ask("claim", MOST)
        lost = bench.counts().lost
        talker.ask("claim", 1)

        assert there - left == len(numbers)
        assert bench.counts().lost == lost + 1
        assert bench.matches(key) == []
    bench.enclosure.wall.plain.sweep(living)


def test_sweep(bench):
    """Connections of processes that have ended are forgotten, and the sandbox has room again."""
    bench.enclosure.wall.plain.sweep(living)
    with temp_cgroup() as cgroup, bench.enclosure.enclosed(cgroup, parse_policy(POLICY)) as key:
        with bench.talker(cgroup) as lasting, bench.talker(cgroup) as talker:
            number = lasting.opened()
            talker.ask("claim", MOST)
            # The process is there; nothing of it is forgotten.
            assert bench.enclosure.wall.plain.sweep(living) == 0
            pid = talker.pid
        with bench.talker(cgroup) as talker:
            wait_until(lambda: pid not in living(), what="the end of the process")
            forgotten = bench.enclosure.wall.plain.sweep(living)
            before = bench.counts().lost
            talker.ask("say", talker.opened(), SUBSCRIBE)

            assert forgotten >= MOST - 1
            assert bench.counts().lost == before
            assert len(bench.matches(key)) == 1
            assert number == 0
    bench.enclosure.wall.plain.sweep(living)

    assert known(bench) == 0
    assert list(bench.enclosure.wall.maps()["aw_plain_held"].keys()) == []


def test_sweep_at_rest(bench):
    """Where nobody has called and nobody has ended, nothing is counted anew; then it is."""
    wall = bench.enclosure.wall
    held = wall.maps()["aw_plain_held"]
    with bench.sandbox() as (key, talker), bench.sandbox() as (other_key, other):
        number = talker.opened()
        other.opened()
        mine, others = (struct.pack("=Q", each) for each in (key, other_key))
        wall.plain.sweep(living)
        wrong = struct.pack("=q", 99)
        held.update(mine, wrong)
        wall.plain.sweep(living)
        at_rest = held.lookup(mine)
        talker.ask("say", number, LINE)
        wall.plain.sweep(living)
        called = held.lookup(mine)
        held.update(mine, wrong)
        wall.plain.sweep(lambda: living() - {other.pid})

        assert at_rest == wrong
        assert called == held.lookup(mine) == struct.pack("=q", 1)
        assert held.lookup(others) is None
    wall.plain.sweep(living)


def test_process_id_of_another_sandbox(bench):
    """A connection goes by its sandbox too: the same process elsewhere begins anew."""
    with temp_cgroup() as one, temp_cgroup() as other:
        policy = parse_policy(POLICY)
        with (
            bench.enclosure.enclosed(one, policy) as one_key,
            bench.enclosure.enclosed(other, policy) as other_key,
            bench.talker(one) as talker,
        ):
            first = talker.opened()
            talker.ask("say", first, SUBSCRIBE)
            (other / "cgroup.procs").write_text(str(talker.pid))
            # Its place is another connection's now, whose sandbox is not the first one's.
            talker.ask("renew", first, PERMITTED, 3333)
            talker.ask("shake", first)
            talker.ask("say", first, SUBSCRIBE)

            assert [len(bench.matches(key)) for key in (one_key, other_key)] == [1, 1]
            assert bench.matches(other_key)[0].cookie != bench.matches(one_key)[0].cookie


@pytest.mark.parametrize("is_scope", [True, False], ids=["scope", "sandbox"])
def test_sandbox_below_another(bench, is_scope):
    """A process is read for the innermost sandbox, once; its match is cut there."""
    enclosure = bench.enclosure
    with temp_cgroup() as above:
        outer = enclosure.attach(above)
        enclosure.bind(outer, parse_policy(ABOVE), is_scope=is_scope)
        enclosure.wall.activate(above, outer)
        below = above / "below"
        below.mkdir()
        with enclosure.enclosed(below, parse_policy(BELOW)) as inner:
            for server in bench.servers.values():
                server.clear()
            with bench.talker(below) as talker, bench.talker(above) as beside:
                number, besides = talker.opened(), beside.opened(OUTSIDE)
                for _ in range(5):
                    talker.ask("say", number, LINE)
                arrived = bench.await_said(LINE * 5)
                talker.ask("say", number, SUBSCRIBE)
                beside.ask("say", besides, LINE)
                beside.ask("say", besides, SUBSCRIBE)

                assert arrived == LINE * 5
                assert [len(bench.matches(key)) for key in (inner, outer)] == [1, 1]
                assert bench.await_said(LINE, OUTSIDE) == LINE
                assert bench.said() == LINE * 5
        enclosure.wall.detach(outer)


def test_server_in_the_sandbox(bench):
    """What a peer says to a server inside TLS is read as the client's, and the flow is cut off."""
    with (
        temp_cgroup() as cgroup,
        bench.enclosure.enclosed(cgroup, parse_policy(SERVING)) as key,
        bench.talker(cgroup) as talker,
        bench.lab.far.socket(socket.AF_INET, socket.SOCK_STREAM) as peer,
    ):
        talker.ask("listen_at", NEAR4, 4444)
        peer.settimeout(60.0)
        peer.bind((FAR4, 0))
        peer.connect((NEAR4, 4444))
        peer.sendall(HELLO + record(LINE))
        talker.ask("hello", SERVER_HELLO)
        number = talker.ask("accept")
        talker.ask("shake", number)
        heard = talker.octets("hear", number)
        peer.sendall(record(SUBSCRIBE))
        talker.octets("hear", number)
        talker.ask("say", number, b"welcome")
        (event,) = bench.matches(key)
        arrived = peer.recv(1 << 16)

        assert heard == LINE
        assert event.match.from_client
        assert event.direction is Direction.IN
        assert (str(event.local.address), event.local.port) == (NEAR4, 4444)
        assert arrived[5:] == SERVER_HELLO
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(1 << 16)
