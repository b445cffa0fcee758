# SPDX-License-Identifier: Apache-2.0
"""What is remembered of processes is bounded, and nothing is left of those that have ended."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.readings import MAX_PROCESSES, Readings
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.probes.finding import Look

ONE, OTHER = SandboxKey(1), SandboxKey(2)
READ = TlsReading(library=TlsLibrary.OPENSSL, path="/libssl.so.3", unread=None)
STATIC = TlsReading(library=None, path=None, unread=Unread.STATIC)


def look(pid: int, reading: TlsReading = READ) -> Look:
    """Return what was seen of a process."""
    return Look(pid=pid, comm="python3", exe="/usr/bin/python3", reading=reading)


@pytest.fixture
def readings():
    """Of nobody yet."""
    return Readings()


def test_described(readings):
    """Each process with its latest reading and its sessions; sessions of others count as well."""
    readings.note(ONE, look(10))
    readings.count(ONE, 10, joined=True)
    readings.note(ONE, look(10, STATIC))
    readings.count(ONE, 10, joined=False)
    readings.count(ONE, 11, joined=False)
    readings.count(ONE, None, joined=False)
    found = readings.describe(ONE)

    assert (found.sessions, found.joined, found.truncated) == (4, 1, 0)
    assert [(each.pid, each.reading, each.sessions) for each in found.processes] == [
        (10, STATIC, 2)
    ]
    assert readings.describe(OTHER) is None
    assert readings.of(ONE, 10) == STATIC
    assert readings.of(ONE, 11) is readings.of(OTHER, 10) is None


def test_alike(readings):
    """What equal processes have in common is kept once, however many there are."""
    for key, pid in ((ONE, 10), (OTHER, 20)):
        path = "/lib" + "ssl.so." + str(3)  # another object each time
        readings.note(
            key, look(pid, TlsReading(library=TlsLibrary.OPENSSL, path=path, unread=None))
        )

    assert readings.of(ONE, 10) is readings.of(OTHER, 20)


def test_short_lived(readings):
    """Of processes that have ended their sessions are kept, and nothing else."""
    for pid in range(1, 1001):
        readings.note(ONE, look(pid))
        readings.count(ONE, pid, joined=True)
        ended = readings.ended([pid, 5000])

        assert ended == [(ONE, [pid])]
    found = readings.describe(ONE)

    assert (found.sessions, found.joined, found.processes) == (1000, 1000, ())
    assert readings.pids == {}


def test_why_unread_outlives_the_process(readings):
    """Of sessions that were not read the reason is kept when their process has ended."""
    for pid, joined in ((10, False), (11, False), (12, True)):
        readings.note(ONE, look(pid, READ if joined else STATIC))
        readings.count(ONE, pid, joined=joined)
    readings.ended([10, 11, 12])
    found = readings.describe(ONE)

    assert found.processes == ()
    assert (found.sessions, found.joined, found.unread) == (3, 1, {Unread.STATIC: 2})


def test_more_than_are_remembered(readings):
    """The one noted longest ago goes, is counted, and its end is still told."""
    for pid in range(1, MAX_PROCESSES + 3):
        readings.note(ONE, look(pid))
    readings.note(ONE, look(3))
    readings.note(ONE, look(1000))
    found = readings.describe(ONE)

    assert len(found.processes) == MAX_PROCESSES
    assert found.truncated == 3
    assert {1, 2, 4}.isdisjoint(each.pid for each in found.processes)
    assert 1 in readings.pids
    assert readings.ended([1]) == [(ONE, [1])]


def test_a_number_that_is_another_s_now(readings):
    """A process of another sandbox with the same number: the first has ended, and is forgotten."""
    readings.note(ONE, look(10))
    before = readings.note(OTHER, look(10, STATIC))
    again = readings.note(OTHER, look(10, STATIC))

    assert (before, again) == (ONE, None)
    assert readings.describe(ONE).processes == ()
    assert readings.pids == {10: OTHER}
    assert readings.ended([10]) == [(OTHER, [10])]


def test_ends_that_nobody_told(readings):
    """What is not there any more is found; what is there stays."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    readings.note(ONE, look(gone.pid))
    readings.note(OTHER, look(os.getpid()))

    assert readings.gone({gone.pid}) == []
    assert readings.gone(set()) == [(ONE, [gone.pid])]
    assert readings.pids == {os.getpid(): OTHER}


def test_a_sandbox_that_ends(readings):
    """Nothing is left of it, nor of processes that were not remembered any more."""
    for pid in range(1, MAX_PROCESSES + 10):
        readings.note(ONE, look(pid))
    readings.note(OTHER, look(5000))
    readings.forget(ONE)
    readings.forget(SandboxKey(3))

    assert readings.describe(ONE) is None
    assert readings.pids == {5000: OTHER}


@given(
    st.lists(
        st.tuples(st.sampled_from(["note", "end", "forget"]), st.integers(1, 8), st.integers(1, 3))
    )
)
def test_books_agree(steps):
    """Whatever happens, who is remembered is waited for, in the sandbox it was last seen in."""
    readings = Readings()
    known: dict[int, int] = {}
    for step, pid, key in steps:
        if step == "note":
            readings.note(SandboxKey(key), look(pid))
            known[pid] = key
        elif step == "end":
            readings.ended([pid])
            known.pop(pid, None)
        else:
            readings.forget(SandboxKey(key))
            known = {each: its for each, its in known.items() if its != key}
    described = {
        each.pid: key
        for key in (1, 2, 3)
        if (found := readings.describe(SandboxKey(key)))
        for each in found.processes
    }

    assert readings.pids == known
    assert described == known
