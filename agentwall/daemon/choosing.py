# SPDX-License-Identifier: Apache-2.0
"""Which policy is a sandbox's: of those its scope offers, the one that fits it best. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.daemon.config import Scope, ScopeKind
from agentwall.daemon.edition import Body, Edition
from agentwall.daemon.members import Admission, Member
from agentwall.errors import HostError
from agentwall.flow.origin import Origin, Runtime
from agentwall.host.cgroup import Cgroup
from agentwall.policy.choose import choose

DEFAULT_DENY = "default-deny"
"""The policy of last resort: it permits nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A cgroup that is to be admitted."""

    cgroup: Cgroup
    scope: Scope
    origin: Origin
    admission: Admission
    labels: Mapping[str, str] = field(default_factory=dict)
    wanted: str | None = None
    """Name of a policy."""
    pid: int | None = None
    """A process of it, if it is known."""


class NotAdmitted(HostError):
    """A sandbox may not have the policy that was asked for, or there is none for it."""


def body_for(edition: Edition, applicant: Applicant) -> Body | None:
    """Return what is to judge *applicant*; None: no policy is for it, and it is no sandbox.

    Raises:
        NotAdmitted: It asks for a policy that does not exist, or that its scope does not list.
    """
    scope = applicant.scope
    chosen = choose_body(edition, applicant)
    if chosen is None and scope.kind is ScopeKind.OWNED:
        return edition.initial(scope.default or DEFAULT_DENY)
    return chosen


def choose_body(edition: Edition, applicant: Applicant) -> Body | None:
    """Return what the policies say of *applicant*; None: no policy is for it.

    Raises:
        NotAdmitted: It asks for a policy that does not exist, or that its scope does not list.
    """
    scope, wanted = applicant.scope, applicant.wanted
    offered = [each for each in edition.selectable() if _is_offered(each.name, scope)]
    if wanted is not None and wanted not in {each.name for each in offered}:
        names = ", ".join(sorted(each.name for each in offered))
        raise NotAdmitted(f"policy: expected one of {scope.cgroup}'s ({names}), got {wanted}")
    chosen = choose(
        offered,
        cgroup=applicant.cgroup.path,
        origin=applicant.origin,
        labels=applicant.labels,
        wanted=wanted,
    )
    return edition.initial(chosen.name) if chosen is not None else None


def _is_offered(name: str, scope: Scope) -> bool:
    return not scope.policies or name in scope.policies or name == scope.default


def choose_again(edition: Edition, member: Member) -> Body:
    """Return what judges a sandbox that is there: its policy in its phase, if that still is its.

    One for which there is no policy any more gets its scope's default, or is permitted nothing.
    """
    scope = next((each for each in edition.config.scopes if each.cgroup == member.scope), None)
    fallback = edition.initial((scope.default if scope else None) or DEFAULT_DENY)
    if scope is None:
        # Its scope is none any more; what judges it stays.
        return edition.body(member.policy, member.phase) or fallback
    if member.is_scope:
        return fallback
    applicant = Applicant(
        cgroup=member.cgroup,
        scope=scope,
        origin=member.origin,
        admission=member.admission,
        labels=member.labels,
        wanted=member.wanted,
    )
    try:
        chosen = choose_body(edition, applicant)
    except NotAdmitted:
        chosen = None
    if chosen is None:
        return fallback
    return edition.body(chosen.policy.name, member.phase) or chosen


def scope_applicant(scope: Scope, cgroup: Cgroup) -> Applicant:
    """Return an owned scope as what is to be put behind the wall itself."""
    return Applicant(
        cgroup=cgroup,
        scope=scope,
        origin=Origin(runtime=Runtime.OTHER),
        admission=Admission.SCOPE,
    )
