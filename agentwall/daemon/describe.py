# SPDX-License-Identifier: Apache-2.0
"""Sandboxes and the daemon itself as the control protocol describes them: JSON values only."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from agentwall import __version__
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.describe_tls import not_started, tls_status
from agentwall.daemon.edition import Edition
from agentwall.daemon.inside_state import InsideProvider
from agentwall.daemon.keeper import Keeper
from agentwall.daemon.members import Admission, Member
from agentwall.daemon.reload import Outcome
from agentwall.daemon.rulebook import mode_of
from agentwall.flow.origin import Origin
from agentwall.flow.verdict import Mode
from agentwall.host.coverage import CoverageLevel
from agentwall.kernel.counters import Counters
from agentwall.kernel.features import HOOKS
from agentwall.kernel.wall import Wall
from agentwall.sinks.rfc3339 import format_time

STATUS_SCHEMA = "agentwall.status/1"
_PREFIX = "lost_"
_LOST = tuple(
    each.name.removeprefix(_PREFIX) for each in fields(Counters) if each.name.startswith(_PREFIX)
)
_ORIGIN = tuple(each.name for each in fields(Origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What :func:`describe_daemon` cannot see by itself."""

    started_ns: int
    """UTC."""
    lost: Mapping[str, int]
    log: Mapping[str, object]
    last_check_ns: int | None
    problems: Mapping[str, str]
    """By sandbox, or what else they are about."""
    reload: Outcome | None
    unbound: Mapping[str, int]
    """By scope: cgroups that count as sandboxes and that no policy is for."""
    scope_problems: Mapping[str, str]
    """By scope: why it is not in force."""


def describe_sandbox(member: Member, edition: Edition, wall: Wall) -> dict[str, object]:
    """Return one sandbox, as ``sandbox-list`` has it."""
    body = edition.body(member.policy, member.phase)
    policy = body.policy if body is not None else None
    counters = member.counters
    return {
        "id": member.id,
        "cgroup": member.cgroup.path,
        "scope": member.scope,
        "origin": _origin(member.origin),
        "labels": dict(member.labels),
        "policy": member.policy,
        "phase": member.phase,
        "commit": policy.commit if policy else None,
        "digest": policy.digest if policy else None,
        "mode": policy.mode.value if policy else Mode.ENFORCE.value,
        "effective_mode": effective_mode(member, edition).value,
        "override": _override(member),
        "coverage": member.coverage.level.value if member.coverage else None,
        "open_roads": [str(road) for road in member.coverage.roads] if member.coverage else [],
        "admitted": format_time(member.admitted_ns),
        "admission": member.admission.value,
        "unwatched_ms": member.unwatched_ms,
        "pids": _count_pids(member),
        "denied": counters.denied if counters else 0,
        "would_denied": counters.would_denied if counters else 0,
        "probes": counters.probes if counters else 0,
        "matches": counters.matches if counters else 0,
        "lost": _lost(member),
        "detections": member.detections,
        "bytes_out": member.bytes_out,
        "bytes_in": member.bytes_in,
        "last_denial": _time(member.last_denial_ns),
        "state": _state(member),
        "missing_hooks": dict(wall.missing_hooks(member.key)),
    }


def effective_mode(member: Member, edition: Edition) -> Mode:
    """Return the mode that the kernel judges *member* by now."""
    body = edition.body(member.policy, member.phase)
    if body is None:
        return Mode.ENFORCE
    until_ns = member.override.until_ns if member.override is not None else None
    if until_ns is not None and until_ns <= boot_ns():
        return body.policy.mode
    return mode_of(member, body.policy)


def _override(member: Member) -> dict[str, object] | None:
    override = member.override
    if override is None:
        return None
    left_ns = None if override.until_ns is None else max(override.until_ns - boot_ns(), 0)
    return {
        "mode": override.mode.value,
        "until": None if left_ns is None else format_time(time.time_ns() + left_ns),
        "left_s": None if left_ns is None else round(left_ns / 1e9, 1),
        "reason": override.reason,
        "by": override.by,
    }


def _origin(origin: Origin) -> dict[str, object]:
    # Not asdict(), which copies each text: this is done of a thousand sandboxes at a time.
    found = {name: getattr(origin, name) for name in _ORIGIN}
    return {**found, "runtime": origin.runtime.value, "labels": dict(origin.labels)}


def _count_pids(member: Member) -> int | None:
    try:
        return int(_read(member, "pids.current"))
    except (OSError, ValueError):
        pass
    try:
        # No pids controller there.
        return len(_read(member, "cgroup.procs").split())
    except OSError:
        return None


def _read(member: Member, name: str) -> bytes:
    with open(f"{member.cgroup.directory}/{name}", "rb", buffering=0) as file:
        return file.readall()


def _state(member: Member) -> str:
    if member.leaving_ns is not None:
        return "leaving"
    try:
        events = _read(member, "cgroup.events")
    except OSError:
        return "leaving"
    if b"frozen 1" in events:
        return "frozen"
    return "running" if b"populated 1" in events else "empty"


