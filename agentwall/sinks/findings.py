# SPDX-License-Identifier: Apache-2.0
"""Detections, and what captures hold, into the findings of a report. Pure.

Equal detections of one program are one row, and so are the findings of one class in one flow of a
capture. Memory is bounded; what finds no room is counted, and the most serious one is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from agentwall.engine.severity import severity_of
from agentwall.flow.finding import Confidence, Finding, Stage
from agentwall.flow.record import DetectionRecord, StateRecord
from agentwall.flow.verdict import Direction, Reason, Verdict
from agentwall.sinks.escape import shorten
from agentwall.sinks.evidence import clip
from agentwall.sinks.remedy import remedy_for_finding
from agentwall.sinks.report_rows import WALL, FindingRow, FlowEnds

MAX_ROWS = 10_000
MAX_CHARS = 32_000_000
"""Of all the text that rows keep."""
_MAX_TEXT = 200
_MAX_ALSO = 8
_SUREST = (Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW)
_GRAVEST = (Verdict.DENY, Verdict.WOULD_DENY, Verdict.ALLOW, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a policy makes of a finding in a capture."""

    verdict: Verdict
    """WOULD_DENY where it blocks, or denies the flow whatever is said in it."""
    response: str
    reason: Reason
    is_denied: bool = False
    """The rules deny the flow."""


