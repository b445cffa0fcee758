# SPDX-License-Identifier: Apache-2.0
"""Events into an audit report: equal flows become one row, denials come first. Pure.

Feed a :class:`ReportBuilder` what ``eventlog.read_log`` yields, then take the report. Memory is
bounded by the numbers below whatever the events hold; what finds no room is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import assert_never

from agentwall.engine.severity import severity_of
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Process,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Hook, Verdict
from agentwall.net.endpoint import IPAddress
from agentwall.sinks.describe import NOT_RECORDS
from agentwall.sinks.escape import shorten
from agentwall.sinks.event_json import LoggedEvent, is_host
from agentwall.sinks.eventlog import LogError
from agentwall.sinks.findings import FindingTable
from agentwall.sinks.flow_keys import flow_key, is_totals, judged_port
from agentwall.sinks.remedy import remedy_for
from agentwall.sinks.report_rows import (
    AuditReport,
    CaptureFlaw,
    Captures,
    FlowRow,
    ProcessRow,
    SandboxRow,
    Totals,
)
from agentwall.sinks.sandboxes import update_sandbox
from agentwall.sinks.timeline import Timeline
from agentwall.sinks.tls_table import TlsTable

MAX_ROWS = 10_000
"""Denied rows, and as many permitted ones."""
MAX_ITEMS = 1000
"""Gaps, errors and sandboxes: each this many."""
MAX_CHARS = 32_000_000
"""Of all the text that rows keep."""
_MAX_EACH = 8
"""Pids and addresses of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which flows a report tells of. State, gaps and errors are told whatever they say."""

    since_ns: int | None = None
    verdict: Verdict | None = None
    """DENY takes in WOULD_DENY."""
    process: str | None = None
    """A pid, a name, a program's path or its last part; names and paths may hold wildcards."""

    def accept(self, record: FlowRecord | DetectionRecord) -> bool:
        """Say whether the report tells of *record*."""
        if self.since_ns is not None and record.time_ns < self.since_ns:
            return False
        if not self.wants(record.verdict):
            return False
        return self._is_of(record.process)

    def accept_tls(self, record: TlsRecord) -> bool:
        """Say whether the report tells of *record*: whoever asks for what is denied does not."""
        is_since = self.since_ns is None or record.time_ns >= self.since_ns
        return is_since and self.wants(Verdict.ALLOW) and self._is_of(record.process)

    def _is_of(self, process: Process | None) -> bool:
        return self.process is None or _is_process(process, self.process)

    def wants(self, verdict: Verdict) -> bool:
        """Say whether the report tells of what has this *verdict*."""
        if self.verdict is None:
            return True
        if self.verdict is Verdict.DENY:
            return verdict is not Verdict.ALLOW
        return verdict is self.verdict


def _is_process(process: Process | None, wanted: str) -> bool:
    if process is None:
        return False
    exe = process.exe or ""
    names = (process.comm, exe, exe.rpartition("/")[2])
    return wanted == str(process.pid) or any(
        name == wanted or fnmatchcase(name, wanted) for name in names if name
    )


@dataclass(slots=True)
class _Flow:
    """A row in the making."""

    first: FlowRecord
    first_ns: int
    last_ns: int
    pids: dict[int, None] = field(default_factory=dict)
    hooks: dict[Hook, None] = field(default_factory=dict)
    addresses: dict[IPAddress, None] = field(default_factory=dict)
    seen: int = 0
    sockets: int = 0
    bytes_out: int | None = None
    bytes_in: int | None = None
    duration_ns: int | None = None

    @property
    def count(self) -> int:
        # Sockets and attempts are the same events counted twice, by the table and by the ring.
        return max(self.seen, self.sockets)

    def add(self, record: FlowRecord) -> None:
        self.first_ns = min(self.first_ns, record.time_ns)
        self.last_ns = max(self.last_ns, record.time_ns)
        if record.process is not None and len(self.pids) < _MAX_EACH:
            self.pids[record.process.pid] = None
        if record.remote is not None and len(self.addresses) < _MAX_EACH:
            self.addresses[record.remote.address] = None
        if is_totals(record):
            self.sockets += record.count
        else:
            if not self.hooks:
                # An attempt tells more than totals: it is what the row shows.
                self.first = record
            self.hooks[record.hook] = None
            self.seen += record.count
        self.bytes_out = _add(self.bytes_out, record.bytes_out)
        self.bytes_in = _add(self.bytes_in, record.bytes_in)
        self.duration_ns = _add(self.duration_ns, record.duration_ns)

    def row(self) -> FlowRow:
        first = self.first
        is_denied = first.verdict is not Verdict.ALLOW
        return FlowRow(
            severity=severity_of(first),
            verdict=first.verdict,
            sandbox=first.sandbox.id,
            process=first.process,
            pids=tuple(self.pids),
            direction=first.direction,
            protocol=first.protocol,
            remote=first.remote,
            port=judged_port(first),
            claimed=first.claimed,
            name=first.name,
            addresses=tuple(self.addresses),
            question=first.question,
            reason=first.reason,
            hooks=tuple(self.hooks) or (first.hook,),
            errno=first.errno,
            socket_type=first.socket_type,
            count=self.count,
            bytes_out=self.bytes_out,
            bytes_in=self.bytes_in,
            duration_ns=self.duration_ns,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            permit=remedy_for(first) if is_denied else None,
        )


