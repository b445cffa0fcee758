# SPDX-License-Identifier: Apache-2.0
"""A sandbox that floods fills its own share of the ring of denials, not the others'."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.enclosure import Enclosure, parse_policy
from rig.lending import lent_wall
from rig.process import run_checked

from agentwall.kernel.capacity import Capacity

pytestmark = pytest.mark.kernel

BUDGET = 5
WINDOW_NS = 100_000_000
"""AW_BUDGET_NS."""
RING = 1 << 18
"""Fewer events than two thousand, and more than a flood's share in half a minute: emulated
processors, and busy ones, may take seconds for it."""
CLOSED = parse_policy("name: closed\nloopback: deny\n")
# Prints the CLOCK_BOOTTIME at which it began and ended.
FLOOD = """
import socket, sys, time
count, clock = int(sys.argv[1]), time.CLOCK_BOOTTIME
print(time.clock_gettime_ns(clock))
for number in range(count):
    with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.1", 1 + number % 60000)) != 1:
            raise SystemExit("expected EPERM")
print(time.clock_gettime_ns(clock))
"""


@contextmanager
def budgeted(budget: int, ring: int = 1 << 20) -> Iterator[Enclosure]:
    """A wall whose sandboxes have *budget*, and a ring of *ring* bytes."""
    with lent_wall(capacity=Capacity(denial_ring_bytes=ring), event_budget=budget) as wall:
        yield Enclosure(wall)


def flood(cgroup: Path, count: int) -> int:
    """Let a process there be refused *count* times; return how many windows that touched."""
    told = run_checked(*in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", FLOOD, str(count)))
    began, ended = (int(line) // WINDOW_NS for line in told.split())
    return ended - began + 1


def test_a_flood_does_not_hide_others() -> None:
    """Two thousand refusals fill the small ring only where there is no budget; all are counted."""
    reported: dict[int, int] = {}
    for budget in (BUDGET, 0):
        with (
            budgeted(budget, ring=RING) as wall,
            temp_cgroup() as noisy,
            temp_cgroup() as quiet,
        ):
            loud, calm = wall.enclose(noisy, CLOSED), wall.enclose(quiet, CLOSED)
            windows = flood(noisy, 2000)
            flood(quiet, 5)
            counters, events = wall.counters(loud), len(wall.events(loud))
            reported[budget] = len(wall.events(calm))
            lost = wall.counters(calm).lost_denials
            wall.wall.detach(loud)
            wall.wall.detach(calm)

        assert counters.denied == 2000
        assert counters.lost_denials == 2000 - events
        assert lost == 5 - reported[budget]
        if budget:
            assert BUDGET <= events <= BUDGET * windows

    assert reported == {BUDGET: 5, 0: 0}


def test_a_budget_comes_anew() -> None:
    """After a while without events all of the budget is there again."""
    with budgeted(BUDGET) as wall, temp_cgroup() as cgroup:
        key = wall.enclose(cgroup, CLOSED)
        counts: list[int] = []
        for _ in range(2):
            windows = flood(cgroup, 10 * BUDGET)
            seen = sum(counts)
            counts.append(len(wall.events(key)) - seen)
            time.sleep(WINDOW_NS / 1e9)

            assert BUDGET <= counts[-1] <= BUDGET * windows
        wall.wall.detach(key)


def test_without_a_budget_all_is_reported() -> None:
    """The default is no limit."""
    with lent_wall() as loaded, temp_cgroup() as cgroup:
        wall = Enclosure(loaded)
        with wall.enclosed(cgroup, CLOSED) as key:
            flood(cgroup, 500)
            counters, events = wall.counters(key), len(wall.events(key))

    assert (counters.denied, counters.lost_denials, events) == (500, 0, 500)


def test_what_egress_drops_counts_too() -> None:
    """Datagrams that egress drops share the budget with refused calls, and the sum comes out."""
    with budgeted(BUDGET) as wall, temp_cgroup() as cgroup:
        open_port = parse_policy(
            "name: some\nloopback: deny\nallow: [{cidr: 127.0.0.1/32, ports: [udp/9]}]"
        )
        with wall.enclosed(cgroup, open_port) as key:
            run_checked(*in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", MIXED))
            counters, events = wall.counters(key), len(wall.refusals(key))

    assert counters.denied == 600
    assert counters.lost_denials == 600 - events
    assert events >= BUDGET


MIXED = f"""
import errno, socket
for number in range(300):
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", 1000)) == errno.EPERM
    with socket.socket(type={int(socket.SOCK_DGRAM)}) as sock:
        sock.connect(("127.0.0.1", 10))
        try:
            sock.send(b"hello")
        except PermissionError:
            continue
        raise SystemExit("expected EPERM")
"""
