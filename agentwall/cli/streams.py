# SPDX-License-Identifier: Apache-2.0
"""The three standard streams, put into a state in which everything else can rely on them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from agentwall.cli.failures import print_lines

_LOGGER = logging.getLogger("agentwall")


def open_missing_streams() -> None:
    """Lead whichever of descriptors 0-2 is closed to /dev/null.

    The next file that is opened would get the number else, and with it what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, and so this one. A command of ours is to have it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def discard_stdout() -> None:
    """Throw away what stdout still holds: the interpreter would try again at its end, and complain.

    For a reader that has left and for a disk that is full.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A warning that nobody can read must not disturb what goes on behind the wall.
        with contextlib.suppress(OSError):
            print_lines([record.getMessage()])


def show_warnings() -> None:
    """Print what agentwall logs as lines of its own, marked and escaped like the others."""
    if not _LOGGER.handlers:
        _LOGGER.addHandler(_Lines(logging.WARNING))
