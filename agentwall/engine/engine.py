# SPDX-License-Identifier: Apache-2.0
"""The engine: events in, commands out; no I/O and no clock.

The kernel has decided already. The engine says what a decision means to a reader: which rule of
which file, at what time, by whom. The daemon feeds it events and carries out the commands, so all
of it is tested without root and without a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from agentwall.detect.judging import judge
from agentwall.engine.commands import Command, KillFlow, Report
from agentwall.engine.detections import Detections, Sight
from agentwall.engine.events import (
    AttemptSeen,
    CountersRead,
    Event,
    ExcerptsSeen,
    FlowLeftHanging,
    Lost,
    RulesApplied,
    SandboxFinished,
    SandboxStarted,
    SignaturesApplied,
    TotalsRead,
    WallDamaged,
)
from agentwall.engine.processes import clamp_arguments, describe_task
from agentwall.engine.severity import DAMAGED
from agentwall.engine.watch import Watch
from agentwall.flow.record import (
    Attempt,
    Excerpt,
    FlowRecord,
    FlowTotals,
    GapRecord,
    Process,
    Sandbox,
    SandboxKey,
    StateRecord,
)
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, L4Protocol, canonical
from agentwall.policy.evaluate import resolve_line
from agentwall.policy.model import Response, Rule

_KEPT_GENERATIONS = 4
"""Events still on their way when a policy is replaced speak of the generation before."""
LEFT_HANGING = "flow-left-hanging"
"""The ``state`` of a record that says that an application was not told that its flow is cut."""
_KILLABLE = (L4Protocol.TCP, L4Protocol.UDP)
_CUTTING = (ReasonCode.SIGNATURE, ReasonCode.UNREADABLE)
"""Reasons for which nothing of a flow passes any more."""


@dataclass(slots=True)
class _Sandbox:
    sandbox: Sandbox
    clock_offset_ns: int
    mode: str
    generations: dict[int, RulesApplied] = field(default_factory=dict)
    counters: CountersRead | None = None
    lost: int = 0
    detections: Detections = field(default_factory=Detections)
    watch: Watch = field(default_factory=Watch)

    def applied(self, generation: int) -> RulesApplied | None:
        """Return the rules of *generation*, or the newest if that is not known any more."""
        newest = next(reversed(self.generations.values()), None)
        return self.generations.get(generation, newest)

    def rule(self, seen: Attempt | FlowTotals) -> Rule | None:
        """Return the rule that decided about *seen*, if it is known."""
        applied = self.generations.get(seen.generation)
        if seen.rule is None or applied is None or seen.rule >= len(applied.tables.rules):
            return None
        return applied.tables.rules[seen.rule]


class Engine:
    """Turns what the kernel reported into records. Its state grows with sandboxes, not events."""

    def __init__(self) -> None:
        self._sandboxes: dict[SandboxKey, _Sandbox] = {}
        self._clock_offset_ns = 0

    def handle(self, event: Event) -> Iterator[Command]:
        """Yield the commands that *event* calls for, in the order to carry them out."""
        match event:
            case SandboxStarted():
                yield self._start(event)
            case RulesApplied():
                yield self._apply(event)
            case SignaturesApplied():
                self._known(event.key).detections.apply(event)
            case AttemptSeen():
                yield from self._see(event)
            case ExcerptsSeen():
                yield from self._decode(event)
            case FlowLeftHanging():
                yield self._hang(event)
            case TotalsRead():
                yield from self._flow(self._totals(event), event.totals)
            case CountersRead():
                yield from self._count(event)
            case Lost():
                yield self._lose(event.key, event.mono_ns, event.where, event.lost)
            case WallDamaged():
                detail = {"what": event.what, **event.detail}
                yield self._state(event.key, event.mono_ns, DAMAGED, detail)
            case SandboxFinished():
                yield from self._finish(event)
            case _:
                assert_never(event)

    def _start(self, event: SandboxStarted) -> Command:
        self._clock_offset_ns = event.clock_offset_ns
        self._sandboxes[event.key] = _Sandbox(
            event.sandbox, event.clock_offset_ns, event.mode.value
        )
        detail = {
            "mode": event.mode.value,
            "coverage": event.coverage,
            "open_roads": list(event.open_roads),
            "command": list(clamp_arguments(event.command)),
            **event.detail,
        }
        return self._state(event.key, event.mono_ns, "started", detail)

    def _apply(self, event: RulesApplied) -> Command:
        known = self._known(event.key)
        known.mode = event.policy.mode.value
        known.watch.apply(known.sandbox.id, event.policy.detect)
        known.generations[event.generation] = event
        while len(known.generations) > _KEPT_GENERATIONS:
            del known.generations[next(iter(known.generations))]
        detail = {
            "policy": event.policy.name,
            "mode": event.policy.mode.value,
            "files": list(event.policy.files),
            "digest": event.policy.digest,
            "generation": event.generation,
            "rules": len(event.tables.rules),
        }
        return self._state(event.key, event.mono_ns, "rules-applied", detail)

    def _see(self, event: AttemptSeen) -> Iterator[Command]:
        attempt = event.attempt
        is_cut = attempt.verdict is Verdict.DENY and attempt.code in _CUTTING
        sight = self._sight(attempt, event.process)
        detection = None
        if sight is not None and attempt.match is not None:
            detection = self._known(attempt.sandbox).detections.match(sight, attempt.match)
        if is_cut:
            # First, while the application waits.
            yield from self._kill(attempt)
        if detection is not None:
            yield Report(detection)
        else:
            yield from self._flow(self._attempt(event), attempt)

    def _sight(self, attempt: Attempt, process: Process | None) -> Sight | None:
        known = self._known(attempt.sandbox)
        applied = known.applied(attempt.generation)
        if applied is None:
            return None
        return Sight(
            attempt=attempt,
            sandbox=known.sandbox,
            time_ns=attempt.mono_ns + known.clock_offset_ns,
            process=describe_task(attempt.task, process),
            policy=applied.policy,
            rule=known.rule(attempt),
            reason=_reason(known, attempt),
        )

    def _decode(self, event: ExcerptsSeen) -> Iterator[Command]:
        # Each flow once, however many pieces came of it.
        grown: dict[tuple[SandboxKey, int], tuple[Excerpt, Process | None]] = {}
        for excerpt, process in event.excerpts:
            attempt = excerpt.attempt
            if self._known(attempt.sandbox).detections.excerpts.add(excerpt):
                grown[attempt.sandbox, attempt.cookie] = excerpt, process
        for excerpt, process in grown.values():
            sight = self._sight(excerpt.attempt, process)
            if sight is None:
                continue
            for detection in self._known(sight.attempt.sandbox).detections.decoded(sight, excerpt):
                if detection.verdict is Verdict.DENY:
                    yield from self._kill(sight.attempt)
                yield Report(detection)

    def _kill(self, attempt: Attempt) -> Iterator[Command]:
        if attempt.protocol not in _KILLABLE:
            return
        if attempt.local is None or attempt.remote is None or not attempt.cookie:
            return
        yield KillFlow(
            sandbox=attempt.sandbox,
            cookie=attempt.cookie,
            protocol=attempt.protocol,
            local=attempt.local,
            remote=attempt.remote,
            pid=attempt.task.pid,
        )

    def _hang(self, event: FlowLeftHanging) -> Command:
        detail = {"protocol": event.protocol, "why": event.why}
        for key, end in (("local", event.local), ("remote", event.remote)):
            if end is not None:
                detail[key] = f"{end.address} port {end.port}"
        return self._state(event.key, event.mono_ns, LEFT_HANGING, detail)

    def _flow(self, record: FlowRecord, seen: Attempt | FlowTotals) -> Iterator[Command]:
        yield Report(record)
        known = self._known(seen.sandbox)
        applied = known.applied(seen.generation)
        if applied is None:
            return
        rule = known.rule(seen)
        for detection in known.watch.see(record):
            of = rule if detection.remote is not None else None
            if judge(detection.finding, applied.policy, of) is not Response.OFF:
                yield Report(detection)
        yield from map(Report, known.detections.names(record, applied.policy, rule))

    def _attempt(self, event: AttemptSeen) -> FlowRecord:
        attempt = event.attempt
        known = self._known(attempt.sandbox)
        # A refused packet leaves nothing behind; what passes is counted at the flow's end.
        size = 0 if attempt.verdict is Verdict.DENY else None
        return FlowRecord(
            sandbox=known.sandbox,
            time_ns=attempt.mono_ns + known.clock_offset_ns,
            mono_ns=attempt.mono_ns,
            process=describe_task(attempt.task, event.process),
            direction=attempt.direction,
            protocol=attempt.protocol,
            local=attempt.local,
            remote=attempt.remote,
            claimed=attempt.claimed,
            verdict=attempt.verdict,
            reason=_reason(known, attempt),
            hook=attempt.hook,
            errno=attempt.errno,
            socket_type=attempt.socket_type,
            bytes_out=size,
            bytes_in=size,
            duration_ns=None,
            count=1,
            name=attempt.name,
            question=attempt.question,
        )

    def _totals(self, event: TotalsRead) -> FlowRecord:
        totals: FlowTotals = event.totals
        known = self._known(totals.sandbox)
        return FlowRecord(
            sandbox=known.sandbox,
            time_ns=totals.last_mono_ns + known.clock_offset_ns,
            mono_ns=totals.last_mono_ns,
            process=describe_task(totals.task, event.process),
            direction=totals.direction,
            protocol=totals.remote.protocol,
            local=_local_end(totals),
            remote=totals.remote,
            claimed=None,
            verdict=totals.verdict,
            reason=_reason(known, totals),
            hook=Hook.SOCK_RELEASE,
            errno=None,
            socket_type=0,
            bytes_out=totals.bytes_out,
            bytes_in=totals.bytes_in,
            duration_ns=totals.duration_ns,
            count=totals.sockets,
            name=totals.name,
        )

    def _count(self, event: CountersRead) -> Iterator[Command]:
        known = self._known(event.key)
        before, known.counters = known.counters, event
        for where, now, then in (
            ("denials", event.lost_denials, before.lost_denials if before else 0),
            ("flows", event.lost_flows, before.lost_flows if before else 0),
            ("flow-table", event.lost_totals, before.lost_totals if before else 0),
        ):
            if now > then:
                yield self._lose(event.key, event.mono_ns, where, now - then)
        # These are no records that are missing.
        for where, now, then in (
            ("names", event.lost_names, before.lost_names if before else 0),
            ("excerpts", event.lost_excerpts, before.lost_excerpts if before else 0),
        ):
            if now > then:
                yield self._gap(event.key, event.mono_ns, where, now - then)

    def _lose(self, key: SandboxKey, mono_ns: int, where: str, lost: int) -> Command:
        self._known(key).lost += lost
        return self._gap(key, mono_ns, where, lost)

    def _gap(self, key: SandboxKey, mono_ns: int, where: str, lost: int) -> Command:
        known = self._known(key)
        time_ns = mono_ns + known.clock_offset_ns
        return Report(
            GapRecord(
                sandbox=known.sandbox, time_ns=time_ns, mono_ns=mono_ns, where=where, lost=lost
            )
        )

    def _finish(self, event: SandboxFinished) -> Iterator[Command]:
        known = self._known(event.key)
        yield from map(Report, known.watch.end(known.sandbox.id))
        detail: dict[str, object] = {"mode": known.mode, "lost": known.lost}
        if known.counters is not None:
            detail["denied"] = known.counters.denied
            detail["would_denied"] = known.counters.would_denied
            detail["probes"] = known.counters.probes
            detail["lost_names"] = known.counters.lost_names
            detail["lost_excerpts"] = known.counters.lost_excerpts
            detail["matches"] = known.counters.matches
        # What behaviour and decoders had to forget to stay within their bounds.
        detail["forgotten"] = known.watch.dropped + known.detections.excerpts.dropped
        yield self._state(event.key, event.mono_ns, "finished", {**detail, **event.detail})
        self._sandboxes.pop(event.key, None)

    def _state(
        self, key: SandboxKey, mono_ns: int, state: str, detail: Mapping[str, object]
    ) -> Command:
        known = self._known(key)
        time_ns = mono_ns + known.clock_offset_ns
        return Report(
            StateRecord(
                sandbox=known.sandbox,
                time_ns=time_ns,
                mono_ns=mono_ns,
                state=state,
                detail=detail,
            )
        )

    def _known(self, key: SandboxKey) -> _Sandbox:
        # The kernel may speak of a sandbox nobody started (key 0: no policy was bound yet). That
        # is reported under its bare key, never dropped, and nothing is kept of it.
        found = self._sandboxes.get(key)
        if found is None:
            found = _Sandbox(Sandbox(id=f"key:{key}", cgroup=""), self._clock_offset_ns, "enforce")
        return found


def _reason(known: _Sandbox, seen: Attempt | FlowTotals) -> Reason:
    found = known.rule(seen)
    if found is None:
        return Reason(code=seen.code)
    address = canonical(seen.remote.address) if seen.remote else None
    asked = seen.question if isinstance(seen, Attempt) else None
    where = resolve_line(found, address, asked.name if asked else seen.name)
    return Reason(code=seen.code, rule=found.id, file=where.path, line=where.line)


def _local_end(totals: FlowTotals) -> Endpoint | None:
    # Which of the host's addresses was visited is not kept; the port is what the rule judged.
    if totals.direction is Direction.OUT:
        return None
    unspecified = IPv4Address(0) if totals.remote.address.version == 4 else IPv6Address(0)
    return Endpoint(unspecified, totals.local_port, totals.remote.protocol)
