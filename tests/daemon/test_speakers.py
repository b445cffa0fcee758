# SPDX-License-Identifier: Apache-2.0
"""Who speaks TLS is looked at when there is something to look with, and told of once."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from rig import looking
from rig.tls_records import hello_read

from agentwall.daemon import looks as looks_module
from agentwall.daemon import speakers as module
from agentwall.daemon.speakers import WAIT_S, Speakers
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.host.process import living
from agentwall.probes.finding import Look

ONE, OTHER = SandboxKey(1), SandboxKey(2)
OPENSSL = TlsLibrary.OPENSSL


class Stage:
    """Speakers, and what they tell: the process, whether it was joined, and what is said of it."""

    def __init__(self, bench: looking.Bench) -> None:
        self.bench = bench
        self.told: list[tuple[int, bool, Unread | None]] = []
        self.where: dict[int, SandboxKey] = {}
        self.speakers = Speakers(self.where.get, self._tell)

    def _tell(self, hello, process, reading) -> None:
        assert process is not None
        assert process.pid == hello.attempt.task.pid
        self.told.append((process.pid, hello.is_joined, reading.unread))

    def hello(self, pid: int, library: TlsLibrary | None = None, key: SandboxKey = ONE) -> None:
        """Have a process say hello."""
        event = hello_read(library=library, pid=pid, sandbox=key)
        self.speakers.hello(event.hello, event.process)

    def begin(self) -> None:
        """Look from now on."""
        self.speakers.begin(self.bench.looks)

    @property
    def sessions(self) -> tuple[int, int] | None:
        """How many were counted, and how many of them joined."""
        found = self.speakers.readings.describe(ONE)
        return None if found is None else (found.sessions, found.joined)

    def known(self) -> dict[int, Unread | None]:
        """Who is known, and why it is not read."""
        found = self.speakers.readings.describe(ONE)
        return {each.pid: each.reading.unread for each in found.processes} if found else {}


@pytest.fixture
def stage():
    """Speakers of which none is known."""
    with looking.bench() as bench:
        yield Stage(bench)


@pytest.fixture(scope="module")
def speaker():
    """The pid of a process that maps OpenSSL."""
    script = "import ssl; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
        child.communicate()


def test_joined_is_told_at_once(stage, speaker):
    """Before its process is looked at, and not again afterwards; then it is known by its path."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    stage.hello(speaker, OPENSSL)
    at_once = list(stage.told)
    stage.bench.settle()
    stage.hello(speaker, OPENSSL)

    assert at_once == [(speaker, True, None)]
    assert stage.told == at_once * 2
    assert stage.sessions == (2, 2)
    assert stage.known() == {speaker: None}


def test_unjoined_is_told_after_the_look(stage, speaker):
    """What was found is told with it: its library is probed by now, but was not when it began."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    stage.hello(speaker)
    at_once = list(stage.told)
    stage.bench.settle()

    assert at_once == []
    assert stage.told == [(speaker, False, Unread.LATE)]
    assert stage.sessions == (1, 0)
    assert stage.known() == {speaker: Unread.LATE}


def test_order(stage, speaker):
    """Hellos of one process that wait are told in their order, around them those that do not."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    stage.hello(speaker)
    stage.hello(os.getpid())
    stage.hello(speaker, OPENSSL)
    stage.bench.settle()

    assert [pid for pid, joined, _ in stage.told if not joined] == [speaker, os.getpid()]
    assert stage.told[0] == (speaker, True, None)
    assert len(stage.told) == 3


def test_short_lived(stage):
    """Processes that have ended by then are told as gone, and soon nothing is left of them."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    pids = []
    for _ in range(20):
        child = subprocess.Popen(["true"])
        child.wait()
        pids.append(child.pid)
        stage.hello(child.pid)
        stage.hello(child.pid, OPENSSL)
    stage.bench.settle()
    stage.speakers.see_who_is_gone(living())
    stage.bench.settle()

    assert sorted(stage.told) == sorted(
        told for pid in pids for told in ((pid, False, Unread.GONE), (pid, True, None))
    )
    assert stage.sessions == (40, 20)
    assert stage.known() == {}
    assert stage.speakers.readings.pids == {}
    assert stage.bench.finder.attached.users() == []


def test_a_look_that_hangs(stage):
    """A hello is told without after a while, and not again when the look is done at last."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    asked_s = time.monotonic()
    stage.hello(os.getpid())
    stage.speakers.waiting.tell_overdue(asked_s)
    early = list(stage.told)
    stage.speakers.waiting.tell_overdue(time.monotonic() + WAIT_S + 1)
    late = list(stage.told)
    stage.bench.settle()

    assert early == []
    assert late == stage.told == [(os.getpid(), False, Unread.UNREADABLE)]
    assert stage.sessions == (1, 0)


def test_backlog(stage, monkeypatch):
    """Where too many looks wait, a hello is told at once with what is known, and counted."""
    monkeypatch.setattr(looks_module, "MOST_ASKED", 3)
    stage.speakers.admit(ONE, ())
    stage.begin()
    for _ in range(10):
        stage.hello(os.getpid())
    at_once = list(stage.told)
    waiting = len(stage.speakers.waiting)
    stage.bench.settle()

    assert len(at_once) + waiting == 10
    assert waiting in (3, 4)
    assert set(at_once) == {(os.getpid(), False, Unread.UNREADABLE)}
    assert len(stage.told) == 10
    assert stage.sessions == (10, 0)


