# SPDX-License-Identifier: Apache-2.0
"""Looks at processes are bounded, and none that fails is waited for."""

from __future__ import annotations

import os

import pytest
from rig import looking

from agentwall.daemon import looks as module
from agentwall.errors import HostError
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import Unread

ONE, OTHER = SandboxKey(1), SandboxKey(2)


@pytest.fixture
def bench():
    """Looks, whose thread ends with the test."""
    with looking.bench() as made:
        yield made


def test_what_was_seen_is_told(bench):
    """Of each process that is looked at, to whom asked."""
    bench.looks.look(ONE, os.getpid(), bench.note)
    bench.settle()

    assert [each.pid for each in bench.seen] == [os.getpid()]
    assert bench.seen[0].comm


def test_a_mapping_is_looked_at_once(bench):
    """Mappings of one process wait as one look; once that has begun, the next is another."""
    bench.looks.look_once(ONE, 1, bench.note)
    bench.wait_for_a_look()
    for _ in range(5):
        bench.looks.look_once(ONE, 1, bench.note)
        bench.looks.look_once(ONE, 2, bench.note)
    waiting = bench.thread.waiting
    bench.settle()

    assert waiting == 2
    assert bench.finder.looked == [1, 1, 2]


def test_the_queue_is_bounded(bench, monkeypatch):
    """What finds it full is counted and not looked at; hellos do not wait any more before that."""
    monkeypatch.setattr(module, "MOST_WAITING", 20)
    monkeypatch.setattr(module, "MOST_ASKED", 10)
    bench.looks.look_once(ONE, 1, bench.note)
    bench.wait_for_a_look()
    before = bench.looks.is_busy
    for pid in range(2, 40):
        bench.looks.look_once(ONE, pid, bench.note)
    is_busy, waiting = bench.looks.is_busy, bench.thread.waiting
    bench.settle()

    assert (before, is_busy, waiting) == (False, True, 20)
    assert bench.looks.overlooked == 18
    assert bench.finder.looked == list(range(1, 22))


@pytest.mark.parametrize("error", [HostError("x"), OSError("x")])
def test_a_look_that_fails(bench, error):
    """It counts as a process that cannot be read, whose end is waited for all the same."""
    bench.finder.error = error
    bench.looks.look(ONE, 7, bench.note)
    bench.settle()
    [seen] = bench.seen

    assert (seen.pid, seen.reading.unread, seen.is_user) == (7, Unread.UNREADABLE, True)


def test_what_is_installed_is_probed_last(bench):
    """Looks come before, also between two files; a sandbox that has gone is left alone."""
    bench.looks.prepare(ONE, os.getpid(), lambda: True)
    bench.looks.prepare(SandboxKey(2), os.getpid(), lambda: False)
    bench.looks.look(ONE, os.getpid(), bench.note)
    before = bench.looks.is_preparing
    bench.settle()
    users = {user for each in bench.finder.attached.libraries() for user in each.users}

    assert before
    assert bench.seen
    assert not bench.looks.is_preparing
    assert (ONE, 0) in users
    assert SandboxKey(2) not in {key for key, _ in users}


def test_sandboxes_are_prepared_one_after_another(bench, monkeypatch):
    """All files of one, then of the next, also after one that fails or has gone meanwhile."""
    probed: list[tuple[int, int]] = []

    def prepare(key, pid, now_s, start=None):
        for number in range(3):
            if pid == 2:
                raise HostError("x")
            probed.append((pid, number))
            yield str(number)

    monkeypatch.setattr(bench.finder, "prepare", prepare)
    for pid in (1, 2, 3, 4):
        bench.looks.prepare(ONE, pid, lambda pid=pid: pid != 3)
    before = bench.looks.is_preparing
    bench.settle()

    assert before
    assert probed == [(pid, number) for pid in (1, 4) for number in range(3)]
    assert not bench.looks.is_preparing


def test_somebody_waits_for_what_is_installed(bench):
    """It comes before looks that were asked for earlier; who waits is told, also of what failed."""
    order: list[str] = []
    bench.looks.look(ONE, os.getpid(), lambda *_: order.append("first look"))
    bench.wait_for_a_look()
    bench.looks.look(ONE, os.getpid(), lambda *_: order.append("look"))
    bench.looks.prepare(ONE, os.getpid(), lambda: True, prepared=lambda: order.append("prepared"))
    bench.settle()
    known = len(bench.finder.attached)
    bench.looks.prepare(ONE, os.getpid(), lambda: False, prepared=lambda: order.append("no more"))
    bench.looks.prepare(OTHER, 1 << 22, lambda: True, prepared=lambda: order.append("nobody"))
    bench.settle()

    assert known > 0
    assert order.index("prepared") > order.index("first look")
    assert set(order[-2:]) == {"no more", "nobody"}
    assert bench.finder.looked == [os.getpid()] * 2


def test_who_ends(bench):
    """Processes are dropped one by one, a sandbox with all that were in it."""
    bench.looks.prepare(ONE, os.getpid(), lambda: True)
    bench.settle()
    prepared = bench.finder.attached.users()
    bench.looks.drop([])
    bench.looks.drop([(ONE, [0])])
    bench.settle()
    dropped = bench.finder.attached.users()
    bench.looks.prepare(ONE, os.getpid(), lambda: True)
    bench.looks.release(ONE)
    bench.settle()
    bench.looks.release(ONE)
    bench.settle()

    assert prepared == [(ONE, 0)]
    assert dropped == []
    assert bench.finder.attached.users() == []