def _add(left: int | None, right: int | None) -> int | None:
    return left if right is None else (left or 0) + right


class ReportBuilder:
    """Takes events one by one and makes an :class:`AuditReport` of them."""

    def __init__(self, filters: Filters | None = None) -> None:
        self._filters = filters or Filters()
        self._sources: list[str] = []
        self._source = ""
        self._events = 0
        self._denied: dict[tuple[object, ...], _Flow] = {}
        self._permitted: dict[tuple[object, ...], _Flow] = {}
        # By the name of the program alone, for totals; None: several programs have that name.
        self._named: dict[tuple[object, ...], _Flow | None] = {}
        self._unlisted = dict.fromkeys(Verdict, 0)
        self._unlisted_bytes = [0, 0]
        self._unlisted_errors = 0
        self._timeline = Timeline()
        self._sandboxes: dict[str, SandboxRow] = {}
        self.findings = FindingTable()
        """Of everything; captures add theirs here."""
        self._tls = TlsTable()
        self._captures = Captures()
        self._gaps: list[GapRecord] = []
        self._lost = 0
        self._errors: list[LogError | CaptureFlaw] = []
        self._chars = 0

    @property
    def events(self) -> int:
        """How many events were taken, whatever the filters."""
        return self._events

    def begin(self, source: str) -> None:
        """Say that what follows comes from *source*."""
        self._source = source
        self._sources.append(source)

    def count_captures(self, captures: Captures) -> None:
        """Say what was read of captures, in all."""
        self._captures = captures

    def add(self, item: LoggedEvent | LogError) -> None:
        """Take one event or error."""
        if isinstance(item, LogError):
            self.add_error(item)
        else:
            self._events += 1
            self.add_record(item.record)

    def add_record(self, record: Record) -> None:
        """Take the record of an event."""
        match record:
            case FlowRecord():
                if self._filters.accept(record):
                    self._add_flow(record)
            case GapRecord():
                self._lost += record.lost if record.where not in NOT_RECORDS else 0
                if len(self._gaps) < MAX_ITEMS:
                    self._gaps.append(replace(record, where=shorten(record.where, 64)))
            case StateRecord():
                self._add_state(record)
            case DetectionRecord():
                if self._filters.accept(record):
                    self.findings.add_detection(self._source, record)
            case TlsRecord():
                if self._filters.accept_tls(record):
                    self._tls.add(record)
            case _:
                assert_never(record)

    def add_error(self, error: LogError | CaptureFlaw) -> None:
        """Take what is wrong with an input."""
        if len(self._errors) < MAX_ITEMS:
            self._errors.append(error)
            return
        self._unlisted_errors += 1
        # The most serious one must be among those kept, as the exit code goes by them.
        if error.severity > max(kept.severity for kept in self._errors):
            self._errors[-1] = error

    def _add_flow(self, record: FlowRecord) -> None:
        is_denied = record.verdict is not Verdict.ALLOW
        flows = self._denied if is_denied else self._permitted
        if not is_totals(record):
            self._timeline.add(
                record.time_ns,
                denied=record.count if is_denied else 0,
                permitted=0 if is_denied else record.count,
                record=record,
            )
        key = flow_key(record)
        flow = flows.get(key) or self._flow_of_totals(record)
        if flow is None:
            self._chars += _text_size(record)
            if len(flows) >= MAX_ROWS or self._chars > MAX_CHARS:
                self._count_unlisted(record)
                return
            flow = flows[key] = _Flow(record, record.time_ns, record.time_ns)
            if record.process is not None and record.process.exe is not None:
                name = flow_key(record, by_comm=True)
                self._named[name] = None if name in self._named else flow
        flow.add(record)

    def _flow_of_totals(self, record: FlowRecord) -> _Flow | None:
        """Return what totals belong to whose process had gone when they were taken."""
        process = record.process
        if not is_totals(record) or process is None or process.exe is not None:
            return None
        return self._named.get(flow_key(record, by_comm=True))

    def _count_unlisted(self, record: FlowRecord) -> None:
        # Without a row totals cannot be told from the attempts they sum up: only bytes count.
        if not is_totals(record):
            self._unlisted[record.verdict] += record.count
        self._unlisted_bytes[0] += record.bytes_out or 0
        self._unlisted_bytes[1] += record.bytes_in or 0

    def _add_state(self, record: StateRecord) -> None:
        if severity_of(record) is Severity.CRITICAL:
            self.findings.add_wall(self._source, record)
        id_ = record.sandbox.id
        if is_host(record.sandbox):
            return
        if id_ in self._sandboxes or len(self._sandboxes) < MAX_ITEMS:
            before = self._sandboxes.get(id_)
            self._sandboxes[id_] = update_sandbox(before, record)

    def report(self) -> AuditReport:
        """Return the report on everything taken so far."""
        denials = [flow.row() for flow in self._denied.values()]
        permitted = [flow.row() for flow in self._permitted.values()]
        denials.sort(key=lambda row: (-row.severity, -row.count, row.first_ns))
        permitted.sort(
            key=lambda row: (-(row.bytes_out or 0) - (row.bytes_in or 0), -row.count, row.first_ns)
        )
        return AuditReport(
            sources=tuple(self._sources),
            events=self._events,
            totals=self._totals(denials, permitted),
            denials=tuple(denials),
            permitted=tuple(permitted),
            processes=_process_rows([*denials, *permitted]),
            sandboxes=tuple(self._sandboxes.values()),
            timeline=self._timeline.buckets(),
            step_ns=self._timeline.width_ns,
            findings=self.findings.rows(),
            gaps=tuple(self._gaps),
            errors=tuple(self._errors),
            captures=self._captures,
            inside_tls=self._tls.report(),
        )

    def _totals(self, denials: list[FlowRow], permitted: list[FlowRow]) -> Totals:
        rows = [*denials, *permitted]
        unlisted = self._unlisted
        counts = dict(unlisted)
        for row in rows:
            counts[row.verdict] += row.count
        return Totals(
            denied=counts[Verdict.DENY],
            would_denied=counts[Verdict.WOULD_DENY],
            permitted=counts[Verdict.ALLOW],
            bytes_out=sum((row.bytes_out or 0 for row in rows), self._unlisted_bytes[0]),
            bytes_in=sum((row.bytes_in or 0 for row in rows), self._unlisted_bytes[1]),
            probes=sum(row.probes or 0 for row in self._sandboxes.values()),
            lost=self._lost,
            first_ns=min((row.first_ns for row in rows), default=None),
            last_ns=max((row.last_ns for row in rows), default=None),
            unlisted_denials=unlisted[Verdict.DENY] + unlisted[Verdict.WOULD_DENY],
            unlisted_permitted=unlisted[Verdict.ALLOW],
            unlisted_errors=self._unlisted_errors,
            unlisted_findings=self.findings.unlisted,
        )


