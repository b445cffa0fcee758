# SPDX-License-Identifier: Apache-2.0
"""A policy as typed values: ``load`` makes them; ``evaluate``, ``compile`` and ``lint`` read."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Mode, Verdict
from agentwall.net.endpoint import Endpoint, IPNetwork
from agentwall.net.ports import PortRange


class Section(enum.Enum):
    """The list a rule stands in."""

    ALLOW = "allow"
    DENY = "deny"
    INBOUND = "inbound"


class Loopback(enum.Enum):
    """What the ``loopback`` key says."""

    AUTO = "auto"
    """Free in a network namespace of the sandbox's own; in the host's as :class:`LoopbackScope`."""
    ALLOW = "allow"
    DENY = "deny"


class LoopbackScope(enum.Enum):
    """What :class:`Loopback` comes to for one sandbox. Explicit rules hold in each of them."""

    FREE = "free"
    OWN_LISTENERS = "own-listeners"
    """Only listeners whose socket was made in this sandbox."""
    CLOSED = "closed"


class OnError(enum.Enum):
    """What happens when a required hook cannot be attached."""

    FAIL_CLOSED = "fail-closed"
    DEGRADE = "degrade"


REFUSALS: dict[str, int] = {
    name: getattr(errno, name)
    for name in ("EPERM", "ECONNREFUSED", "EACCES", "ENETUNREACH", "EHOSTUNREACH")
}
"""The values of ``refuse_with`` and their errno."""


@dataclass(frozen=True, slots=True)
class RulePrefix:
    """One prefix of a rule, and the line it was written on."""

    network: IPNetwork
    """Canonical: never IPv4-mapped, NAT64 or 6to4."""
    where: SourceLocation
    """In the policy file, or in the ``cidr_file``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of ``allow``, ``deny`` or ``inbound``."""

    policy: str
    """Name of the policy whose file the rule was written in (a base's, under ``extends``)."""
    section: Section
    index: int
    """Position in that file's list, from 0."""
    prefixes: tuple[RulePrefix, ...]
    ports: tuple[PortRange, ...]
    where: SourceLocation
    note: str | None = None

    @property
    def id(self) -> str:
        """``<policy>:allow[1]``."""
        return f"{self.policy}:{self.section.value}[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """One row of ``tests``: judged by the rules alone, whatever the mode."""

    remote: Endpoint
    expect: Verdict
    where: SourceLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded policy with its bases merged in."""

    name: str
    mode: Mode
    on_error: OnError
    refuse_with: str
    """A key of :data:`REFUSALS`."""
    loopback: Loopback
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    inbound: tuple[Rule, ...]
    tests: tuple[PolicyTest, ...]
    files: tuple[str, ...]
    """Every file that was read, the policy's own last."""
    digest: str
    """SHA-256, hex, over the content of *files* in order."""
