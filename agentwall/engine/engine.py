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

from agentwall.engine.commands import Command, Report
from agentwall.engine.events import (
    AttemptSeen,
    CountersRead,
    Event,
    Lost,
    RulesApplied,
    SandboxFinished,
    SandboxStarted,
    TotalsRead,
    WallDamaged,
)
from agentwall.engine.processes import clamp_arguments, describe_task
from agentwall.engine.severity import DAMAGED
from agentwall.flow.record import (
    Attempt,
    FlowRecord,
    FlowTotals,
    GapRecord,
    Sandbox,
    SandboxKey,
    StateRecord,
)
from agentwall.flow.verdict import Direction, Hook, Reason, Verdict
from agentwall.net.endpoint import Endpoint, canonical
from agentwall.policy.evaluate import resolve_line
from agentwall.policy.tables import RuleTables

_KEPT_GENERATIONS = 4
"""Events still on their way when a policy is replaced speak of the generation before."""


@dataclass(slots=True)
class _Sandbox:
    sandbox: Sandbox
    clock_offset_ns: int
    mode: str
    generations: dict[int, RuleTables] = field(default_factory=dict)
    counters: CountersRead | None = None
    lost: int = 0


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
            case AttemptSeen():
                yield Report(self._attempt(event))
            case TotalsRead():
                yield Report(self._totals(event))
            case CountersRead():
                yield from self._count(event)
            case Lost():
                yield self._lose(event.key, event.mono_ns, event.where, event.lost)
            case WallDamaged():
                detail = {"what": event.what, **event.detail}
                yield self._state(event.key, event.mono_ns, DAMAGED, detail)
            case SandboxFinished():
                yield self._finish(event)
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
        known.generations[event.generation] = event.tables
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
        not_learned = event.lost_names - (before.lost_names if before else 0)
        if not_learned > 0:
            yield self._gap(event.key, event.mono_ns, "names", not_learned)

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

    def _finish(self, event: SandboxFinished) -> Command:
        known = self._known(event.key)
        detail: dict[str, object] = {"mode": known.mode, "lost": known.lost}
        if known.counters is not None:
            detail["denied"] = known.counters.denied
            detail["would_denied"] = known.counters.would_denied
            detail["probes"] = known.counters.probes
            detail["lost_names"] = known.counters.lost_names
        command = self._state(event.key, event.mono_ns, "finished", {**detail, **event.detail})
        self._sandboxes.pop(event.key, None)
        return command

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
    tables = known.generations.get(seen.generation)
    if seen.rule is None or tables is None or seen.rule >= len(tables.rules):
        return Reason(code=seen.code)
    found = tables.rules[seen.rule]
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
