# SPDX-License-Identifier: Apache-2.0
"""Inputs of the engine. Counterpart: :mod:`agentwall.engine.commands`.

The order a caller keeps for one sandbox: :class:`SandboxStarted`, :class:`RulesApplied`,
:class:`SignaturesApplied`, then attempts, excerpts, hellos, totals, counters and losses in any
order, and :class:`SandboxFinished` last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.detect.signature import SignatureSet
from agentwall.flow.origin import Origin
from agentwall.flow.record import Attempt, Excerpt, FlowTotals, Process, Sandbox, SandboxKey
from agentwall.flow.tls import HelloSeen, TlsReading
from agentwall.flow.verdict import Mode
from agentwall.net.endpoint import Endpoint
from agentwall.policy.model import Policy, Response
from agentwall.policy.tables import RuleTables


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStarted:
    """The wall around a sandbox stands; its command has not run yet."""

    key: SandboxKey
    sandbox: Sandbox
    mono_ns: int
    clock_offset_ns: int
    """UTC minus CLOCK_BOOTTIME, by which kernel times become UTC."""
    mode: Mode
    coverage: str
    """``full``, ``partial``, ``network-only`` or ``none``."""
    open_roads: tuple[str, ...] = ()
    """Why the coverage is not full, one phrase a road."""
    command: tuple[str, ...] = ()
    """The argument vector that runs inside."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """Whatever else the log should say of the start; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesApplied:
    """A policy's tables are in force, and events of *generation* speak of its rules."""

    key: SandboxKey
    mono_ns: int
    generation: int
    policy: Policy
    tables: RuleTables
    is_former: bool = False
    """They held under a daemon before this one: what the kernel told meanwhile speaks of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignaturesApplied:
    """A signature set is in force; without one nothing is recognised by its bytes or its name."""

    key: SandboxKey
    signatures: SignatureSet
    table: int
    """Generation of the kernel's table, which its matches name; 0 where it has none."""
    accepts: tuple[tuple[int, ...], ...]
    """Of the automaton in that table: ``Automaton.accepts``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSeen:
    """The kernel reported one decision."""

    attempt: Attempt
    process: Process | None
    """What /proc said of the task, or None when it had gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcerptsSeen:
    """Bytes of flows were handed over: all that were there, so that each flow is decoded once."""

    excerpts: tuple[tuple[Excerpt, Process | None], ...]
    """In the order in which they passed, each with what /proc said of its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloRead:
    """A flow began with a ClientHello, and it was looked at who sent it."""

    hello: HelloSeen
    process: Process | None
    """What /proc said of the task, or None when it had gone."""
    reading: TlsReading | None
    """Whether its text is read; None: nobody has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLeftHanging:
    """A flow that is cut could not be ended: the kernel drops its packets, and nothing says so."""

    key: SandboxKey
    mono_ns: int
    protocol: int
    local: Endpoint | None
    remote: Endpoint | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsRead:
    """The counters of one permitted flow were taken out of the kernel's flow table."""

    totals: FlowTotals
    process: Process | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountersRead:
    """The kernel's counters of a sandbox, ``struct aw_counters``; each only ever grows."""

    key: SandboxKey
    mono_ns: int
    denied: int
    would_denied: int
    probes: int
    lost_denials: int
    lost_flows: int
    lost_totals: int
    lost_names: int
    lost_excerpts: int
    matches: int
    lost_hellos: int = 0
    is_baseline: bool = False
    """What an earlier daemon has told of already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Events were lost on the way here, outside what :class:`CountersRead` counts."""

    key: SandboxKey
    mono_ns: int
    where: str
    lost: int
    """Since the last time this was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallDamaged:
    """Something the policy requires is no longer in force, such as a hook that was detached."""

    key: SandboxKey
    mono_ns: int
    what: str
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLabelled:
    """A sandbox's labels are others from now on; what the kernel saw before keeps the old ones."""

    key: SandboxKey
    mono_ns: int
    labels: Mapping[str, str]
    """All of them."""
    by: str
    """Who said so: ``pid 7 (uid 1000)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeOverridden:
    """Somebody switched the mode of a sandbox, or that has come to its end."""

    key: SandboxKey
    mono_ns: int
    mode: Mode
    """In force from now on."""
    until_mono_ns: int | None
    """When it ends by itself; None where this is the end."""
    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStopped:
    """A :class:`~agentwall.engine.commands.StopSandbox` was carried out, or could not be."""

    key: SandboxKey
    mono_ns: int
    response: Response
    problem: str | None
    """None: done."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """For a freeze, what was found inside; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRenamed:
    """More is known of where a sandbox comes from: its runtime has answered."""

    key: SandboxKey
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInspected:
    """What a sandbox that had run before its wall stood held then, and what that leaves open."""

    key: SandboxKey
    mono_ns: int
    coverage: str
    """As in :class:`SandboxStarted`."""
    open_roads: tuple[str, ...]
    detail: Mapping[str, object]
    """Its sockets, as ``daemon/live_sockets`` describes them; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChanged:
    """Something about the daemon itself: started, reloaded, a scope unguarded, stopping."""

    mono_ns: int
    clock_offset_ns: int
    state: str
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFinished:
    """The sandbox is empty and everything the kernel held of it was read."""

    key: SandboxKey
    mono_ns: int
    detail: Mapping[str, object] = field(default_factory=dict)
    """What the log should say of the end, such as ``exit_code``; JSON values only."""


Event = (
    SandboxStarted
    | RulesApplied
    | SignaturesApplied
    | AttemptSeen
    | ExcerptsSeen
    | HelloRead
    | FlowLeftHanging
    | TotalsRead
    | CountersRead
    | Lost
    | WallDamaged
    | SandboxLabelled
    | ModeOverridden
    | SandboxStopped
    | SandboxRenamed
    | SandboxInspected
    | HostChanged
    | SandboxFinished
)
