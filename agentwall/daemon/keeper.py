# SPDX-License-Identifier: Apache-2.0
"""Puts sandboxes behind the one wall of the daemon, switches what judges them, and lets them go.

Every step fails closed: a sandbox is attached first, which refuses it everything, and its policy
decides only once all the rest is done. What is said of it is written down before it is made, so
that the next daemon finds it whenever this one dies.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping

from agentwall import __version__
from agentwall.daemon import telling
from agentwall.daemon.choosing import Applicant, NotAdmitted, choose_again
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.edition import Body, Edition
from agentwall.daemon.live_sockets import LiveSockets
from agentwall.daemon.members import Admission, Judged, Member, Members, Override
from agentwall.daemon.records import Records
from agentwall.daemon.rulebook import Issue, Rulebook, mode_of, settings_for
from agentwall.daemon.surroundings import Surroundings
from agentwall.engine.events import (
    Event,
    SandboxFinished,
    SandboxLabelled,
    SandboxRenamed,
    TotalsRead,
)
from agentwall.errors import AgentwallError, HostError, KernelError
from agentwall.flow.origin import Origin
from agentwall.flow.record import SandboxKey
from agentwall.host.cgroup import Cgroup
from agentwall.host.coverage import Coverage
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Policy

PHASE = "phase"
"""The label that says which phase holds."""


class Keeper:
    """The wall, the rules in it, and who stands behind it."""

    def __init__(
        self,
        wall: Wall,
        records: Records,
        edition: Edition,
        surroundings: Surroundings,
        emit: Callable[[Event], None],
    ) -> None:
        """Keep sandboxes behind *wall*.

        Raises:
            KernelError: There is no room for the edition's signatures.
        """
        self.wall = wall
        self.members = Members()
        self.rules = Rulebook(wall, records)
        self.records = records
        self.is_settled = False
        """Nothing of an earlier daemon is left to take over, or to wait for."""
        self._surroundings = surroundings
        self.emit = emit
        """Where events go."""
        self.rules.install(edition, ())

    def admit(self, applicant: Applicant, body: Body) -> Member:
        """Put *applicant* behind the wall under *body*; on an error nothing of it is left.

        Raises:
            HostError: It is gone, or nothing can be written down.
            KernelError: A hook was refused, or there is no room.
        """
        cgroup, key = applicant.cgroup, SandboxKey(secrets.randbits(63) | 1)
        member = Member(
            key=key,
            id=self.members.free_id(applicant.origin, cgroup.path, key),
            cgroup=cgroup,
            cgroup_id=_id_of(cgroup),
            scope=applicant.scope.cgroup,
            admission=applicant.admission,
            origin=applicant.origin,
            labels=dict(applicant.labels),
            wanted=applicant.wanted,
            pid=applicant.pid,
            admitted_ns=time.time_ns(),
        )
        self._name_policy(member, body)
        self.records.write(member)
        try:
            self.wall.attach(cgroup.directory, key)
            member.place = self._surroundings.place_of(member)
            issue = self._bind(member, body)
            self.wall.activate(cgroup.directory, key)
            self._assess(member, body.policy)
            self.records.write(member)
        except BaseException:
            self._give_up(member)
            raise
        self._enter(member, issue)
        return member

    def adopt_all(self, written: Iterable[Member | str]) -> tuple[int, list[str]]:
        """Take over the sandboxes of an earlier daemon, which are judged all the while.

        All of them are bound in the new wall before the first hook is switched over to it.

        Args:
            written: What its records say.

        Returns:
            How many were taken over, and what went wrong or had to be repaired: what cannot be
            taken over stays as it is, behind the old programs.
        """
        adopted: list[tuple[Member, Issue, Judged | None]] = []
        problems: list[str] = []
        for member in written:
            if isinstance(member, str):
                problems.append(member)
                continue
            # The files may say something else by now than they did to the daemon before.
            body = choose_again(self.rules.edition, member)
            self._name_policy(member, body)
            if not member.is_scope:
                member.admission = Admission.ADOPTED
            former = member.judged
            adopted.append((member, self._bind(member, body), former))
        done = 0
        for member, issue, former in adopted:
            directory = member.cgroup.directory
            try:
                repaired = self.wall.take_over(member.key, directory)
                self._assess(member, issue.body.policy)
                self._enter(member, issue, former)
                self.records.write(member)
            except AgentwallError as err:
                problems.append(f"{member.id}: {err}")
                continue
            done += 1
            problems += [f"{member.id}: {each}" for each in repaired]
        return done, problems

    def _assess(self, member: Member, policy: Policy) -> None:
        if member.admission is not Admission.ADOPTED:
            member.unwatched_ms = self._surroundings.unwatched_ms(member)
        missing = tuple(self.wall.missing_hooks(member.key))
        member.coverage = self._surroundings.coverage_of(member, policy, missing)

    def _enter(self, member: Member, issue: Issue, former: Judged | None = None) -> None:
        self.members.add(member)
        self.emit(telling.started(member, mode_of(member, issue.body.policy)))
        if former is not None:
            for event in telling.judged_before(member, former, self.rules.edition):
                self.emit(event)
        self._tell_rules(member, issue)
        if member.admission is Admission.ADOPTED:
            member.counters = self.wall.counters(member.key)
            self.emit(telling.counted_before(member, member.counters))

    def _tell_rules(self, member: Member, issue: Issue) -> None:
        for event in telling.judged_by(member, issue, self.rules.edition):
            self.emit(event)

    def _bind(self, member: Member, body: Body) -> Issue:
        issue = self.rules.issue(body)
        through_lo = self._surroundings.answers_through_lo(member, body.policy)
        self.wall.bind(member.key, settings_for(member, issue, through_lo=through_lo))
        member.generation = issue.generation
        member.judged = self._judged(issue)
        return issue

    def _judged(self, issue: Issue) -> Judged:
        policy = issue.body.policy
        return Judged(
            version=__version__,
            policy=policy.name,
            phase=policy.phase,
            digest=policy.digest,
            commit=policy.commit,
            generation=issue.generation,
            table=issue.table,
            signatures=self.rules.edition.signatures.digest,
        )

    def _give_up(self, member: Member) -> None:
        with contextlib.suppress(KernelError):
            self.wall.detach(member.key)
            self.records.remove(member.key)

    def settle(self) -> list[SandboxKey]:
        """Make the earlier daemon's pins this one's own; again until :attr:`is_settled`.

        What has gone there is let go once the kernel has no socket of it left to judge.

        Returns:
            Sandboxes of which nothing is written down: they stay as they were.

        Raises:
            KernelError: A pin cannot be moved or removed.
        """
        left = self.wall.settle()
        for key in self.records.gone.difference(left):
            self.records.remove(key)
        self.is_settled = not left
        return [key for key in left if key not in self.records.gone]

    # --- What may change while a sandbox lives -------------------------------------------------

    def set_labels(self, member: Member, labels: Mapping[str, str], by: str) -> None:
        """Give *member* these labels, all of them; the label ``phase`` switches its phase.

        A sandbox of a warm pool is given to somebody only now: other labels may choose another
        policy.

        Raises:
            NotAdmitted: Its policy has no such phase.
            KernelError: There is no room for the other rules.
            HostError: It cannot be written down.
        """
        before, member.labels = member.labels, dict(labels)
        try:
            body = self._body_in_phase(member)
            issue = self.rules.issue(body)
        except BaseException:
            member.labels = before
            raise
        # Before the rules switch: what they refuse belongs to the new labels.
        self._name_policy(member, body)
        self.emit(
            SandboxLabelled(key=member.key, mono_ns=boot_ns(), labels=dict(member.labels), by=by)
        )
        if issue.generation != member.generation:
            self._switch(member, body)
        self.records.write(member)

    def _body_in_phase(self, member: Member) -> Body:
        body = choose_again(self.rules.edition, member)
        wanted = member.labels.get(PHASE)
        if wanted is None or wanted == body.policy.phase:
            return body
        name = body.policy.name
        found = self.rules.edition.body(name, wanted)
        if found is None and wanted == member.phase:
            return body  # Of the policy before, and not what was asked for.
        if found is None:
            phases = ", ".join(self.rules.edition.phases(name)) or "none"
            raise NotAdmitted(f"phase: expected one of {name}'s ({phases}), got {wanted}")
        return found

    def set_override(
        self, member: Member, override: Override | None, by: str, reason: str = telling.TIME_IS_OVER
    ) -> None:
        """Switch the mode of *member* for a while, or end that, for *reason*.

        Raises:
            KernelError: The kernel refuses.
            HostError: It cannot be written down.
        """
        body = self._body_of(member)
        before, member.override = member.override, override
        try:
            self._bind(member, body)
        except BaseException:
            member.override = before
            raise
        self.records.write(member)
        self.emit(telling.overridden(member, mode_of(member, body.policy), override, by, reason))

    def rename(self, member: Member, origin: Origin) -> bool:
        """Note what a runtime says of *member*; say whether that gives it another policy.

        Raises:
            KernelError: There is no room for that policy's rules.
            HostError: It cannot be written down.
        """
        member.origin = origin
        self.emit(SandboxRenamed(key=member.key, origin=origin))
        body = self._body_of(member, again=True)
        is_other = body.policy.name != member.policy
        if is_other:
            self._switch(member, body)
        self.records.write(member)
        return is_other

    def install(self, edition: Edition) -> tuple[int, list[str]]:
        """Let another edition judge everyone.

        Returns:
            How many are judged otherwise now, and what went wrong with single ones.

        Raises:
            KernelError: There is no room: the edition before stays in force, for everyone.
            HostError: The numbers of its rules cannot be written down: likewise.
        """
        old = self.rules.edition
        wanted = {member.key: choose_again(edition, member) for member in self.members}
        needed = {body.key: body for body in wanted.values()}
        self.rules.install(edition, needed.values())
        switched, problems = 0, []
        for member in self.members:
            before, body = member.generation, wanted[member.key]
            try:
                issue = self._bind(member, body)
                self._name_policy(member, body)
                switched += issue.generation != before
                if issue.generation != before or edition.commit != old.commit:
                    self._tell_rules(member, issue)
                self.records.write(member)
            except AgentwallError as err:
                problems.append(f"sandbox {member.id}: {err}")
        self.rules.sweep({member.generation for member in self.members})
        return switched, problems

    def _switch(self, member: Member, body: Body) -> None:
        issue = self._bind(member, body)
        self._name_policy(member, body)
        self._tell_rules(member, issue)

    def _body_of(self, member: Member, *, again: bool = False) -> Body:
        edition = self.rules.edition
        body = None if again else edition.body(member.policy, member.phase)
        return body or choose_again(edition, member)

    @staticmethod
    def _name_policy(member: Member, body: Body) -> None:
        member.policy, member.phase = body.key
        if member.phase is not None:
            member.labels[PHASE] = member.phase
        else:
            member.labels.pop(PHASE, None)

    def refresh(self, member: Member, pid: int | None = None) -> None:
        """Look again at where *member* is, whose first process may have come only now.

        Args:
            member: Which sandbox.
            pid: One of its processes, where somebody said so.

        Raises:
            KernelError: The kernel refuses.
            HostError: It cannot be written down.
        """
        member.pid = pid or next(iter(member.cgroup.pids()), None)
        if member.pid is None or member.is_scope:
            return
        body = self._body_of(member)
        before, member.place = member.place, self._surroundings.place_of(member)
        missing = tuple(self.wall.missing_hooks(member.key))
        coverage = self._surroundings.coverage_of(member, body.policy, missing)
        if member.place != before:
            self._bind(member, body)
            self.records.write(member)
        if coverage != member.coverage:
            self._tell_coverage(member, coverage, {})

    def confirm(self, member: Member) -> None:
        """Say that the hook has come for *member*, which was found by its cgroup before."""
        if member.coverage is not None:
            detail = {"admission": member.admission.value, "unwatched_ms": member.unwatched_ms}
            self.emit(telling.inspected(member, member.coverage, detail))

    def note_sockets(self, member: Member, found: LiveSockets) -> None:
        """Say what *member* held when its wall went up."""
        body = self._body_of(member)
        missing = tuple(self.wall.missing_hooks(member.key))
        coverage = self._surroundings.coverage_of(member, body.policy, missing, found.roads())
        self._tell_coverage(member, coverage, found.detail())

    def _tell_coverage(
        self, member: Member, coverage: Coverage, detail: Mapping[str, object]
    ) -> None:
        member.coverage = coverage
        self.emit(telling.inspected(member, coverage, detail))

    # --- The end ------------------------------------------------------------------------------

    def release(self, member: Member, why: str) -> None:
        """Take the wall from *member*, which is gone or is to be free.

        Raises:
            KernelError: A hook could not be detached: it stays, and judges.
        """
        for totals in self.wall.totals():
            self.emit(TotalsRead(totals=totals, process=None))
        self.wall.detach(member.key)
        self.members.remove(member)
        self.records.remove(member.key)
        self.emit(SandboxFinished(key=member.key, mono_ns=boot_ns(), detail={"why": why}))


def _id_of(cgroup: Cgroup) -> int:
    try:
        return cgroup.directory.stat().st_ino
    except OSError as err:
        raise HostError(f"cgroup {cgroup.path}: {err.strerror}") from err
