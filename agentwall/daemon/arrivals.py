# SPDX-License-Identifier: Apache-2.0
"""Sandboxes as they come: by their runtime's hook, by their cgroup appearing, or at the start.

What takes long, asking a runtime or listing sockets, is done by a worker; until it has answered, a
sandbox is judged by what its cgroup's path tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agentwall.daemon.building import Parts
from agentwall.daemon.choosing import Applicant, NotAdmitted, body_for
from agentwall.daemon.config import Config, Scope
from agentwall.daemon.discovery import Candidate, can_hold, candidate_at, gives_way, is_excluded
from agentwall.daemon.live_sockets import LiveSockets, judge_live_sockets
from agentwall.daemon.members import Admission, Member
from agentwall.daemon.rulebook import mode_of
from agentwall.daemon.worker import Worker
from agentwall.errors import AgentwallError, HostError
from agentwall.flow.origin import Origin
from agentwall.flow.record import SandboxKey
from agentwall.host.cgroup import find, path_of
from agentwall.host.cgroup_watch import Appeared, CgroupWatch, Vanished
from agentwall.host.runtime_api import RuntimeDirectory
from agentwall.policy.evaluate import loopback_scope

logger = logging.getLogger(__name__)

_RETRIES = 10
"""How often a runtime is asked about a container that it does not know yet, a second apart."""
_YOUNG_NS = 15 * 10**9
_MAX_WAITING = 4096
_MAX_UNBOUND = 65_536
_TRIED_AGAIN = 8
"""Of those that could not be admitted, each second."""


@dataclass(slots=True)
class _Inquiry:
    """A sandbox, or a cgroup that may become one, whose runtime is to be asked."""

    path: str
    candidate: Candidate
    left: int = _RETRIES


class Arrivals:
    """Watches the scopes, and admits what belongs behind the wall."""

    def __init__(self, parts: Parts, config: Config, worker: Worker) -> None:
        self._parts = parts
        self._worker = worker
        self._keeper = parts.keeper
        self._config = config
        self._watch = CgroupWatch(
            [scope.cgroup for scope in config.scopes], descend=self._is_of_interest
        )
        self._runtimes = RuntimeDirectory(config.runtimes)
        self._pending: list[_Inquiry] = []
        self._unbound: dict[str, str] = {}
        self._dormant: set[str] = set()
        self.problems: dict[str, str] = {}
        """What could not be admitted, by cgroup; or what is wrong with the watch."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when cgroups came or went."""
        return self._watch.fileno()

    def close(self) -> None:
        """End the watch."""
        self._watch.close()

    def begin(self, has_just_come: Callable[[Appeared], object] = lambda _: False) -> None:
        """Admit what is there already.

        A cgroup that no form knows, and that holds no process now, may be what holds containers:
        it waits, under its scope's default, until there is a process in it.
        """
        for appeared in self._watch.scan():
            if has_just_come(appeared):
                self._appear(appeared.path, Admission.FOUND)
            elif self._is_dormant(appeared.path):
                self._dormant.add(appeared.path)
            else:
                self._appear(appeared.path, Admission.START)

    def renew(self, config: Config) -> None:
        """Go by another configuration from now on."""
        before, known = self._config, self._watch.known()
        if config.scopes != before.scopes or config.runtimes != before.runtimes:
            self._watch.renew([scope.cgroup for scope in config.scopes])
            self._runtimes = RuntimeDirectory(config.runtimes)
        self._config = config
        self._unbound.clear()
        # What came while the files were put into force waits for no process.
        self.begin(
            lambda each: (each.path, each.cgroup_id) not in known and before.scope_of(each.path)
        )

    def step(self) -> None:
        """Take what the watch has seen."""
        for seen in self._watch.read():
            match seen:
                case Appeared():
                    self._appear(seen.path, Admission.FOUND)
                case Vanished():
                    self._vanish(seen.path)
        if self._watch.problem:
            self.problems["watch"] = self._watch.problem
        else:
            self.problems.pop("watch", None)

    def _is_dormant(self, path: str) -> bool:
        _, candidate = self._look_at(path)
        if candidate is None or candidate.is_known or candidate.path != path:
            return False
        cgroup = find(path)
        return cgroup is not None and not cgroup.holds_process()

    def _wake_up(self) -> None:
        for path in list(self._dormant):
            cgroup = find(path)
            if cgroup is None:
                self._dormant.discard(path)
            elif cgroup.holds_process():
                self._dormant.discard(path)
                self._appear(path, Admission.FOUND)

    def _vanish(self, path: str) -> None:
        self._unbound.pop(path, None)
        self._dormant.discard(path)
        self.problems.pop(path, None)
        member = self._keeper.members.at(path)
        if member is None:
            return
        self._parts.upkeep.see_leaving(member)
        if member.is_scope:
            self._parts.guard_scopes(self._config)

    def tick(self) -> None:
        """Ask runtimes again, let leave what is leaving. About once a second."""
        for member in self._keeper.members:
            try:
                self._look_again(member)
            except AgentwallError as err:
                # One must not keep the others waiting.
                logger.warning("sandbox %s: %s", member.id, err)
        if self._parts.scope_problems:
            self._parts.guard_scopes(self._config)
        for path in list(self.problems)[:_TRIED_AGAIN]:
            self._appear(path, Admission.FOUND)
        self._wake_up()
        pending, self._pending = self._pending, []
        for inquiry in pending:
            self._ask(inquiry)

    def _look_again(self, member: Member) -> None:
        young_ns = time.time_ns() - _YOUNG_NS
        if member.leaving_ns is not None:
            self._parts.upkeep.see_leaving(member)
        elif not member.is_scope and (
            member.coverage is None
            or not member.coverage.is_final
            or (member.admission is Admission.FOUND and member.admitted_ns > young_ns)
        ):
            # Runtimes put a process there first, and give it its namespaces then.
            self._keeper.refresh(member)

    def unbound(self) -> Mapping[str, int]:
        """Return how many cgroups count as sandboxes and have no policy, by scope."""
        counts: dict[str, int] = {}
        for scope in self._unbound.values():
            counts[scope] = counts.get(scope, 0) + 1
        return counts

    # --- One that is there ----------------------------------------------------------------------

    def _appear(self, path: str, admission: Admission) -> None:
        scope, candidate = self._look_at(path)
        if scope is None or candidate is None:
            return
        try:
            if not self._is_free(candidate):
                self.problems.pop(path, None)
                return
            member = self._admit_candidate(scope, candidate, admission)
        except AgentwallError as err:
            if find(path) is None:
                return  # It was there for a moment.
            if self.problems.get(path) != str(err):
                logger.warning("sandbox %s: not admitted: %s", path, err)
            self.problems[path] = str(err)
            return
        self.problems.pop(path, None)
        if member is None and len(self._unbound) < _MAX_UNBOUND:
            self._unbound[candidate.path] = scope.cgroup
        if candidate.origin.container is not None:
            self._pending_add(_Inquiry(candidate.path, candidate))

    def _is_free(self, candidate: Candidate) -> bool:
        """Say whether *candidate* can be a sandbox of its own: it lies in none that stays one."""
        holding = self._holding(candidate.path)
        if holding is None or holding.is_scope:
            return True
        _, outer = self._look_at(holding.cgroup.path)
        if outer is None or not gives_way(outer, candidate) or _has_run(holding, candidate):
            return False
        self._keeper.release(holding, "it only holds sandboxes")
        return True

    def _holding(self, path: str) -> Member | None:
        """Return what *path* lies in now: never one that has gone, whose path it may have."""
        members = self._keeper.members
        while (member := members.holding(path)) and not self._parts.upkeep.is_there(member):
            pass
        return member

    def _admit_candidate(
        self, scope: Scope, candidate: Candidate, admission: Admission
    ) -> Member | None:
        cgroup = find(candidate.path)
        if cgroup is None:
            return None
        applicant = Applicant(
            cgroup=cgroup, scope=scope, origin=candidate.origin, admission=admission
        )
        body = body_for(self._keeper.rules.edition, applicant)
        if body is None:
            return None
        member = self._keeper.admit(applicant, body)
        self._unbound.pop(candidate.path, None)
        self._judge_later(member)
        return member

    def _is_of_interest(self, path: str) -> bool:
        """Say whether sandboxes may lie below *path*; inside of one there are none."""
        scope = self._config.scope_of(path)
        return scope is not None and can_hold(scope, path)

    def _look_at(self, path: str) -> tuple[Scope | None, Candidate | None]:
        """Return the scope that *path* lies in, and the sandbox that it is or belongs to there."""
        scope = self._config.scope_of(path)
        return scope, candidate_at(scope, path) if scope is not None else None

    # --- The hook -------------------------------------------------------------------------------

    def admit(
        self, pid: int, origin: Origin | None, labels: Mapping[str, str], wanted: str | None
    ) -> Member | None:
        """Admit the sandbox that process *pid* is in, at its runtime's request.

        Returns:
            None where no policy is for it: in a shared scope, or outside of all scopes.

        Raises:
            NotAdmitted: It asks for a policy that it may not have.
            HostError: The process is gone.
            KernelError: A hook was refused, or there is no room.
        """
        path = path_of(pid)
        if path is None:
            raise HostError(f"pid {pid}: expected a process that lives")
        scope, candidate = self._look_at(path)
        holding = self._holding(path)
        if holding and not holding.is_scope and not (candidate and self._is_free(candidate)):
            return self._confirm(holding, (path, pid), origin, labels, wanted)
        if scope is None or candidate is None:
            if wanted is not None:
                raise NotAdmitted(f"cgroup {path}: expected one in a scope, as a sandbox, got none")
            return None
        cgroup = find(candidate.path)
        if cgroup is None:
            raise HostError(f"cgroup {candidate.path}: gone")
        applicant = Applicant(
            cgroup=cgroup,
            scope=scope,
            origin=candidate.origin.enriched(origin),
            admission=Admission.HOOK,
            labels=labels,
            wanted=wanted,
            pid=pid,
        )
        if wanted is None and is_excluded(scope, applicant.origin):
            return None
        body = body_for(self._keeper.rules.edition, applicant)
        if body is None:
            return None
        member = self._keeper.admit(applicant, body)
        self._pending_add(_Inquiry(member.cgroup.path, replace(candidate, origin=member.origin)))
        return member

    def _confirm(
        self,
        member: Member,
        where: tuple[str, int],
        origin: Origin | None,
        labels: Mapping[str, str],
        wanted: str | None,
    ) -> Member:
        """Note what the hook says of a sandbox that was bound when its cgroup appeared."""
        path, pid = where
        if member.cgroup.path != path:
            if wanted is not None and wanted != member.policy:
                inside = f"cgroup {path}: it lies in sandbox {member.id}, whose policy holds"
                raise NotAdmitted(inside)
            return member
        told, scope = member.origin.enriched(origin), self._config.scope_of(path)
        if scope is not None:
            # What it may not have is an error before anything changes.
            applicant = Applicant(
                cgroup=member.cgroup,
                scope=scope,
                origin=told,
                admission=Admission.HOOK,
                labels={**member.labels, **labels},
                wanted=wanted or member.wanted,
            )
            body_for(self._keeper.rules.edition, applicant)
        member.wanted = wanted or member.wanted
        member.admission, member.unwatched_ms = Admission.HOOK, 0
        self._keeper.refresh(member, pid)
        self._keeper.confirm(member)
        self._keeper.rename(member, told)
        if labels:
            self._keeper.set_labels(member, {**member.labels, **labels}, "its runtime's hook")
        return member

    # --- What the worker does --------------------------------------------------------------------

    def _pending_add(self, inquiry: _Inquiry) -> None:
        if len(self._pending) < _MAX_WAITING:
            self._pending.append(inquiry)

    def _ask(self, inquiry: _Inquiry) -> None:
        self._worker.run(
            lambda: self._runtimes.ask(inquiry.candidate.origin, inquiry.path),
            lambda answer: self._hear(inquiry, answer),
        )

    def _hear(self, inquiry: _Inquiry, answer: Origin | str) -> None:
        """Take a runtime's answer: an origin that tells more, or why there is none."""
        if isinstance(answer, str):
            inquiry.left -= 1
            if inquiry.left > 0:
                self._pending_add(inquiry)
            else:
                logger.info("sandbox %s: its runtime does not tell: %s", inquiry.path, answer)
            return
        member = self._keeper.members.at(inquiry.path)
        scope = self._config.scope_of(inquiry.path)
        if scope is None:
            return
        if member is not None:
            if is_excluded(scope, answer):
                self._keeper.release(member, "its scope excludes it")
            elif self._keeper.rename(member, member.origin.enriched(answer)):
                self._judge_later(member)
            return
        if not is_excluded(scope, answer):
            candidate = replace(inquiry.candidate, origin=answer)
            self._admit_candidate(scope, candidate, Admission.FOUND)

    def _judge_later(self, member: Member) -> None:
        """Have the sockets judged that a sandbox had before its wall stood."""
        body = self._keeper.rules.edition.body(member.policy, member.phase)
        if body is None or not member.cgroup.pids():
            return
        policy, mode = body.policy, mode_of(member, body.policy)
        loopback = loopback_scope(policy, own_netns=member.place.own_netns)
        key = member.key
        self._worker.run(
            lambda: judge_live_sockets(member.cgroup, policy, mode, loopback),
            lambda found: self._note_sockets(key, found),
        )

    def _note_sockets(self, key: SandboxKey, found: LiveSockets) -> None:
        member = self._keeper.members.get(key)
        if member is not None:
            self._keeper.note_sockets(member, found)


def _has_run(outer: Member, inner: Candidate) -> bool:
    """Say whether a process ever ran in *outer* beside *inner*.

    Processor time tells: what ran there is the sandbox's, and stays behind its wall.
    """
    within = find(inner.path)
    try:
        if within is None or outer.cgroup.holds_process():
            return True
        return outer.cgroup.used_us() > within.used_us()
    except OSError:
        return True  # One of them has gone.
