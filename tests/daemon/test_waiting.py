# SPDX-License-Identifier: Apache-2.0
"""A hello waits for what is found of its process, but not for ever, and is told once."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.waiting import Waiting
from agentwall.flow.tls import TlsReading, Unread

WAIT_S = 5.0
GONE = TlsReading(library=None, path=None, unread=Unread.GONE)


def test_found_in_time():
    """It is told with what was found, and not again when its time is over."""
    told: list[TlsReading | None] = []
    waiting = Waiting(WAIT_S)
    asked_s = time.monotonic()
    number = waiting.add(told.append)
    waiting.tell_overdue(asked_s)
    waiting.tell(number, GONE)
    waiting.tell_overdue(time.monotonic() + 2 * WAIT_S)

    assert told == [GONE]


def test_found_too_late():
    """It is told without, and what comes then is no news."""
    told: list[TlsReading | None] = []
    waiting = Waiting(WAIT_S)
    number = waiting.add(told.append)
    waiting.tell_overdue(time.monotonic() + 2 * WAIT_S)
    waiting.tell(number, GONE)

    assert told == [None]


@given(st.lists(st.sampled_from(["add", "tell", "overdue", "all"]), max_size=40), st.data())
def test_each_once(steps, data):
    """Whatever happens in whatever order, each is told once, those that are late in their order."""
    waiting = Waiting(WAIT_S)
    told: list[int] = []
    numbers: list[int] = []
    for step in steps:
        if step == "add":
            own = len(numbers)
            numbers.append(waiting.add(lambda _, own=own: told.append(own)))
        elif step == "tell" and numbers:
            waiting.tell(data.draw(st.sampled_from(numbers)), GONE)
        elif step == "overdue":
            waiting.tell_overdue(0.0)
        elif step == "all":
            before = set(told)
            waiting.tell_all()
            rest = [each for each in told if each not in before]
            assert rest == sorted(rest)
            assert len(waiting) == 0
    waiting.tell_all()

    assert sorted(told) == list(range(len(numbers)))
