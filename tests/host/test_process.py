# SPDX-License-Identifier: Apache-2.0
"""Reading a sandbox's processes from /proc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentwall.flow.record import ProcessSource, Task
from agentwall.host import process
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import path_of
from agentwall.host.process import ProcessReader, is_ending, living

SCRIPT = b"echo; read x; :"


@pytest.fixture
def argv():
    """Who reads the arguments."""
    made = ArgvReader()
    yield made
    made.close()


def task(pid: int) -> Task:
    return Task(pid=pid, uid=7, comm=b"name\0\0")


@pytest.fixture
def child():
    """A process that waits, with odd arguments, one of which is not UTF-8."""
    with waiting(b"a b", b"", b"\xff\x1b[31m") as started:
        yield started


@contextmanager
def waiting(*words: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that has begun to wait: one that still maps what it needs holds its arguments."""
    pipe = subprocess.PIPE
    with subprocess.Popen([b"sh", b"-c", SCRIPT, *words], stdin=pipe, stdout=pipe) as started:
        assert started.stdout.readline() == b"\n"
        yield started
        started.kill()


def test_who_is_ending(child):
    """Who has ended and is not reaped, and who is not there at all; not who lives."""
    before = is_ending(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    unreaped = is_ending(child.pid)
    child.wait()

    assert (before, unreaped, is_ending(child.pid)) == (False, True, True)


def test_member(child, argv):
    """A living member is described with its program, arguments and parent."""
    found = ProcessReader(path_of("self"), argv).read(task(child.pid))

    assert found.argv == ("sh", "-c", SCRIPT.decode(), "a b", "", "\\xff\x1b[31m")
    assert found.exe == os.path.realpath("/bin/sh")
    assert (found.pid, found.ppid, found.uid) == (child.pid, os.getpid(), 7)
    assert found.source is ProcessSource.PROC


def test_stranger(child, argv):
    """A process outside the sandbox's cgroup is never described, though it has the pid."""
    assert ProcessReader("/agentwall.slice/agentwall-other", argv).read(task(child.pid)) is None


def test_neighbour_of_similar_name(child, argv):
    """A cgroup whose name begins like the sandbox's is not below it."""
    shorter = path_of("self").rstrip("/")[:-1] or "/x"

    assert ProcessReader(shorter, argv).read(task(child.pid)) is None


def test_gone(argv):
    """Of a process that has ended there is nothing to say."""
    child = subprocess.Popen(["true"])
    child.wait()

    assert ProcessReader(path_of("self"), argv).read(task(child.pid)) is None


def test_no_task(argv):
    """An event without a task has no process."""
    assert ProcessReader(path_of("self"), argv).read(task(0)) is None


def test_remembered(child, argv, monkeypatch):
    """A description is used again for a moment after the process has ended."""
    monkeypatch.setattr(process, "_FRESH_S", 60.0)
    reader = ProcessReader(path_of("self"), argv)
    before = reader.read(task(child.pid))
    child.kill()
    child.wait()

    assert reader.read(task(child.pid)) == before


def test_long_arguments(argv):
    """A huge command line is read only so far."""
    with waiting(*[b"x" * 1000] * 100) as started:
        found = ProcessReader(path_of("self"), argv).read(task(started.pid))

    assert sum(map(len, found.argv)) <= 4096


def test_who_lives():
    """Every process there is, until it has ended and its end was taken note of."""
    with subprocess.Popen(["sleep", "60"]) as ended:
        during = living()
        ended.kill()
    after = living()

    assert {1, os.getpid(), ended.pid} <= during
    assert os.getpid() in after
    assert ended.pid not in after
