# SPDX-License-Identifier: Apache-2.0
"""Reading a sandbox's processes from /proc."""

from __future__ import annotations

import os
import subprocess

import pytest
from rig.process import wait_until

from agentwall.flow.record import ProcessSource, Task
from agentwall.host import process
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import path_of
from agentwall.host.process import ProcessReader, living


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
    words = [b"sh", b"-c", b"read x; :", b"a b", b"", b"\xff\x1b[31m"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as started:
        # execve() is over when the arguments are the child's own.
        wait_until(lambda: b"read x" in cmdline(started.pid), what="the child's execve")
        yield started
        started.kill()


def cmdline(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def test_member(child, argv):
    """A living member is described with its program, arguments and parent."""
    found = ProcessReader(path_of("self"), argv).read(task(child.pid))

    assert found.argv == ("sh", "-c", "read x; :", "a b", "", "\\xff\x1b[31m")
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
    words = ["sh", "-c", "read x; :", *["x" * 1000] * 100]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as started:
        wait_until(lambda: b"read x" in cmdline(started.pid), what="the child's execve")
        found = ProcessReader(path_of("self"), argv).read(task(started.pid))
        started.kill()

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
