# SPDX-License-Identifier: Apache-2.0
"""The engine: events in, commands out; no I/O and no clock.

The kernel has decided already. The engine says what a decision means to a reader: which rule of
which file, at what time, by whom. The daemon feeds it events and carries out the commands, so all
of it is tested without root and without a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import assert_never

from agentwall.detect.judging import judge
from agentwall.engine.commands import Command, Report, StopSandbox
from agentwall.engine.cutting import is_cut, kill_of
from agentwall.engine.detections import IndicatorIndexes, Sight
from agentwall.engine.events import (
    AttemptSeen,
    CountersRead,
    Event,
    ExcerptsSeen,
    FlowLeftHanging,
    HelloRead,
    HostChanged,
    Lost,
    ModeOverridden,
    RulesApplied,
    SandboxFinished,
    SandboxInspected,
    SandboxLabelled,
    SandboxRenamed,
    SandboxStarted,
    SandboxStopped,
    SignaturesApplied,
    TotalsRead,
    WallDamaged,
)
from agentwall.engine.excerpts import FlowKey, key_of
from agentwall.engine.processes import clamp_arguments, describe_task
from agentwall.engine.records import (
    reason_of,
    record_of_attempt,
    record_of_hello,
    record_of_totals,
)
from agentwall.engine.sandboxes import KnownSandbox
from agentwall.engine.severity import DAMAGED
from agentwall.engine.tls_sessions import TlsCounts
from agentwall.flow.record import (
    HOST,
    Attempt,
    DetectionRecord,
    Excerpt,
    FlowRecord,
    FlowTotals,
    GapRecord,
    Process,
    Sandbox,
    SandboxKey,
    StateRecord,
)
from agentwall.flow.verdict import Mode, Verdict
from agentwall.policy.model import Response

LEFT_HANGING = "flow-left-hanging"
"""The ``state`` of a record that says that an application was not told that its flow is cut."""
_STOPPING = {response.value: response for response in (Response.FREEZE, Response.KILL)}
_CLOCK_SLACK_NS = 1_000_000
"""What two readings of the same clocks may differ by. More, and the clock was set."""

_LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


class Engine:
    """Turns what the kernel reported into records. Its state grows with sandboxes, not events."""

    def __init__(self) -> None:
        self._sandboxes: dict[SandboxKey, KnownSandbox] = {}
        self._clock_offset_ns = 0
        self._indexes = IndicatorIndexes()

    def handle(self, event: Event) -> Iterator[Command]:
        """Yield the commands that *event* calls for, in the order to carry them out."""
        match event:
            case SandboxStarted():
                yield self._start(event)
            case RulesApplied():
                yield from self._apply(event)
            case SignaturesApplied():
                index = self._indexes.of(event.signatures.indicators)
                self._known(event.key).detections.apply(event, index)
            case AttemptSeen():
                yield from self._see(event)
            case ExcerptsSeen():
                yield from self._decode(event)
            case HelloRead():
                yield from self._greet(event)
            case FlowLeftHanging():
                yield self._hang(event)
            case TotalsRead():
                known = self._known(event.totals.sandbox)
                yield from self._flow(record_of_totals(known, event), event.totals)
            case CountersRead():
                yield from self._count(event)
            case Lost():
                yield self._lose(event.key, event.mono_ns, event.where, event.lost)
            case WallDamaged():
                detail = {"what": event.what, **event.detail}
                yield self._state(event.key, event.mono_ns, DAMAGED, detail)
            case SandboxLabelled():
                yield self._label(event)
            case ModeOverridden():
                yield self._override(event)
            case SandboxStopped():
                yield self._stopped(event)
            case SandboxRenamed():
                self._known(event.key).identify(event.origin)
            case SandboxInspected():
                detail = {
                    "coverage": event.coverage,
                    "open_roads": list(event.open_roads),
                    **event.detail,
                }
                yield self._state(event.key, event.mono_ns, "inspected", detail)
            case HostChanged():
                yield self._host(event)
            case SandboxFinished():
                yield from self._finish(event)
            case _:
                assert_never(event)

    def _start(self, event: SandboxStarted) -> Command:
        self._clock_offset_ns = event.clock_offset_ns
        self._sandboxes[event.key] = KnownSandbox(event.sandbox, event.clock_offset_ns, event.mode)
        detail = {
            "mode": event.mode.value,
            "coverage": event.coverage,
            "open_roads": list(event.open_roads),
            "command": list(clamp_arguments(event.command)),
            **event.detail,
        }
        return self._state(event.key, event.mono_ns, "started", detail)

    def _apply(self, event: RulesApplied) -> Iterator[Command]:
        policy = event.policy
        self._known(event.key).apply(event)
        if event.is_former:
            return  # It was told of then.
        detail: dict[str, object] = {
            "policy": policy.name,
            "mode": policy.mode.value,
            "files": list(policy.files),
            "digest": policy.digest,
            "generation": event.generation,
            "rules": len(event.tables.rules),
        }
        if policy.phase is not None:
            detail["phase"] = policy.phase
        if policy.commit is not None:
            detail["commit"] = policy.commit
        yield self._state(event.key, event.mono_ns, "rules-applied", detail)

    def _see(self, event: AttemptSeen) -> Iterator[Command]:
        attempt = event.attempt
        sight = self._sight(attempt, event.process)
        detection = None
        if sight is not None and attempt.match is not None:
            detection = self._known(attempt.sandbox).detections.match(sight, attempt.match)
        if is_cut(attempt):
            # First, while the application waits.
            yield from kill_of(attempt)
        if detection is not None:
            yield from self._tell(attempt.sandbox, detection)
        else:
            record = record_of_attempt(self._known(attempt.sandbox), event)
            yield from self._flow(record, attempt)

    def _sight(self, attempt: Attempt, process: Process | None) -> Sight | None:
        known = self._known(attempt.sandbox)
        applied = known.applied(attempt.generation)
        if applied is None:
            return None
        return Sight(
            attempt=attempt,
            sandbox=known.named(attempt.mono_ns, attempt.generation),
            time_ns=attempt.mono_ns + known.clock_offset_ns,
            process=describe_task(attempt.task, process),
            policy=applied.policy,
            mode=known.mode_at(attempt.mono_ns, applied.policy),
            rule=known.rule(attempt),
            reason=reason_of(known, attempt),
            offer=known.offer(attempt.cookie),
        )

    def tls_counts(self, key: SandboxKey) -> TlsCounts | None:
        """Return how many TLS sessions a sandbox began; None: not one, or nobody knows it."""
        return self._known(key).tls_counts

    def _decode(self, event: ExcerptsSeen) -> Iterator[Command]:
        # Each flow once, however many pieces came of it.
        grown: dict[tuple[SandboxKey, FlowKey], tuple[Excerpt, Process | None]] = {}
        for excerpt, process in event.excerpts:
            attempt = excerpt.attempt
            if self._known(attempt.sandbox).detections.excerpts.add(excerpt):
                grown[attempt.sandbox, key_of(attempt)] = excerpt, process
        for excerpt, process in grown.values():
            sight = self._sight(excerpt.attempt, process)
            if sight is None:
                continue
            for detection in self._known(sight.attempt.sandbox).detections.decoded(sight, excerpt):
                if detection.verdict is Verdict.DENY:
                    yield from kill_of(sight.attempt)
                yield from self._tell(sight.attempt.sandbox, detection)

    def _greet(self, event: HelloRead) -> Iterator[Command]:
        known = self._known(event.hello.attempt.sandbox)
        record = record_of_hello(known, event, known.tls.learn(event.hello))
        yield from map(Report, known.tls.see(record))

    def _tell(self, key: SandboxKey, detection: DetectionRecord) -> Iterator[Command]:
        """Report *detection*, and have the sandbox stopped if that is to follow."""
        yield Report(detection)
        response = _STOPPING.get(detection.response)
        if response is None or detection.verdict is not Verdict.DENY:
            return
        known = self._known(key)
        # What is being killed need not be frozen.
        if response in known.stopped or Response.KILL in known.stopped:
            return
        known.stopped |= {response}
        yield StopSandbox(sandbox=key, response=response, detection=detection)

    def _stopped(self, event: SandboxStopped) -> Command:
        known = self._known(event.key)
        # Whoever thaws a sandbox has seen it. One that is killed may be there again after that.
        if event.problem is not None or event.response is Response.KILL:
            known.stopped -= {event.response}
        detail = {"response": event.response.value, "problem": event.problem, **event.detail}
        return self._state(event.key, event.mono_ns, "response", detail)

    def _label(self, event: SandboxLabelled) -> Command:
        known = self._known(event.key)
        before = dict(known.sandbox.labels)
        known.label(event.labels, event.mono_ns)
        detail = {"labels": dict(event.labels), "before": before, "by": event.by}
        return self._state(event.key, event.mono_ns, "labelled", detail)

    def _override(self, event: ModeOverridden) -> Command:
        known = self._known(event.key)
        known.override(event)
        until = event.until_mono_ns
        detail = {
            "mode": event.mode.value,
            "until": None if until is None else _moment(until + known.clock_offset_ns),
            "reason": event.reason,
            "by": event.by,
        }
        return self._state(event.key, event.mono_ns, "mode", detail)

    def _host(self, event: HostChanged) -> Command:
        self._clock_offset_ns = event.clock_offset_ns
        for known in self._sandboxes.values():
            if abs(known.clock_offset_ns - event.clock_offset_ns) > _CLOCK_SLACK_NS:
                known.clock_offset_ns = event.clock_offset_ns
        return Report(
            StateRecord(
                sandbox=HOST,
                time_ns=event.mono_ns + event.clock_offset_ns,
                mono_ns=event.mono_ns,
                state=event.state,
                detail=dict(event.detail),
            )
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

    def _count(self, event: CountersRead) -> Iterator[Command]:
        known = self._known(event.key)
        before, known.counters = known.counters, event
        if event.is_baseline:
            return
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
                sandbox=known.named(mono_ns),
                time_ns=time_ns,
                mono_ns=mono_ns,
                where=where,
                lost=lost,
            )
        )

    def _finish(self, event: SandboxFinished) -> Iterator[Command]:
        known = self._known(event.key)
        if known.has_behaved:
            yield from map(Report, known.watch.end(known.sandbox.id))
        yield from map(Report, known.end_tls())
        mode = known.mode_at(event.mono_ns).value
        detail: dict[str, object] = {"mode": mode, "lost": known.lost}
        if known.counters is not None:
            detail["denied"] = known.counters.denied
            detail["would_denied"] = known.counters.would_denied
            detail["probes"] = known.counters.probes
            detail["lost_names"] = known.counters.lost_names
            detail["lost_excerpts"] = known.counters.lost_excerpts
            detail["matches"] = known.counters.matches
            if known.counters.lost_hellos:
                detail["tls_untold"] = known.counters.lost_hellos
        if (sessions := known.tls_counts) is not None:
            detail["tls_sessions"], detail["tls_read"] = sessions.hellos, sessions.joined
        detail["forgotten"] = known.forgotten
        yield self._state(event.key, event.mono_ns, "finished", {**detail, **event.detail})
        self._sandboxes.pop(event.key, None)

    def _state(
        self, key: SandboxKey, mono_ns: int, state: str, detail: Mapping[str, object]
    ) -> Command:
        known = self._known(key)
        time_ns = mono_ns + known.clock_offset_ns
        return Report(
            StateRecord(
                sandbox=known.named(mono_ns),
                time_ns=time_ns,
                mono_ns=mono_ns,
                state=state,
                detail=detail,
            )
        )

    def _known(self, key: SandboxKey) -> KnownSandbox:
        # The kernel may speak of a sandbox nobody started (key 0: no policy was bound yet). That
        # is reported under its bare key, never dropped, and nothing is kept of it.
        found = self._sandboxes.get(key)
        if found is None:
            nobody = Sandbox(id=f"key:{key}", cgroup="")
            found = KnownSandbox(nobody, self._clock_offset_ns, Mode.ENFORCE)
        return found


def _moment(time_ns: int) -> str:
    """Return a UTC time to the second, RFC 3339."""
    # Saturates: a mode that somebody switched for a thousand years ends late enough.
    seconds = min(time_ns // 1_000_000_000, _LAST_SECOND)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
