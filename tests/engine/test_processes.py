# SPDX-License-Identifier: Apache-2.0
"""Processes: the kernel's word joined with /proc's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import CURL

from agentwall.engine.processes import MAX_ARGV_CHARS, clamp_arguments, describe_task
from agentwall.flow.record import ProcessSource, Task


def test_proc_adds_what_the_kernel_did_not_see():
    """Program and arguments come from /proc; name, pid and user from the hook."""
    found = describe_task(Task(pid=4242, uid=7, comm=b"worker"), CURL)

    assert (found.pid, found.uid, found.comm) == (4242, 7, "worker")
    assert (found.exe, found.argv, found.ppid) == (CURL.exe, CURL.argv, CURL.ppid)
    assert found.source is ProcessSource.PROC


def test_a_process_that_has_gone_is_what_the_kernel_saw():
    """Without /proc an event says pid, uid and name, and that the kernel is the source."""
    found = describe_task(Task(pid=9, uid=1000, comm=b"sh"), None)

    assert (found.pid, found.uid, found.comm) == (9, 1000, "sh")
    assert (found.exe, found.argv, found.ppid) == (None, None, None)
    assert found.source is ProcessSource.KERNEL


def test_a_packet_without_a_task_has_no_process():
    """Pid 0 is nobody, whatever /proc was asked for."""
    assert describe_task(Task(pid=0, uid=0, comm=b""), CURL).source is ProcessSource.NONE


@pytest.mark.parametrize(
    ("comm", "text"),
    [(b"curl\0garbage", "curl"), (b"\xff\xfe", "\\xff\\xfe"), ("é".encode(), "é")],
)
def test_names_are_bytes(comm, text):
    """A name ends at NUL; bytes that are not UTF-8 are spelled out."""
    assert describe_task(Task(pid=1, uid=0, comm=comm), None).comm == text


def test_long_arguments_are_cut_and_counted():
    """What is cut off is said in a last argument."""
    kept = clamp_arguments(("sh", "-c", "x" * 10_000, "tail"))

    assert kept[:2] == ("sh", "-c")
    assert sum(map(len, kept[:3])) <= MAX_ARGV_CHARS
    assert kept[-1] == f"[{10_004 - len(kept[2])} more characters]"


@given(st.lists(st.text(max_size=9000), max_size=20).map(tuple))
def test_arguments_stay_bounded(argv):
    """Short argument lists are kept as they are, and no list grows past the limit."""
    kept = clamp_arguments(argv)

    assert sum(map(len, kept)) <= MAX_ARGV_CHARS + 40
    if sum(len(argument) + 1 for argument in argv) <= MAX_ARGV_CHARS:
        assert kept == argv


def test_what_proc_says_already_is_kept_as_it_is():
    """A process that does the same a thousand times is described by one object."""
    task = Task(pid=CURL.pid, uid=CURL.uid, comm=CURL.comm.encode())

    assert describe_task(task, CURL) is CURL
