# SPDX-License-Identifier: Apache-2.0
"""The values an audit report consists of. Pure; ``report`` makes them, renderers show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.engine.severity import severity_of
from agentwall.flow.finding import Confidence, Stage
from agentwall.flow.record import FlowRecord, GapRecord, Process, Question, Sandbox
from agentwall.flow.severity import Severity
from agentwall.flow.tls import TlsLibrary, TlsReading
from agentwall.flow.verdict import Direction, Hook, Reason, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress
from agentwall.sinks.eventlog import LogError

WALL = "wall"
"""The :attr:`FindingRow.kind` of what concerns the wall itself."""


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
class FlowEnds:
    """The flow that a finding is about."""

    direction: Direction
    protocol: int
    local: Endpoint | None
    """The sandbox's end; of a capture whoever opened the flow."""
    remote: Endpoint
    name: str | None
    """Under which the remote address is known, or which the flow said."""
    begin_ns: int | None = None
    """This and what follows is known of captures only."""
    end_ns: int | None = None
    bytes_out: int | None = None
    """Payload."""
    bytes_in: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """Something that was recognised: in one flow, or by what one program or client does."""

    source: str
    kind: str
    """``class`` in JSON: of a detection, or :data:`WALL`."""
    signature: str | None = None
    dialect: str | None = None
    severity: Severity
    confidence: Confidence | None = None
    stage: Stage | None = None
    verdict: Verdict | None = None
    """None where nothing judged it: of captures without a policy."""
    response: str | None = None
    sandbox: str | None = None
    """Its id; None of captures."""
    process: Process | None = None
    flow: FlowEnds | None = None
    """None where it is about no single flow, such as a scan."""
    reason: Reason | None = None
    """The rule that permits the flow, or why it is denied as well."""
    bytes_left: int | None = None
    count: int = 1
    """How often it was told."""
    at_ns: int | None
    last_ns: int | None
    evidence: Mapping[str, object]
    """JSON values, bounded; ``also`` are further signatures that found the same."""
    remedy: str | None = None
    """What would let it through, or silence it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRow:
    """TLS sessions of one program in one sandbox that were not read, for one reason."""

    sandbox: str
    process: Process | None
    """The first one; None: several, of which there was no room to tell one by one."""
    pids: tuple[int, ...]
    """The first eight."""
    reading: TlsReading | None
    """None: nobody has looked. A reading that reads: these sessions are none of its library."""
    server_names: tuple[str, ...]
    """The first eight."""
    sessions: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideTls:
    """What became of TLS sessions."""

    sessions: int = 0
    read_sessions: int = 0
    processes: int = 0
    """That began one, as far as they were told one by one."""
    read_processes: int = 0
    """Of these, those of which at least one session was read."""
    by_library: Mapping[TlsLibrary | None, int] = field(default_factory=dict)
    """:attr:`read_processes` by what was read; a process may have two. None: it is not known."""
    not_read: tuple[TlsRow, ...] = ()
    """Most sessions first."""
    unlisted: int = 0
    """Sessions that were not read and have no row."""


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
    unlisted_findings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFlaw:
    """What is wrong with a capture; the rest of it was judged."""

    source: str
    offset: int | None
    """In bytes, after decompression; None where it has no place."""
    problem: str

    @property
    def severity(self) -> Severity:
        """Low: what was not read was not judged."""
        return Severity.LOW

    def __str__(self) -> str:
        at = "" if self.offset is None else f" byte {self.offset}:"
        return f"{self.source}:{at} {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captures:
    """What was read of captures."""

    count: int = 0
    packets: int = 0
    conversations: int = 0
    is_judged: bool = False
    """Whether a policy judged their flows."""


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
    findings: tuple[FindingRow, ...]
    """Most serious first."""
    gaps: tuple[GapRecord, ...]
    errors: tuple[LogError | CaptureFlaw, ...]
    captures: Captures = field(default_factory=lambda: Captures())
    inside_tls: InsideTls = field(default_factory=lambda: InsideTls())

    @property
    def is_judged(self) -> bool:
        """Whether anything was permitted or denied: a capture alone tells of neither."""
        return bool(self.events or self.captures.is_judged or not self.captures.count)

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
