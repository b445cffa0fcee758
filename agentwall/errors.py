# SPDX-License-Identifier: Apache-2.0
"""Errors agentwall raises on purpose.

* AgentwallError
  - PolicyError (ValueError)   a policy file is malformed; always carries path:line:column
  - KernelError (OSError)      a bpf(2) or cgroup operation failed; carries errno
    + UnsupportedFeatureError  this kernel cannot do what was asked
    + VerifierError            the verifier rejected a program; carries the log
  - ProbesRefusedError         nothing inside TLS can be read on this host; carries a log
  - HostError                  this machine, user or descriptor set cannot run a sandbox
  - EventDecodeError           the kernel sent bytes that do not match bpf/abi.h
  - DaemonNotRunningError      nobody answers at the control socket
  - ControlError               the daemon did not do what it was asked; carries a code
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class AgentwallError(Exception):
    """Base class of every error agentwall raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """A place in a policy file; line and column count from 1, as editors do."""

    path: str
    """As the user wrote it, or relative to the working directory where possible."""
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class PolicyError(AgentwallError, ValueError):
    """A policy file is malformed."""

    def __init__(
        self,
        where: SourceLocation,
        key: str,
        problem: str,
        *,
        others: tuple[PolicyError, ...] = (),
    ) -> None:
        super().__init__(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")
        self.where = where
        self.key = key
        self.problem = problem
        self.others = others
        """What else is wrong, in the order it was found."""

    @property
    def errors(self) -> tuple[PolicyError, ...]:
        """This error and all the others of the same policy."""
        return (self, *self.others)


class KernelError(AgentwallError, OSError):
    """A bpf(2) or cgroup operation failed."""

    def __init__(self, errno: int, what: str) -> None:
        OSError.__init__(self, errno, what)
        self.what = what

    def __str__(self) -> str:
        return self.what


class UnsupportedFeatureError(KernelError):
    """This kernel cannot do what was asked; the message says what is needed."""


class VerifierError(KernelError):
    """The verifier rejected a program."""

    def __init__(self, errno: int, what: str, log: str) -> None:
        super().__init__(errno, what)
        self.log = log
        """The whole verifier log; the message carries only its last useful line."""


class ProbesRefusedError(AgentwallError):
    """The probes inside TLS cannot be compiled, loaded or attached on this host."""

    def __init__(self, what: str, log: str = "") -> None:
        super().__init__(what)
        self.log = log
        """The last of what bcc and the verifier printed; the message has the line that counts."""


class HostError(AgentwallError):
    """This machine, user or set of descriptors cannot run a sandbox."""


class EventDecodeError(AgentwallError):
    """The kernel sent bytes that do not match ``bpf/abi.h``."""


class DaemonNotRunningError(AgentwallError):
    """Nobody answers at the control socket."""


class ControlCode(enum.Enum):
    """Why a request on the control socket came to nothing."""

    NOT_FOUND = "not-found"
    """There is no such sandbox."""
    NOT_PERMITTED = "not-permitted"
    """Whoever asked has no right to this."""
    INVALID = "invalid"
    """The request is malformed, or its arguments are."""
    FAILED = "failed"
    """It was tried."""
    BUSY = "busy"
    """There are too many requests already; the same may succeed later."""


class ControlError(AgentwallError):
    """The daemon did not do what it was asked on its control socket."""

    def __init__(self, code: ControlCode, message: str) -> None:
        super().__init__(message)
        self.code = code
