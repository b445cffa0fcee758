# SPDX-License-Identifier: Apache-2.0
"""What the engine is told of sandboxes as they come, change and are looked into: events, made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from agentwall import __version__
from agentwall.daemon.clock import boot_ns, offset_ns
from agentwall.daemon.edition import Edition
from agentwall.daemon.members import Judged, Member, Override, sandbox_of
from agentwall.daemon.rulebook import Issue
from agentwall.engine.events import (
    CountersRead,
    Event,
    ModeOverridden,
    RulesApplied,
    SandboxInspected,
    SandboxStarted,
    SignaturesApplied,
)
from agentwall.flow.verdict import Mode
from agentwall.host.coverage import Coverage
from agentwall.kernel.counters import Counters

TIME_IS_OVER = "its time is over"
"""Why a mode that somebody switched to holds no more, where nobody said so."""


def started(member: Member, mode: Mode) -> SandboxStarted:
    """Say that *member*, whose coverage is known, stands behind the wall."""
    coverage = member.coverage
    assert coverage is not None
    return SandboxStarted(
        key=member.key,
        sandbox=sandbox_of(member),
        mono_ns=boot_ns(),
        clock_offset_ns=offset_ns(),
        mode=mode,
        coverage=coverage.level.value,
        open_roads=tuple(map(str, coverage.roads)),
        detail={"admission": member.admission.value, "unwatched_ms": member.unwatched_ms},
    )


def judged_by(member: Member, issue: Issue, edition: Edition) -> Iterator[Event]:
    """Say which rules and signatures judge *member* from now on."""
    yield RulesApplied(
        key=member.key,
        mono_ns=boot_ns(),
        generation=issue.generation,
        policy=issue.body.policy,
        tables=issue.body.tables,
    )
    yield SignaturesApplied(
        key=member.key,
        signatures=edition.signatures,
        table=issue.table,
        accepts=edition.packed.accepts if edition.packed is not None else (),
    )


def judged_before(member: Member, former: Judged, edition: Edition) -> Iterator[Event]:
    """Say what the numbers stand for that events of the time before this daemon speak of.

    Of what is not the same any more nothing is said: its events name no rule and no signature.
    """
    if former.version != __version__:
        return
    body = edition.body(former.policy, former.phase)
    if body is not None and body.policy.digest == former.digest:
        yield RulesApplied(
            key=member.key,
            mono_ns=boot_ns(),
            generation=former.generation,
            policy=replace(body.policy, commit=former.commit),
            tables=body.tables,
            is_former=True,
        )
    if former.signatures == edition.signatures.digest and edition.packed is not None:
        yield SignaturesApplied(
            key=member.key,
            signatures=edition.signatures,
            table=former.table,
            accepts=edition.packed.accepts,
        )


def counted_before(member: Member, counters: Counters) -> CountersRead:
    """Say what a daemon before this one counted, and told, of *member*."""
    return CountersRead(key=member.key, mono_ns=boot_ns(), is_baseline=True, **asdict(counters))


def overridden(
    member: Member, mode: Mode, override: Override | None, by: str, reason: str = TIME_IS_OVER
) -> ModeOverridden:
    """Say which *mode* holds for *member* from now on, and for how long; or why no more."""
    return ModeOverridden(
        key=member.key,
        mono_ns=boot_ns(),
        mode=mode,
        until_mono_ns=override.until_ns if override is not None else None,
        reason=override.reason if override is not None else reason,
        by=by,
    )


def inspected(member: Member, coverage: Coverage, detail: Mapping[str, object]) -> SandboxInspected:
    """Say how much of *member* the wall is found to cover."""
    return SandboxInspected(
        key=member.key,
        mono_ns=boot_ns(),
        coverage=coverage.level.value,
        open_roads=tuple(map(str, coverage.roads)),
        detail=detail,
    )
