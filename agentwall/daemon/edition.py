# SPDX-License-Identifier: Apache-2.0
"""An edition: the configuration, every policy of its directory and the signatures, compiled.

All of it or none: what is wrong in one file keeps the whole edition from being used, and the one
before stays in force. Made by :mod:`agentwall.daemon.edition_read` in a process of its own, so that
what reading takes (YAML, validation, the automaton's compiler) does not stay with the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentwall import __version__
from agentwall.daemon.config import Config
from agentwall.detect.judging import Masks
from agentwall.detect.packed import PackedTable
from agentwall.detect.signature import SignatureSet
from agentwall.kernel.abi import Plain
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A policy in one of its phases, or one that has none."""

    policy: Policy
    tables: RuleTables
    masks: Masks
    inside: Plain = Plain.ALL
    """Whether what is said inside TLS is read."""

    @property
    def key(self) -> tuple[str, str | None]:
        """Name and phase."""
        return self.policy.name, self.policy.phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """Everything that is read from files."""

    config: Config
    policies: Mapping[str, tuple[Body, ...]]
    """By name; phases in their order, the initial one first."""
    signatures: SignatureSet
    packed: PackedTable | None
    """The automaton for the kernel; None where there is none."""
    digest: str
    """SHA-256, hex, of the policies', signatures' and configuration's content."""
    commit: str | None
    """Of the checkout that the policies lie in."""
    commit_problem: str | None
    """Why there is none, where there should be."""
    directories: tuple[str, ...]
    """Where all of it was read, sorted; those that exist."""

    def initial(self, name: str) -> Body:
        """Return the policy *name* in its first phase.

        Raises:
            KeyError: There is no such policy.
        """
        return self.policies[name][0]

    def body(self, name: str, phase: str | None) -> Body | None:
        """Return a policy in one phase, or None if there is no such policy or phase."""
        for body in self.policies.get(name, ()):
            if body.policy.phase == phase:
                return body
        return None

    def phases(self, name: str) -> tuple[str, ...]:
        """Return the names of the policy's phases, in order."""
        return tuple(
            body.policy.phase
            for body in self.policies.get(name, ())
            if body.policy.phase is not None
        )

    def selectable(self) -> Iterator[Policy]:
        """Yield each policy once, in its first phase: what ``choose`` chooses from."""
        for bodies in self.policies.values():
            yield bodies[0].policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Why there is no new edition."""

    problems: tuple[str, ...]
    """Lines for people, ``file:line:column: ...`` where a file is to blame."""
    is_usage: bool
    """Files are to blame, and not this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the reading process is told."""

    config: str
    """Path of the configuration."""
    must_exist: bool
    """False for the default path: then its absence means the defaults."""
    version: str = __version__
    """Of who asks: what another version answers it would not understand."""
