# SPDX-License-Identifier: Apache-2.0
"""The daemon as a scrape shows it, made by the daemon's loop and read by another thread."""

from __future__ import annotations

import platform
from dataclasses import asdict

from agentwall import __version__
from agentwall.daemon.describe import Vitals, effective_mode, hooks_in_force
from agentwall.daemon.describe_tls import not_started, tls_figures
from agentwall.daemon.inside_state import InsideProvider
from agentwall.daemon.keeper import Keeper
from agentwall.daemon.members import Member
from agentwall.daemon.sinks import Sinks
from agentwall.sinks.figures import MAX_SANDBOXES, SandboxFigures, Snapshot

_NS = 1e9


def take_snapshot(
    keeper: Keeper, vitals: Vitals, sinks: Sinks, inside: InsideProvider | None = None
) -> Snapshot:
    """Return what a scrape shows until the next one is taken; *inside*: who reads inside TLS."""
    members = list(keeper.members)
    edition = keeper.rules.edition
    sandboxes = [each for each in members if not each.is_scope]
    guarded = {each.cgroup.path for each in members if each.is_scope}
    owned = [each for each in edition.config.scopes if each.default is not None]
    journal, reload = sinks.journal, vitals.reload
    state = inside.state() if inside else not_started(edition.config.tls.max_libraries)
    return Snapshot(
        version=__version__,
        kernel=platform.release(),
        started_s=vitals.started_ns / _NS,
        sandboxes=tuple(_sandbox(keeper, each) for each in sandboxes[: MAX_SANDBOXES + 1]),
        overrides=sum(each.override is not None for each in members),
        scopes={scope.cgroup: scope.cgroup in guarded for scope in owned},
        unbound=dict(vitals.unbound),
        hooks=hooks_in_force(keeper),
        log_written=sinks.log.written,
        log_failed=sinks.log.failed + sinks.writer.lost,
        log_rotated=sinks.log.rotated,
        journal_sent=journal.sent if journal is not None else None,
        journal_lost=journal.lost if journal is not None else 0,
        checked_s=None if vitals.last_check_ns is None else vitals.last_check_ns / _NS,
        problems=len(vitals.problems),
        reloaded_s=None if reload is None else reload.time_ns / _NS,
        reload_applied=reload is None or reload.applied,
        tls=tls_figures(state, (inside.readings(e.key) for e in sandboxes) if inside else ()),
    )


def _sandbox(keeper: Keeper, member: Member) -> SandboxFigures:
    counters = member.counters
    lost = asdict(counters) if counters is not None else {}
    return SandboxFigures(
        id=member.id,
        policy=member.policy,
        mode=effective_mode(member, keeper.rules.edition).value,
        coverage=member.coverage.level.value if member.coverage is not None else "none",
        denied=counters.denied if counters is not None else 0,
        would_denied=counters.would_denied if counters is not None else 0,
        detections=member.detections,
        lost=sum(number for name, number in lost.items() if name.startswith("lost_")),
    )
