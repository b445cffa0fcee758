# SPDX-License-Identifier: Apache-2.0
"""Which rules and signatures the kernel holds for the editions in use, and under which numbers.

A generation is a body's rules in the kernel. It is written when the first sandbox needs it, shared
by all that have this body, and taken out once an edition without it is in force.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

from agentwall.daemon.edition import Body, Edition
from agentwall.daemon.members import Member
from agentwall.daemon.records import Records
from agentwall.errors import KernelError
from agentwall.flow.verdict import Mode
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.signatures import Inspection
from agentwall.kernel.wall import Wall
from agentwall.policy.evaluate import loopback_scope
from agentwall.policy.model import REFUSALS, Policy
from agentwall.policy.tables import RuleTables

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A body as the kernel has it."""

    body: Body
    generation: int
    slot: int | None
    """Of the signature table; None: nothing is looked for."""
    table: int
    """Generation of that table, which matches name."""
    has_names: bool
    """Whether rules name hosts."""


class Rulebook:
    """The kernel's rules and signatures, for one wall."""

    def __init__(self, wall: Wall, records: Records) -> None:
        self._wall = wall
        self._records = records
        self._edition: Edition | None = None
        self._issues: dict[tuple[str, str | None], Issue] = {}
        self._slot: int | None = None
        self._table = 0
        self._stale: list[int] = []

    @property
    def edition(self) -> Edition:
        """The edition in force; one has to be installed first."""
        assert self._edition is not None
        return self._edition

    def install(self, edition: Edition, needed: Collection[Body]) -> None:
        """Put *edition* into the kernel; :meth:`issue` is about it from now on.

        What sandboxes are bound to stays until :meth:`sweep`. On an error the edition before
        stays, and nothing of this one is left.

        Args:
            edition: The new one.
            needed: Bodies of it that sandboxes will be bound to: there must be room for them.

        Raises:
            KernelError: There is not.
            HostError: The numbers cannot be written down.
        """
        before = (self._edition, dict(self._issues), self._slot, self._table)
        is_same_table = self._edition is not None and _table_digest(self._edition) == _table_digest(
            edition
        )
        kept = {
            body.key: issue
            for body in needed
            if is_same_table and (issue := self._same(body)) is not None
        }
        try:
            if not is_same_table:
                self._write_signatures(edition)
            self._edition, self._issues = edition, kept
            for body in needed:
                self.issue(body)
        except BaseException:
            for generation in self._numbers() - {i.generation for i in before[1].values()}:
                self._wall.forget(generation)
            if self._table != before[3]:
                self._wall.signatures.retract()
            self._edition, self._issues, self._slot, self._table = before
            raise
        self._stale += {i.generation for i in before[1].values()} - self._numbers()

    def _same(self, body: Body) -> Issue | None:
        """Return the issue of a body that says the same as one that is there."""
        issue = self._issues.get(body.key)
        if issue is None or issue.body.policy.digest != body.policy.digest:
            return None
        if issue.body.masks != body.masks:
            return None
        return replace(issue, body=replace(body, tables=_without_entries(body.tables)))

    def _write_signatures(self, edition: Edition) -> None:
        self._slot = None
        if edition.packed is not None:
            self._slot = self._wall.signatures.write(edition.packed)
            self._table = self._wall.signatures.generation

    def issue(self, body: Body) -> Issue:
        """Return *body*, of the edition in force, as the kernel has it; write it if need be.

        Raises:
            KernelError: There is no room.
            HostError: The number cannot be written down.
        """
        found = self._issues.get(body.key)
        if found is not None:
            return found
        generation = self._records.next_generation()
        self._wall.apply(generation, body.tables)
        slot = self._slot if body.masks.blocks | body.masks.alerts else None
        if slot is not None:
            try:
                self._wall.signatures.apply_excepts(generation, body.masks.excepts)
            except KernelError:
                self._wall.forget(generation)
                raise
        # Events need the rules; the kernel has the rest now.
        slim = replace(body, tables=_without_entries(body.tables))
        issue = Issue(
            body=slim,
            generation=generation,
            slot=slot,
            table=self._table,
            has_names=bool(body.tables.names),
        )
        self._issues[body.key] = issue
        return issue

    def sweep(self, used: Collection[int]) -> None:
        """Take out what no sandbox is bound to any more: after all were switched over.

        What the kernel does not let go of is tried again the next time.

        Args:
            used: Generations to which sandboxes are bound still.
        """
        for generation in [each for each in self._stale if each not in used]:
            try:
                self._wall.forget(generation)
            except KernelError as err:
                logger.warning("generation %d: not taken out: %s", generation, err)
            else:
                self._stale.remove(generation)

    def _numbers(self) -> set[int]:
        return {issue.generation for issue in self._issues.values()}


def _table_digest(edition: Edition) -> str:
    return edition.signatures.digest


def _without_entries(tables: RuleTables) -> RuleTables:
    return replace(tables, outbound=(), inbound=(), interval_sets=((),), names=())


def mode_of(member: Member, policy: Policy) -> Mode:
    """Return the mode in force."""
    return member.override.mode if member.override is not None else policy.mode


def settings_for(member: Member, issue: Issue, *, through_lo: bool) -> SandboxSettings:
    """Return how the kernel is to judge *member* under *issue*.

    Args:
        member: Which sandbox.
        issue: Its rules.
        through_lo: A declared server that is not on loopback is the host itself.
    """
    policy, place = issue.body.policy, member.place
    has_dns = policy.dns is not None and place.netns_cookie != 0
    return SandboxSettings(
        generation=issue.generation,
        mode=mode_of(member, policy),
        until_ns=(member.override and member.override.until_ns) or 0,
        is_scope=member.is_scope,
        loopback=loopback_scope(policy, own_netns=place.own_netns),
        refuse_errno=REFUSALS[policy.refuse_with],
        protocols=issue.body.tables.protocols,
        netns_cookie=place.netns_cookie if has_dns else 0,
        dns=policy.dns if has_dns else None,
        has_names=issue.has_names,
        answers_through_lo=has_dns and not place.own_netns and through_lo,
        inspection=_inspection(issue),
    )


def _inspection(issue: Issue) -> Inspection | None:
    if issue.slot is None:
        return None
    body = issue.body
    return Inspection(
        slot=issue.slot,
        masks=body.masks,
        depth_bytes=body.policy.detect.depth_bytes,
        inside=body.inside,
    )
