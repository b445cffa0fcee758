# SPDX-License-Identifier: Apache-2.0
"""Signals as data."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from agentwall.host.signals import PASSED_ON, Received, SignalQueue


@pytest.mark.parametrize("number", PASSED_ON)
def test_from_a_process(signals, number):
    """A signal that a process sends is read, and known to come from one."""
    # To this thread: any other one that a test has left would take it, and end the whole run.
    signal.pthread_kill(threading.main_thread().ident, number)

    assert read(signals) == [Received(number, is_from_kernel=False)]


def read(signals: SignalQueue) -> list[Received]:
    """Read all but SIGCHLD: a child that an earlier test has left may end at any moment."""
    return [each for each in signals.read() if each.number is not signal.SIGCHLD]


CHILD_THAT_ENDS = """
import os
from agentwall.host.signals import SignalQueue
signals = SignalQueue()
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
print(signals.read())
"""


def test_from_the_kernel():
    """SIGCHLD is the kernel's own; in a process of one thread, as ``run`` is."""
    command = [sys.executable, "-c", CHILD_THAT_ENDS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == f"{[Received(signal.SIGCHLD, is_from_kernel=True)]}\n"


def test_nothing(signals):
    """Reading never waits."""
    assert read(signals) == []


def test_mask_comes_back(signals):
    """The mask of before is kept for the command, and held signals are blocked meanwhile."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert set(PASSED_ON) <= blocked
    assert not set(PASSED_ON) & signals.old_mask