def test_nothing_to_look_with(stage):
    """Before there is, and where there will not be, hellos are told as of processes not read."""
    stage.speakers.admit(ONE, ())
    stage.hello(os.getpid())
    stage.speakers.give_up()
    stage.speakers.admit(ONE, [os.getpid()])
    stage.hello(os.getpid())
    # Probes of an earlier daemon read on.
    stage.hello(os.getpid(), OPENSSL)

    assert stage.told == [
        (os.getpid(), False, Unread.OFF),
        (os.getpid(), False, Unread.OFF),
        (os.getpid(), True, None),
    ]
    assert stage.sessions == (3, 1)


def test_of_no_sandbox(stage):
    """A hello of a sandbox that has gone is told, and nothing is remembered of it."""
    stage.begin()
    stage.hello(os.getpid(), key=OTHER)

    assert stage.told == [(os.getpid(), False, Unread.UNREADABLE)]
    assert stage.speakers.readings.describe(OTHER) is None


def test_who_is_there_already(stage, speaker):
    """Processes of before are looked at as soon as can be, and what is installed is probed."""
    stage.where.update({speaker: ONE})
    stage.speakers.admit(ONE, [os.getpid()])
    stage.speakers.see(mapped={speaker, 99999}, ended=())
    stage.begin()
    stage.bench.settle()

    assert set(stage.bench.finder.looked) == {os.getpid(), speaker}
    assert stage.known()[speaker] is None
    assert (ONE, 0) in stage.bench.finder.attached.users()


def test_who_comes_later(stage, speaker):
    """The first of an empty sandbox that maps a library has what is installed probed as well."""
    stage.where.update({speaker: ONE})
    stage.begin()
    stage.speakers.see(mapped={speaker}, ended=())
    stage.speakers.admit(ONE, ())
    stage.bench.settle()
    nobody = list(stage.bench.finder.looked)
    stage.speakers.see(mapped={speaker}, ended=())
    stage.bench.settle()
    stage.speakers.see(mapped=(), ended={speaker})
    stage.bench.settle()

    assert nobody == []
    assert stage.bench.finder.looked == [speaker]
    assert stage.bench.finder.attached.users() == [(ONE, 0)]
    assert stage.known() == {}


def test_many_processes(stage, monkeypatch):
    """Of a sandbox that is full of processes only so many are looked at when it is admitted."""
    monkeypatch.setattr(module, "MOST_ADMITTED", 3)
    stage.speakers.admit(ONE, range(100_000, 100_010))
    stage.begin()
    stage.speakers.admit(OTHER, range(100_000, 100_010))
    stage.bench.settle()

    assert stage.bench.finder.looked == [100_000, 100_001, 100_002] * 2


def test_sandbox_that_ends(stage, speaker):
    """Nothing is left of it, though looks at its processes were still to be done."""
    stage.speakers.admit(ONE, [speaker])
    stage.begin()
    stage.hello(speaker)
    stage.speakers.release(ONE)
    stage.bench.settle()
    stage.speakers.see_who_is_gone(living())
    stage.bench.settle()

    assert len(stage.told) == 1
    assert stage.sessions is None
    assert stage.speakers.readings.pids == {}
    assert stage.bench.finder.attached.users() == []


def test_changed_libraries(stage, speaker):
    """Who is known and whose library is read no longer is looked at again; nobody else is."""
    stage.speakers.admit(ONE, ())
    stage.begin()
    stage.hello(speaker, OPENSSL)
    stage.bench.settle()
    before = stage.known()
    finder = stage.bench.finder
    finder.looked.clear()
    stage.speakers.look_again([(ONE, speaker), (ONE, 0), (ONE, os.getpid()), "nobody"])
    stage.bench.settle()

    assert before == {speaker: None}
    assert finder.looked == [speaker]


def test_start_that_waits(stage):
    """Who starts is told when what is installed is probed, also if it asked before it could be."""
    told: list[bool] = []
    stage.speakers.admit(ONE, ())
    stage.speakers.prepare(ONE, os.getpid(), None, told.append)
    early = list(told)
    stage.begin()
    stage.speakers.prepare(ONE, os.getpid(), None, told.append)
    stage.bench.settle()

    assert early == []
    assert told == [True, True]
    assert (ONE, 0) in stage.bench.finder.attached.users()


def test_start_that_does_not_wait(stage, monkeypatch):
    """Nobody waits where nothing is going to be probed, nor behind something that hangs."""
    told: list[bool] = []
    stage.speakers.admit(ONE, ())
    stage.begin()
    stage.bench.looks.look(ONE, os.getpid(), stage.bench.note)
    stage.bench.wait_for_a_look()
    monkeypatch.setattr(looks_module, "HANGS_S", 0.0)
    stage.speakers.prepare(ONE, os.getpid(), None, told.append)
    hanging = list(told)
    stage.bench.settle()
    other = Speakers(stage.where.get, stage._tell)
    other.prepare(ONE, os.getpid(), None, told.append)
    other.give_up()
    other.prepare(ONE, os.getpid(), None, told.append)

    assert hanging == [False]
    assert told == [False] * 3


def test_another_root(stage, speaker):
    """Where a process has another root than was looked into, what is installed there is probed."""
    stage.speakers.admit(ONE, [os.getpid()])
    stage.begin()
    stage.bench.settle()
    stage.speakers._noted(ONE, look_elsewhere(speaker))
    is_settling = stage.speakers.is_settling
    stage.bench.settle()

    assert is_settling


def look_elsewhere(pid: int) -> Look:
    """What is seen of a process that has another root."""
    reading = TlsReading(library=None, path=None, unread=Unread.OWN_TLS)
    return Look(pid=pid, comm="x", exe=None, reading=reading, is_elsewhere=True)
