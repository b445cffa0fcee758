# SPDX-License-Identifier: Apache-2.0
"""What a person reads and which code a command ends with when agentwall itself fails.

In goes an :class:`AgentwallError`, out come lines for stderr and an exit code. ``agentwall run``
prints the same lines and ends with 125, so that its codes stay the command's own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable

from agentwall.errors import (
    AgentwallError,
    ControlCode,
    ControlError,
    DaemonNotRunningError,
    PolicyError,
    VerifierError,
)
from agentwall.sinks.escape import printable

EXIT_USAGE = 2
"""Wrong usage or an invalid policy."""
EXIT_NOT_RUNNING = 3
"""The daemon is not running."""
EXIT_HOOK_MISSING = 4
"""A required hook is not in force."""
EXIT_CANNOT_RUN = 77
"""This machine, kernel or installation cannot do what was asked."""


def exit_code_for(error: AgentwallError) -> int:
    """Return the exit code of a command that ends with this error."""
    match error:
        case PolicyError():
            return EXIT_USAGE
        case DaemonNotRunningError():
            return EXIT_NOT_RUNNING
        case ControlError() if error.code in (ControlCode.INVALID, ControlCode.NOT_FOUND):
            return EXIT_USAGE
        case _:
            return EXIT_CANNOT_RUN


def report(error: AgentwallError) -> int:
    """Print this error to stderr and return the exit code for it.

    Each line starts with ``agentwall:``; an invalid policy gives one for everything wrong with it.
    A verifier's log goes to a file that the last line names.
    """
    found = error.errors if isinstance(error, PolicyError) else [error]
    print_lines(str(each) for each in found)
    if isinstance(error, VerifierError) and error.log:
        print_lines([_keep_log(error.log)])
    return exit_code_for(error)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to stderr, marked as agentwall's own and safe for a terminal.

    A message may quote a policy file or a process: neither may steer the terminal.
    """
    for line in lines:
        print(f"agentwall: {printable(line)}", file=sys.stderr)


def _keep_log(log: str) -> str:
    try:
        descriptor, path = tempfile.mkstemp(prefix="agentwall-verifier-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(log)
    except OSError as err:
        return f"the verifier's log is lost: {err.strerror}"
    return f"the verifier's whole log: {path}"