class FindingTable:
    """Takes findings in any order."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, FindingRow] = {}
        self._chars = 0
        self.unlisted = 0
        """Findings for which there was no room."""

    def rows(self) -> tuple[FindingRow, ...]:
        """Return what was found, most serious and surest first, then in order of time."""
        return tuple(
            sorted(
                self._rows.values(),
                key=lambda row: (-row.severity, _rank(row.confidence), row.at_ns or 0),
            )
        )

    def add_wall(self, source: str, record: StateRecord) -> None:
        """Take a record that says that the wall itself is broken."""
        what = shorten(str(record.detail.get("what")), _MAX_TEXT)
        row = FindingRow(
            source=source,
            kind=WALL,
            severity=severity_of(record),
            sandbox=record.sandbox.id,
            at_ns=record.time_ns,
            last_ns=record.time_ns,
            evidence={"what": what},
        )
        self._add((WALL, source, record.sandbox.id, record.mono_ns, what), row)

    def add_detection(self, source: str, record: DetectionRecord) -> None:
        """Take an event."""
        finding = record.finding
        flow = None
        if record.remote is not None:
            name = None if record.name is None else shorten(record.name, 256)
            flow = FlowEnds(
                direction=record.direction,
                protocol=record.protocol,
                local=record.local,
                remote=record.remote,
                name=name,
            )
        row = _row(
            source,
            finding,
            flow,
            Judged(verdict=record.verdict, response=record.response, reason=record.reason),
        )
        row = replace(
            row,
            sandbox=record.sandbox.id,
            process=record.process,
            bytes_left=record.bytes_left,
            count=record.count,
            at_ns=record.time_ns,
            last_ns=record.time_ns,
        )
        self._add((source, *_detection_key(record)), row)

    def add_captured(
        self,
        source: str,
        finding: Finding,
        flow: FlowEnds | None,
        *,
        judged: Judged | None,
        at_ns: int | None = None,
    ) -> None:
        """Take what was found in a capture.

        Args:
            source: The capture.
            finding: What was found.
            flow: Where; None where it is about several flows of one client.
            judged: What a policy says of it, if one was given.
            at_ns: When, where *flow* does not say it; UTC.
        """
        row = _row(source, finding, flow, judged)
        if flow is not None:
            row = replace(row, at_ns=flow.begin_ns, last_ns=flow.end_ns)
            ends = (flow.protocol, flow.local, flow.remote, flow.begin_ns)
            self._add((source, finding.cls, ends), row)
        else:
            row = replace(row, at_ns=at_ns, last_ns=at_ns)
            who = (finding.dialect, str(finding.evidence.get("client")))
            self._add((source, finding.cls, who), row)

    def _add(self, key: Hashable, row: FindingRow) -> None:
        before = self._rows.get(key)
        if before is not None:
            self._rows[key] = _join(before, row)
        elif len(self._rows) < MAX_ROWS and self._chars < MAX_CHARS:
            self._chars += _text_size(row)
            self._rows[key] = row
        else:
            self.unlisted += 1
            # The exit code goes by the most serious one.
            if row.severity > max(kept.severity for kept in self._rows.values()):
                self._rows.popitem()
                self._rows[key] = row


def _text_size(row: FindingRow) -> int:
    process = row.process
    texts = (process.comm, process.exe or "", *(process.argv or ())) if process else ()
    return len(str(row.evidence)) + sum(map(len, texts))


def _row(source: str, finding: Finding, flow: FlowEnds | None, judged: Judged | None) -> FindingRow:
    remedy = None
    if judged is not None and not judged.is_denied:
        remedy = shorten(remedy_for_finding(finding, judged.verdict, judged.reason), 400)
    return FindingRow(
        source=source,
        kind=finding.cls.value,
        signature=shorten(finding.signature, _MAX_TEXT),
        dialect=shorten(finding.dialect, _MAX_TEXT),
        severity=finding.severity,
        confidence=finding.confidence,
        stage=finding.stage,
        verdict=judged.verdict if judged else None,
        response=shorten(judged.response, _MAX_TEXT) if judged else None,
        flow=flow,
        reason=judged.reason if judged else None,
        at_ns=None,
        last_ns=None,
        evidence=clip(finding.evidence),
        remedy=remedy,
    )


def detection_key(record: DetectionRecord) -> int:
    """Return a number that is the same for equal detections; texts may be long, it is not."""
    return hash(_detection_key(record))


def _detection_key(record: DetectionRecord) -> tuple[Hashable, ...]:
    process, finding = record.process, record.finding
    remote = record.remote
    # A visitor's own port is another one each time, and so is the sandbox's own outward.
    if record.direction is Direction.IN:
        port = record.local.port if record.local is not None else 0
    else:
        port = remote.port if remote is not None else 0
    # A scan is of the whole sandbox: who made the attempt that completed it is chance. But what was
    # said inside TLS was said by somebody, also where its flow is not known.
    inside = str(finding.evidence.get("inside", ""))
    is_one = remote is not None or bool(inside)
    who = (process.comm, process.exe) if process is not None and is_one else None
    return (
        record.sandbox.id,
        who,
        record.direction,
        record.protocol,
        remote.address if remote is not None else None,
        port,
        finding.cls,
        finding.dialect,
        finding.signature,
        # One behaviour in two zones, or towards two names, is two things.
        str(finding.evidence.get("zone", "")),
        inside,
        record.verdict,
        record.response,
        record.reason if is_one else None,
    )


def _join(left: FindingRow, right: FindingRow) -> FindingRow:
    """Return two rows of one key as one: the surest leads, and lacks nothing that the other has."""
    same = left.signature == right.signature and left.dialect == right.dialect
    best, other = sorted((left, right), key=_order)
    if same and right.stage is Stage.BEHAVIOUR:
        # Told again, its numbers have grown.
        best, other = right, left
    evidence = {**other.evidence, **best.evidence}
    if "contradicted" not in best.evidence:
        evidence.pop("contradicted", None)
    also = _also(best.evidence) + _also(other.evidence)
    if other.signature is not None:
        also.append(other.signature)
    others = [each for each in dict.fromkeys(also) if each != best.signature][:_MAX_ALSO]
    if others:
        evidence["also"] = others
    leading = min(left, right, key=lambda row: _GRAVEST.index(row.verdict))
    return replace(
        best,
        severity=max(left.severity, right.severity),
        verdict=leading.verdict,
        response=leading.response,
        reason=leading.reason,
        remedy=best.remedy if best.verdict is leading.verdict else leading.remedy,
        bytes_left=_most(left.bytes_left, right.bytes_left),
        count=left.count + (right.count if same else 0),
        at_ns=_least(left.at_ns, right.at_ns),
        last_ns=_most(left.last_ns, right.last_ns),
        evidence=evidence,
        process=left.process,
    )


def _order(row: FindingRow) -> tuple[int, int]:
    return _rank(row.confidence), -row.severity


def _rank(confidence: Confidence | None) -> int:
    return 0 if confidence is None else _SUREST.index(confidence)


def _also(evidence: Mapping[str, object]) -> list[str]:
    also = evidence.get("also")
    return [each for each in also if isinstance(each, str)] if isinstance(also, list) else []


def _least(left: int | None, right: int | None) -> int | None:
    known = [each for each in (left, right) if each is not None]
    return min(known, default=None)


def _most(left: int | None, right: int | None) -> int | None:
    known = [each for each in (left, right) if each is not None]
    return max(known, default=None)
