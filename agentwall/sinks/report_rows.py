# SPDX-License-Identifier: Apache-2.0
"""The values an audit report consists of. Pure; ``report`` makes them, renderers show them."""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.engine.severity import Severity, severity_of
from agentwall.flow.record import FlowRecord, GapRecord, Process, Question, Sandbox
from agentwall.flow.verdict import Direction, Hook, Reason, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress
from agentwall.sinks.eventlog import LogError


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRow:
    """Equal flows of one program in one sandbox, in one row."""

    severity: Severity
    verdict: Verdict
    sandbox: str
    process: Process | None
    """The first one; *pids* has the others."""
    pids: tuple[int, ...]
    """The first eight."""
    direction: Direction
    protocol: int
    remote: Endpoint | None
    """Inward its port is that of the first visitor."""
    port: int
    """The port that was judged: the remote one outward, the sandbox's own inward."""
    claimed: Endpoint | None
    name: str | None
    """Under which the remote address was learned; then :attr:`addresses` may be several."""
    addresses: tuple[IPAddress, ...]
    """The first eight that were seen."""
    question: Question | None
    """Of A and AAAA, which are asked at a time, the first."""
    reason: Reason
    hooks: tuple[Hook, ...]
    """Every hook that saw it, the first one first."""
    errno: int | None
    socket_type: int
    count: int
    """Attempts; for permitted flows sockets, where the kernel counted them."""
    bytes_out: int | None
    """None until a flow's end was seen."""
    bytes_in: int | None
    duration_ns: int | None
    first_ns: int
    last_ns: int
    permit: str | None
    """What would permit it: a line of YAML or a sentence. None for permitted flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """What one program did in one sandbox."""

    sandbox: str
    process: Process | None
    denied: int
    permitted: int
    destinations: int
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRow:
    """A sandbox, as its state records tell of it."""

    sandbox: Sandbox
    started_ns: int | None = None
    finished_ns: int | None = None
    policy: str | None = None
    digest: str | None = None
    mode: str | None = None
    command: tuple[str, ...] = ()
    coverage: str | None = None
    open_roads: tuple[str, ...] = ()
    exit_code: int | None = None
    denied: int | None = None
    """Every refusal the kernel counted, whether an event of it arrived or not."""
    would_denied: int | None = None
    probes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One step of the timeline."""

    start_ns: int
    denied: int
    """With what would be denied."""
    permitted: int
    first_denial: FlowRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something beyond single flows; as yet only what concerns the wall itself."""

    source: str
    kind: str
    """``class`` in JSON."""
    severity: Severity
    at_ns: int
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over everything that passed the filters."""

    denied: int
    would_denied: int
    permitted: int
    bytes_out: int
    bytes_in: int
    probes: int
    """UDP connects that were refused, which send nothing: name resolution does them."""
    lost: int
    """Events that the gap records speak of."""
    first_ns: int | None
    last_ns: int | None
    unlisted_denials: int
    """Denied attempts for which the report had no row left; they are in the sums."""
    unlisted_permitted: int
    unlisted_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What ``audit`` shows."""

    sources: tuple[str, ...]
    events: int
    """Read, whatever the filters."""
    totals: Totals
    denials: tuple[FlowRow, ...]
    """Most serious first, then most frequent."""
    permitted: tuple[FlowRow, ...]
    """Most bytes first."""
    processes: tuple[ProcessRow, ...]
    sandboxes: tuple[SandboxRow, ...]
    timeline: tuple[Bucket, ...]
    step_ns: int
    """Width of each bucket."""
    findings: tuple[Finding, ...]
    gaps: tuple[GapRecord, ...]
    errors: tuple[LogError, ...]

    @property
    def severity(self) -> Severity:
        """The highest of denials, findings, errors and gaps; INFO if there are none."""
        found = [
            *(row.severity for row in self.denials),
            *(finding.severity for finding in self.findings),
            *(error.severity for error in self.errors),
            *(severity_of(gap) for gap in self.gaps),
        ]
        return max(found, default=Severity.INFO)
