# SPDX-License-Identifier: Apache-2.0
"""Signals as data."""

from __future__ import annotations

import os
import signal

import pytest

from agentwall.host.signals import PASSED_ON, Received


@pytest.mark.parametrize("number", PASSED_ON)
def test_from_a_process(signals, number):
    """A signal that kill(2) sends is read, and known to come from a process."""
    os.kill(os.getpid(), number)

    assert signals.read() == [Received(number, is_from_kernel=False)]


def test_from_the_kernel(signals):
    """SIGCHLD is the kernel's own."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)

    assert signals.read() == [Received(signal.SIGCHLD, is_from_kernel=True)]


def test_nothing(signals):
    """Reading never waits."""
    assert signals.read() == []


def test_mask_comes_back(signals):
    """The mask of before is kept for the command, and held signals are blocked meanwhile."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert set(PASSED_ON) <= blocked
    assert not set(PASSED_ON) & signals.old_mask
