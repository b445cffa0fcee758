# SPDX-License-Identifier: Apache-2.0
"""Work that may hang, beside a loop that does not."""

from __future__ import annotations

import logging
import os
import select
import threading

import pytest
from rig.process import wait_until

from agentwall.daemon.side_thread import SideThread
from agentwall.errors import HostError


@pytest.fixture
def thread():
    """A thread that does nothing yet."""
    made = SideThread("test")
    yield made
    made.close(10)


@pytest.fixture
def gate():
    """What work waits for; open at the end."""
    made = threading.Event()
    yield made
    made.set()


def settle(thread: SideThread, found: list[object], count: int) -> None:
    """Step until *found* has as many."""
    while len(found) < count:
        assert select.select([thread.fileno()], [], [], 10)[0]
        thread.step()


def test_results_come_in_order_in_the_loop_s_own_thread(thread):
    """The work is done elsewhere, one after another."""
    found: list[tuple[int, int, int]] = []
    for number in range(20):
        thread.run(
            lambda number=number: (number, threading.get_ident()),
            lambda answer: found.append((*answer, threading.get_ident())),
        )
    settle(thread, found, 20)

    assert [number for number, *_ in found] == list(range(20))
    assert {own for *_, own in found} == {threading.get_ident()}
    assert len({elsewhere for _, elsewhere, _ in found} - {threading.get_ident()}) == 1


def test_what_is_urgent_comes_first(thread, gate):
    """Before whatever was asked for earlier, and what may wait."""
    found: list[object] = []
    thread.run(gate.wait, found.append)
    wait_until(lambda: thread.busy_s() > 0, what="the first")
    thread.run(lambda: "later", found.append, may_wait=True)
    thread.run(lambda: "now", found.append)
    thread.run(lambda: "urgent", found.append, is_urgent=True)
    gate.set()
    settle(thread, found, 4)

    assert found[1:] == ["urgent", "now", "later"]


def test_what_may_wait_waits(thread, gate):
    """Whatever else there is comes before, also what is asked for later."""
    found: list[object] = []
    thread.run(gate.wait, found.append)
    for number in range(2):
        thread.run(lambda number=number: f"later {number}", found.append, may_wait=True)
        thread.run(lambda number=number: f"now {number}", found.append)
    wait_until(lambda: thread.waiting == 2, what="the first piece of work")
    gate.set()
    settle(thread, found, 5)

    assert found[1:] == ["now 0", "now 1", "later 0", "later 1"]


@pytest.mark.parametrize("error", [HostError("no such thing"), OSError("no such thing")])
def test_errors_are_logged(thread, caplog, error):
    """What the work is known to meet is logged, the caller told, and the next thing done."""
    found: list[object] = []

    def fail() -> None:
        raise error

    with caplog.at_level(logging.WARNING):
        thread.run(fail, found.append, failed=lambda: found.append("failed"))
        thread.run(fail)
        thread.run(lambda: "next", found.append)
        settle(thread, found, 2)

    assert found == ["failed", "next"]
    assert [record.message for record in caplog.records] == ["no such thing"] * 2


def test_mistakes_are_raised_in_the_loop(thread):
    """Anything else is a mistake of ours: it ends neither the thread nor in silence."""
    found: list[object] = []
    thread.run(lambda: 1 // 0, found.append)
    thread.run(lambda: "next", found.append)
    with pytest.raises(ZeroDivisionError):
        settle(thread, found, 1)
    settle(thread, found, 1)

    assert found == ["next"]


def test_it_says_for_how_long_it_hangs(thread, gate):
    """While something takes long, that is known; before and after it is not busy."""
    found: list[object] = []
    before = thread.busy_s()
    thread.run(gate.wait, found.append)
    wait_until(lambda: thread.busy_s() > 0.02, what="being busy")
    thread.run(lambda: 2, found.append)
    waiting = thread.waiting
    gate.set()
    settle(thread, found, 2)
    wait_until(lambda: thread.busy_s() == 0.0, what="being done")

    assert before == 0.0
    assert waiting == 1


def test_left_behind(gate):
    """One that hangs is left behind, and calls nothing any more when it goes on."""
    made = SideThread("test")
    found: list[object] = []
    made.run(gate.wait, found.append)
    made.run(lambda: found.append("not begun"))
    wait_until(lambda: made.busy_s() > 0, what="being busy")
    has_ended = made.close(0.05)
    gate.set()
    wait_until(
        lambda: all(each.name != "test" for each in threading.enumerate()), what="the end of it"
    )
    made.step()

    assert not has_ended
    assert found == []


def test_closed(thread):
    """One that has nothing to do ends at once, and gives its descriptors back."""
    fd = thread.fileno()
    made = SideThread("other")
    own = made.fileno()

    assert made.close(10)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(own)
    assert os.fstat(fd)