def _lost(member: Member) -> dict[str, int]:
    if member.counters is None:
        return {}
    lost = {name: getattr(member.counters, _PREFIX + name) for name in _LOST}
    return {name: number for name, number in lost.items() if number}


def _time(time_ns: int | None) -> str | None:
    return format_time(time_ns) if time_ns is not None else None


def describe_daemon(
    keeper: Keeper, vitals: Vitals, inside: InsideProvider | None = None
) -> dict[str, object]:
    """Return the whole, as ``status`` has it; *inside*: who reads inside TLS."""
    edition, members = keeper.rules.edition, list(keeper.members)
    return {
        "schema": STATUS_SCHEMA,
        "version": __version__,
        "pid": os.getpid(),
        "started": format_time(vitals.started_ns),
        "uptime_s": round((time.time_ns() - vitals.started_ns) / 1e9, 1),
        "kernel": platform.release(),
        "mode_overrides": sum(member.override is not None for member in members),
        "policies": _policies(edition, members),
        "scopes": _scopes(keeper, members, vitals),
        "sandboxes": _sandboxes(edition, members),
        "hooks": _hooks(keeper),
        "lost": dict(vitals.lost),
        "denied": sum(m.counters.denied for m in members if m.counters),
        "would_denied": sum(m.counters.would_denied for m in members if m.counters),
        "log": dict(vitals.log),
        "checks": {
            "last": _time(vitals.last_check_ns),
            "problems": [f"{who}: {what}" for who, what in vitals.problems.items()],
        },
        "reload": describe_reload(vitals.reload),
        "signatures": {
            "count": len(edition.signatures.signatures),
            "digest": edition.signatures.digest,
        },
        "tls": _tls(keeper, inside),
        "digest": edition.digest,
        "commit": edition.commit,
        "commit_problem": edition.commit_problem,
    }


def _tls(keeper: Keeper, inside: InsideProvider | None) -> dict[str, object]:
    if inside is None:
        return tls_status(not_started(keeper.rules.edition.config.tls.max_libraries))
    readings = (inside.readings(each.key) for each in keeper.members.sandboxes())
    return tls_status(inside.state(), readings)


def describe_reload(outcome: Outcome | None) -> dict[str, object] | None:
    """Return what became of the last reload."""
    if outcome is None:
        return None
    return {
        "time": format_time(outcome.time_ns),
        "applied": outcome.applied,
        "what": outcome.what,
        "problems": list(outcome.problems),
    }


def _policies(edition: Edition, members: Iterable[Member]) -> list[dict[str, object]]:
    used = Counter(member.policy for member in members if not member.is_scope)
    return [
        {
            "name": name,
            "file": bodies[0].policy.files[-1] if bodies[0].policy.files else None,
            "digest": bodies[0].policy.digest,
            "commit": bodies[0].policy.commit,
            "phases": list(edition.phases(name)),
            "mode": "/".join(dict.fromkeys(body.policy.mode.value for body in bodies)),
            "sandboxes": used[name],
        }
        for name, bodies in sorted(edition.policies.items())
    ]


def _scopes(keeper: Keeper, members: list[Member], vitals: Vitals) -> list[dict[str, object]]:
    inside = Counter(member.scope for member in members if not member.is_scope)
    guarded = {member.cgroup.path for member in members if member.is_scope}
    return [
        {
            "cgroup": scope.cgroup,
            "kind": scope.kind.value,
            "default": scope.default,
            "in_force": scope.default is None or scope.cgroup in guarded,
            "problem": vitals.scope_problems.get(scope.cgroup),
            "sandboxes": inside[scope.cgroup],
            "unbound": vitals.unbound.get(scope.cgroup, 0),
        }
        for scope in keeper.rules.edition.config.scopes
    ]


def _sandboxes(edition: Edition, members: Iterable[Member]) -> dict[str, int]:
    sandboxes = [member for member in members if not member.is_scope]
    modes = Counter(effective_mode(member, edition).value for member in sandboxes)
    levels = Counter(m.coverage.level.value for m in sandboxes if m.coverage is not None)
    return {
        "total": len(sandboxes),
        **{mode.value: modes[mode.value] for mode in Mode},
        **{level.value: levels[level.value] for level in CoverageLevel},
        "unwatched": sum(bool(member.unwatched_ms) for member in sandboxes),
        "hook": sum(member.admission is Admission.HOOK for member in sandboxes),
    }


def hooks_in_force(keeper: Keeper) -> dict[str, bool]:
    """Return whether each hook judges whoever it should, by program."""
    return {str(each["name"]): each["in_force"] is True for each in _hooks(keeper)}


def _hooks(keeper: Keeper) -> list[dict[str, object]]:
    loaded = {program.name for program in keeper.wall.programs()}
    missing = {
        name: why
        for member in keeper.members
        for name, why in keeper.wall.missing_hooks(member.key).items()
    }
    return [
        {
            "name": hook.program,
            "required": hook.required,
            "in_force": hook.program in loaded and hook.program not in missing,
            "reason": missing.get(hook.program)
            or (None if hook.program in loaded else "this kernel does not take it"),
        }
        for hook in HOOKS
    ]
