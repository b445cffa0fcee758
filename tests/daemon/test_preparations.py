# SPDX-License-Identifier: Apache-2.0
"""A start waits until its libraries are probed, but not for long, and is told once."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.preparations import WAIT_S, Preparations


def test_done_in_time():
    """It is told that all is there, and not again."""
    told: list[bool] = []
    waiting = Preparations()
    asked_s = time.monotonic()
    done = waiting.add(told.append)
    waiting.tell_overdue(asked_s)
    done()
    done()
    waiting.tell_all()

    assert told == [True]


def test_takes_too_long():
    """It is told so, and what comes then is no news."""
    told: list[bool] = []
    waiting = Preparations()
    done = waiting.add(told.append)
    waiting.tell_overdue(time.monotonic() + WAIT_S + 1)
    done()

    assert told == [False]
    assert len(waiting) == 0


@given(st.lists(st.sampled_from(["add", "done", "overdue", "all"]), max_size=40), st.data())
def test_each_once(what, data):
    """Whatever comes in which order: each is told exactly once, or waits."""
    told: list[int] = []
    waiting = Preparations()
    done = []
    for each in what:
        if each == "add":
            number = len(done)
            done.append(waiting.add(lambda _, number=number: told.append(number)))
        elif each == "done" and done:
            data.draw(st.sampled_from(done))()
        elif each == "overdue":
            waiting.tell_overdue(time.monotonic())
        elif each == "all":
            waiting.tell_all()

    assert len(told) == len(set(told))
    assert len(told) + len(waiting) == len(done)
