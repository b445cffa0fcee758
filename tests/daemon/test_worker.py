# SPDX-License-Identifier: Apache-2.0
"""Work beside the loop, and its results back in it."""

from __future__ import annotations

import logging
import select
import threading

import pytest

from agentwall.daemon.worker import Worker
from agentwall.errors import HostError

PATIENCE_S = 60.0


@pytest.fixture
def worker():
    """A worker; whatever it does is over at the end."""
    made = Worker()
    yield made
    made.close()


def wait(worker: Worker) -> None:
    """Wait until there is something to go on with."""
    assert select.select([worker.fileno()], [], [], PATIENCE_S)[0]


def test_results_come_in_the_loop_s_own_thread(worker):
    """The work is done elsewhere, in order."""
    threads: list[int] = []
    found: list[tuple[int, int]] = []
    for number in range(20):
        worker.run(
            lambda number=number: threads.append(threading.get_ident()) or number,
            lambda answer: found.append((answer, threading.get_ident())),
        )
    while len(found) < 20:
        wait(worker)
        worker.step()

    own = threading.get_ident()
    assert [answer for answer, _ in found] == list(range(20))
    assert {thread for _, thread in found} == {own}
    assert len(set(threads)) == 1
    assert own not in threads


def test_nothing_is_called_before_the_loop_asks(worker):
    """A result waits for the loop, and the loop for no result."""
    found: list[int] = []
    worker.step()
    worker.run(lambda: 1, found.append)
    wait(worker)
    before = list(found)
    worker.step()
    worker.step()

    assert (before, found) == ([], [1])
    assert not select.select([worker.fileno()], [], [], 0)[0]


def test_what_fails_is_told_and_keeps_nobody(worker, caplog):
    """A runtime that does not answer, say: the log has it, and the next one is served."""
    found: list[int] = []

    def fail() -> int:
        raise HostError("docker: no answer")

    def refuse(_: int) -> None:
        raise HostError("no room")

    with caplog.at_level(logging.WARNING):
        worker.run(fail, found.append)
        worker.run(lambda: 1, refuse)
        worker.run(lambda: 2, found.append)
        while not found:
            wait(worker)
            worker.step()

    assert found == [2]
    assert [each.message for each in caplog.records] == ["docker: no answer", "no room"]


def test_a_full_pipe_loses_nothing(worker):
    """A loop that is long away finds everything when it is back."""
    found: list[int] = []
    for number in range(70_000):
        worker._done.put(lambda number=number: found.append(number))
    done = threading.Event()
    worker.run(done.set, lambda _: found.append(-1))
    assert done.wait(PATIENCE_S)
    while -1 not in found[-1:]:
        worker.step()

    assert len(found) == 70_001


def test_the_end_gives_up_what_was_not_begun():
    """What runs is waited for; nothing is called any more."""
    worker = Worker()
    begun, may_end = threading.Event(), threading.Event()
    called: list[object] = []
    worker.run(lambda: begun.set() or may_end.wait(PATIENCE_S), called.append)
    worker.run(lambda: called.append("work"), called.append)
    assert begun.wait(PATIENCE_S)
    threading.Timer(0.1, may_end.set).start()
    worker.close()

    assert called == []
