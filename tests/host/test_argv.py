# SPDX-License-Identifier: Apache-2.0
"""Reading arguments of processes that may make the reader wait."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.cgroup import temp_cgroup
from rig.held_memory import held_or_skip
from rig.process import wait_until
from rig.tree import ROOT

from agentwall.flow.record import Task
from agentwall.host import argv
from agentwall.host.argv import MAX_BYTES, ArgvReader, Patience
from agentwall.host.cgroup import path_of
from agentwall.host.process import ProcessReader

pytestmark = pytest.mark.kernel

MINE = "/mine"
OTHERS = "/others"
UNLIKELY = 2**22 + 1


@pytest.fixture
def reader():
    """A reader whose threads have ended in the end."""
    before = set(threading.enumerate())
    made = ArgvReader()
    yield made
    made.close()
    wait_until(lambda: set(threading.enumerate()) <= before, what="the end of its threads")


@contextmanager
def held(directory, count: int = 1):
    """Processes whose memory nobody can read."""
    with temp_cgroup() as cgroup, held_or_skip(directory, cgroup, count) as found:
        yield found


def own() -> bytes:
    """The arguments of this process."""
    return arguments(os.getpid())


def arguments(pid: int) -> bytes:
    """The start of a process's arguments, read without a thread."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(MAX_BYTES)


def test_arguments(reader):
    """They are read as they stand, by one thread for all."""
    before = set(threading.enumerate())
    found = {reader.read(os.getpid(), sandbox) for sandbox in (MINE, OTHERS, MINE)}

    assert found == {own()}
    assert len(set(threading.enumerate()) - before) == 1
    assert reader.left_behind == 0


def test_a_long_line(reader):
    """Of very many only the start is read."""
    words, pipe = ["sh", "-c", "echo; read x; :", "x" * 50_000], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as child:
        # Before that it still maps what it needs, and holds its arguments meanwhile.
        assert child.stdout.readline() == b"\n"
        found = reader.read(child.pid, MINE)
        child.kill()

    assert len(found) == MAX_BYTES


def test_nobody(reader):
    """A process that is not there is an error, and takes no patience."""
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            reader.read(UNLIKELY, MINE)

    assert reader.read(os.getpid(), MINE) == own()


def test_held(reader, tmp_path):
    """One thread is left behind, and its sandbox goes without; others do not."""
    with held(tmp_path, 2) as processes:
        found = [reader.read(pid, MINE) for pid in (*processes.pids, os.getpid())]
        behind = reader.left_behind
        others = reader.read(os.getpid(), OTHERS)

    assert found == [None] * 3
    assert behind == 1
    assert others == own()


def test_held_no_more(reader, tmp_path):
    """When the read has ended after all, the sandbox is read again."""
    with held(tmp_path) as processes:
        before = reader.read(processes.pids[0], MINE)
        processes.release()
        wait_until(lambda: reader.left_behind == 0, what="the thread")
        after = reader.read(processes.pids[0], MINE)

    assert before is None
    assert b"rig.held_memory" in after


def test_bound(reader, tmp_path, monkeypatch):
    """So many sandboxes and no more have a thread each that waits; then nothing is read."""
    monkeypatch.setattr(argv, "MAX_LEFT_BEHIND", 2)
    with held(tmp_path, 3) as processes:
        found = [reader.read(pid, f"/{pid}") for pid in processes.pids]
        behind, others = reader.left_behind, reader.read(os.getpid(), OTHERS)

    assert (found, behind, others) == ([None] * 3, 2, None)


def test_closed_while_it_waits(reader, tmp_path):
    """Closing does not wait, and the thread ends when it can."""
    with held(tmp_path) as processes:
        reader.read(processes.pids[0], MINE)
        reader.close()
        assert reader.left_behind == 0


def test_closed_before_its_turn(reader, monkeypatch):
    """A thread that gets no turn on a busy machine before it is closed reads nothing, and ends."""
    monkeypatch.setattr(argv, "_LOOKS", 1)
    gate, work = threading.Event(), argv._Hand._work

    def begin_late(hand):
        gate.wait()
        work(hand)

    monkeypatch.setattr(argv._Hand, "_work", begin_late)
    try:
        found = reader.read(os.getpid(), MINE)
        reader.close()
    finally:
        gate.set()

    assert found is None
    assert reader.left_behind == 0


def test_who_makes_it_wait_often(reader, tmp_path, monkeypatch):
    """A sandbox whose patience is spent goes without, for all that each of its reads ends."""
    monkeypatch.setattr(argv, "_OWN_S", 0.05)
    # None comes back meanwhile: on a busy machine it takes long to make a process that is held.
    monkeypatch.setattr(argv, "_OWN_SHARE", 0.0)
    with ExitStack() as undo:
        for number in range(20):
            (tmp_path / str(number)).mkdir()
            processes = undo.enter_context(held(tmp_path / str(number)))
            reader.read(processes.pids[0], MINE)
            processes.release()
            wait_until(lambda: reader.left_behind == 0, what="the thread")
            if reader.read(os.getpid(), MINE) is None:
                break
        others = reader.read(os.getpid(), OTHERS)

    assert number < 19
    assert others == own()


NO_THREAD = """
import os, resource
from agentwall.host.argv import ArgvReader
os.setuid(61234)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
print(ArgvReader().read(os.getpid(), "/mine"))
"""


def test_no_thread():
    """Where no thread can be made there are no arguments, and no error."""
    found = subprocess.run(
        [sys.executable, "-c", NO_THREAD], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (found.stdout, found.stderr) == ("None\n", "")


def test_a_process_without_arguments_in_time(reader, tmp_path):
    """The rest of it is known all the same."""
    with temp_cgroup() as cgroup, held_or_skip(tmp_path, cgroup) as processes:
        pid = processes.pids[0]
        found = ProcessReader(path_of(pid), reader).read(Task(pid=pid, uid=0, comm=b"x"))

    assert (found.pid, found.argv) == (pid, None)
    assert found.exe is not None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), max_size=50))
def test_patience(steps):
    """What is spent is never more than there was and grew, but for the last; and it grows whole."""
    patience = Patience(0.2, 0.1)
    now_s, spent_s, last_s = time.monotonic(), 0.0, 0.0
    began_s = now_s
    for pause_s, cost_s in steps:
        now_s += pause_s
        if patience.left_s(now_s) > 0:
            patience.spend(cost_s, now_s)
            spent_s, last_s = spent_s + cost_s, cost_s

    assert spent_s - last_s <= 0.2 + (now_s - began_s) * 0.1 + 1e-6
    assert patience.left_s(now_s) <= 0.2
    assert patience.is_whole(now_s + 1000)