def _text_size(record: FlowRecord) -> int:
    process = record.process
    texts = [record.name, record.reason.rule, record.reason.file, record.sandbox.id]
    if record.question is not None:
        texts.append(record.question.name)
    if process is not None:
        texts += [process.comm, process.exe, *(process.argv or ())]
    return sum(len(text) for text in texts if text)


def _process_rows(rows: Iterable[FlowRow]) -> tuple[ProcessRow, ...]:
    found: dict[tuple[object, ...], list[FlowRow]] = {}
    for row in rows:
        process = row.process
        key = (row.sandbox, (process.comm, process.exe) if process else None)
        found.setdefault(key, []).append(row)
    result = [
        ProcessRow(
            sandbox=group[0].sandbox,
            process=group[0].process,
            denied=sum(row.count for row in group if row.verdict is not Verdict.ALLOW),
            permitted=sum(row.count for row in group if row.verdict is Verdict.ALLOW),
            destinations=len(
                {(row.protocol, found) for row in group for found in row.addresses or (None,)}
            ),
            bytes_out=sum(row.bytes_out or 0 for row in group),
            bytes_in=sum(row.bytes_in or 0 for row in group),
        )
        for group in found.values()
    ]
    result.sort(key=lambda row: (-row.denied, -row.permitted))
    return tuple(result)
