# SPDX-License-Identifier: Apache-2.0
"""Work that may hang, beside a loop that does not."""

from __future__ import annotations

import logging
import os
import select
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.process import wait_until

from agentwall.daemon import side_thread as module
from agentwall.daemon.side_thread import SideThread
from agentwall.errors import HostError

PATIENCE_S = 60.0


@pytest.fixture
def thread():
    """A thread that does nothing yet."""
    made = SideThread("test")
    yield made
    made.close(PATIENCE_S)


@pytest.fixture
def gate():
    """What work waits for; open at the end."""
    made = threading.Event()
    yield made
    made.set()


def settle(thread: SideThread, found: list[object], count: int) -> None:
    """Step until *found* has as many."""
    while len(found) < count:
        assert select.select([thread.fileno()], [], [], PATIENCE_S)[0]
        thread.step()


def pause(thread: SideThread) -> None:
    """Go on with whatever it does within a moment, if anything.

    Not by its descriptor: it may still be about to signal what was gone on with already.
    """
    time.sleep(0.1)
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

    assert made.close(PATIENCE_S)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(own)
    assert os.fstat(fd)


@pytest.fixture
def patient(monkeypatch):
    """Work that gives way for as long as it has to."""
    monkeypatch.setattr(module, "GIVES_WAY_S", 3600.0)


@pytest.mark.usefixtures("patient")
def test_it_gives_way_to_the_loop(thread):
    """What nobody waits for is begun when the loop has nothing to do, and not before."""
    found: list[object] = []
    thread.is_loop_busy = True
    for number in range(3):
        thread.run(lambda number=number: number, found.append)
    is_ready = bool(select.select([thread.fileno()], [], [], 0.1)[0])
    waiting, busy_s = thread.waiting, thread.busy_s()
    thread.is_loop_busy = False
    settle(thread, found, 3)

    assert (is_ready, waiting, busy_s) == (False, 3, 0.0)
    assert found == [0, 1, 2]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["is_awaited", "is_urgent"])
def test_what_somebody_waits_for_gives_way_to_nobody(thread, kind):
    """Nor does what is to be done before it; what comes after it does again."""
    found: list[object] = []
    thread.is_loop_busy = True
    thread.run(lambda: "before", found.append)
    thread.run(lambda: "awaited", found.append, **{kind: True})
    thread.run(lambda: "after", found.append)
    settle(thread, found, 2 if kind == "is_awaited" else 1)
    pause(thread)
    early = list(found)
    thread.is_loop_busy = False
    settle(thread, found, 3)

    assert early == (["before", "awaited"] if kind == "is_awaited" else ["awaited"])
    assert found[-1] == "after"


@pytest.mark.usefixtures("patient")
def test_much_is_not_put_off(thread):
    """Where more waits than is good, it is done whatever the loop has to do."""
    found: list[object] = []
    thread.is_loop_busy = True
    for number in range(module.MOST_PUT_OFF + 10):
        thread.run(lambda number=number: number, found.append)
    settle(thread, found, 10)
    pause(thread)

    assert found == list(range(10))
    assert thread.waiting == module.MOST_PUT_OFF


def test_it_gets_on_though_the_loop_never_rests(thread):
    """It gives way for a moment each time, not for ever."""
    found: list[object] = []
    thread.is_loop_busy = True
    for number in range(5):
        thread.run(lambda number=number: number, found.append, may_wait=number % 2 == 0)
    settle(thread, found, 5)

    assert sorted(found) == list(range(5))


@pytest.mark.usefixtures("patient")
def test_closed_while_it_gives_way():
    """It ends at once, and does not begin what it was asked for."""
    made = SideThread("test")
    found: list[object] = []
    made.is_loop_busy = True
    made.run(lambda: found.append("begun"))

    assert made.close(PATIENCE_S)
    assert found == []


_KINDS = ({}, {"may_wait": True}, {"is_awaited": True}, {"is_urgent": True})


@given(st.lists(st.sampled_from(["busy", "idle", "step", *range(len(_KINDS))]), max_size=60))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nothing_is_left_or_done_twice(monkeypatch, acts):
    """Whatever the loop does meanwhile: of each kind in its order, but for what is urgent."""
    monkeypatch.setattr(module, "GIVES_WAY_S", 0.001)
    made = SideThread("test")
    found: list[tuple[int, int]] = []
    asked: list[tuple[int, int]] = []
    try:
        for act in acts:
            match act:
                case "busy" | "idle":
                    made.is_loop_busy = act == "busy"
                case "step":
                    made.step()
                case kind:
                    work = (kind, len(asked))
                    asked.append(work)
                    made.run(lambda work=work: work, found.append, **_KINDS[kind])
        settle(made, found, len(asked))
    finally:
        has_ended = made.close(PATIENCE_S)

    assert has_ended
    assert sorted(found) == sorted(asked)
    for kinds in ((0, 2), (1,)):
        mine = [work for work in found if work[0] in kinds]
        assert mine == [work for work in asked if work[0] in kinds]
