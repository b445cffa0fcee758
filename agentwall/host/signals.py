# SPDX-License-Identifier: Apache-2.0
"""Signals as data: which are passed on to the command, and who sent one (signalfd(2))."""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass

from agentwall.host import libc

PASSED_ON = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
    # Batch systems send these; left alone they would end agentwall and lose the exit code.
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXCPU,
    signal.SIGIO,
    signal.SIGPWR,
)
WATCHED = (*PASSED_ON, signal.SIGCHLD)
BLOCKED = (*WATCHED, signal.SIGTTOU)
"""SIGTTOU too: a line about a denial must not stop agentwall when it is in the background."""

_INFO = struct.Struct("=IiiI")
"""Start of ``struct signalfd_siginfo``: signo, errno, code, pid."""
_INFO_BYTES = 128


@dataclass(frozen=True, slots=True)
class Received:
    """One signal read from a :class:`SignalQueue`."""

    number: signal.Signals
    is_from_kernel: bool
    """The terminal sent it, and so sent it to the whole foreground process group."""


class SignalQueue:
    """Blocks the signals agentwall passes on and hands them out one by one."""

    def __init__(self) -> None:
        self.old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        """The mask before, which the command gets back."""
        self.descriptor = libc.signalfd(WATCHED)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self.descriptor

    def read(self) -> list[Received]:
        """Return the signals that have arrived; never waits."""
        try:
            data = os.read(self.descriptor, _INFO_BYTES * 64)
        except BlockingIOError:
            return []
        return [_decode(data, start) for start in range(0, len(data), _INFO_BYTES)]

    def close(self) -> None:
        """Give the process its old signal mask back; what has arrived by now is dropped."""
        self.read()
        os.close(self.descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.old_mask)


def _decode(data: bytes, start: int) -> Received:
    number, _, code, _ = _INFO.unpack_from(data, start)
    # SI_USER is 0, SI_QUEUE and SI_TKILL are negative; what the kernel sends is positive.
    return Received(signal.Signals(number), code > 0)
