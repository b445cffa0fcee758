# SPDX-License-Identifier: Apache-2.0
"""The words for what was recognised, in lines of ``run`` and in reports. Pure.

Everything returned is one line and safe on a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from agentwall.flow.finding import Stage
from agentwall.flow.record import DetectionRecord
from agentwall.flow.verdict import Direction, Reason, ReasonCode, Verdict
from agentwall.net.ports import protocol_name
from agentwall.policy.model import Response
from agentwall.sinks.describe import (
    describe_bytes,
    describe_place,
    describe_process,
    describe_program,
    describe_reason,
    has_ports,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.evidence import describe_evidence, describe_excerpt
from agentwall.sinks.finding_groups import FindingGroup
from agentwall.sinks.remedy import remedy_for_finding
from agentwall.sinks.report_rows import WALL, AuditReport, FindingRow, FlowEnds
from agentwall.sinks.targets import Target, describe_host, describe_target

_MAX_SOURCE = 40
_BY = {
    Stage.SIGNATURE: "its signature",
    Stage.DECODER: "a decoder",
    Stage.BEHAVIOUR: "its behaviour",
    Stage.INDICATOR: "a listed name",
}
_CUTTING = tuple(each.value for each in Response if each.cuts)
_PERMITS = (ReasonCode.RULE, ReasonCode.SIGNATURE)
"""Reasons whose rule, if there is one, permits the flow."""


def detection_line(record: DetectionRecord) -> str:
    """Return one line: what, where, who, what came of it, which rule permits, what would let it.

    ``detected mining (stratum-v1) in tcp 203.0.113.10:3333 by python3[123]: cut off by its
    signature before any of it was out; permitted by rl:allow[0] at rl.yaml:12; to let it pass,
    ...``.
    """
    finding = record.finding
    what = f"detected {finding_kind(finding.cls.value, finding.dialect, finding.evidence)}"
    if record.remote is not None:
        ends = FlowEnds(
            direction=record.direction,
            protocol=record.protocol,
            local=record.local,
            remote=record.remote,
            name=record.name,
        )
        what += f" in {describe_ends(ends)}"
    outcome = describe_outcome(
        record.verdict,
        finding.stage,
        record.bytes_left,
        record.direction,
        is_text=is_inside(finding.evidence),
    )
    is_flowless = record.remote is None and record.verdict is Verdict.ALLOW
    if is_inside(finding.evidence) and is_flowless and record.response in _CUTTING:
        outcome = f"found by {_BY[finding.stage]}: its flow is not known, and is refused once it is"
    parts = [f"{what} by {describe_process(record.process)}: {outcome}"]
    if finding.stage is Stage.BEHAVIOUR:
        parts.append(describe_evidence(finding.evidence, 160))
    if record.remote is not None or is_inside(finding.evidence):
        parts.append(describe_permit(record.reason))
    remedy = printable(remedy_for_finding(finding, record.verdict, record.reason))
    parts.append(f"{_aim(record.verdict)} {remedy}")
    return "; ".join(part for part in parts if part)


def _aim(verdict: Verdict | None) -> str:
    return "to silence it," if verdict is Verdict.ALLOW else "to let it pass,"


def describe_kind(kind: str, dialect: str | None) -> str:
    """Return ``mining (stratum-v1)``."""
    words = printable(kind.replace("_", " "))
    return f"{words} ({printable(dialect)})" if dialect else words


def finding_kind(kind: str, dialect: str | None, evidence: Mapping[str, object]) -> str:
    """Return ``mining (stratum-v1)``, and where it was said inside TLS that it was."""
    words = describe_kind(kind, dialect)
    return f"{words} inside TLS" if is_inside(evidence) else words


def is_inside(evidence: Mapping[str, object]) -> bool:
    """Say whether *evidence* is of what was said inside TLS."""
    return evidence.get("inside") == "tls"


def describe_ends(flow: FlowEnds, others: int = 0) -> str:
    """Return where a flow leads, as denials say it; *others* are further addresses of its name."""
    local = flow.local.port if flow.local is not None else 0
    return describe_target(
        Target(
            direction=flow.direction,
            protocol=flow.protocol,
            remote=flow.remote,
            port=local if flow.direction is Direction.IN else flow.remote.port,
            socket_type=0,
            code=ReasonCode.RULE,
            name=flow.name,
            question=None,
            others=others,
        )
    )


def describe_outcome(
    verdict: Verdict | None,
    stage: Stage | None,
    left: int | None,
    direction: Direction,
    *,
    is_text: bool = False,
) -> str:
    """Return what became of it: ``cut off by its signature before any of it was out``.

    Args:
        verdict: None: nothing judged it.
        stage: What found it.
        left: How many bytes had passed before.
        direction: Who opened the flow.
        is_text: *left* counts text inside TLS, not what crossed the network.
    """
    by = _BY[stage] if stage is not None else "its signature"
    if verdict is Verdict.ALLOW:
        return f"an alert by {by}: nothing was cut off"
    if verdict is Verdict.WOULD_DENY:
        return f"would be cut off by {by}"
    if verdict is None:
        return f"found by {by}"
    way = "out" if direction is Direction.OUT else "through"
    if left is None:
        return f"cut off by {by}"
    if left == 0:
        return f"cut off by {by} before any of it was {way}"
    what = "its text" if is_text else "it"
    return f"cut off by {by} after {describe_bytes(left)} of {what} were {way}"


def describe_permit(reason: Reason) -> str:
    """Return which rule at which ``file:line`` permits the flow, or why nothing does."""
    if reason.rule is not None and reason.code in _PERMITS and ":deny[" not in reason.rule:
        place = describe_place(reason)
        rule = printable(reason.rule)
        return f"permitted by {rule} at {place}" if place else f"permitted by {rule}"
    if reason.code in _PERMITS and reason.rule is None:
        return ""
    return describe_reason(reason)


def group_flow(group: FindingGroup) -> str:
    """Return where the flows of *group* lead; nothing where it is about no single flow."""
    flow = group.first.flow
    if flow is None:
        return ""
    addresses, ports = group.addresses, group.ports
    if len(addresses) > 1 and flow.name is None:
        port = f" port {ports[0]}" if has_ports(flow.protocol) and len(ports) == 1 else ""
        way = "from" if flow.direction is Direction.IN else "at"
        span = f"{addresses[0]} to {addresses[-1]}"
        return f"{protocol_name(flow.protocol)}{port} {way} {len(addresses)} addresses, {span}"
    if len(ports) > 1 and flow.direction is Direction.OUT:
        host = describe_host(flow.name) if flow.name else str(flow.remote.address)
        return f"{protocol_name(flow.protocol)} {host}, {len(ports)} ports"
    return describe_ends(flow, len(addresses) - 1)


def group_outcome(group: FindingGroup) -> str:
    """Return what became of the flows of *group*."""
    row = group.first
    if row.verdict is Verdict.WOULD_DENY and row.remedy is None and row.stage is not None:
        return f"found by {_BY[row.stage]}; the flow itself would be denied"
    direction = row.flow.direction if row.flow is not None else Direction.OUT
    left = max(
        (each.bytes_left for each in group.rows if each.bytes_left is not None), default=None
    )
    is_text = is_inside(row.evidence)
    return describe_outcome(row.verdict, row.stage, left, direction, is_text=is_text)


def group_who(group: FindingGroup) -> tuple[str, str]:
    """Return who did it, and more about that: a process and its program, or a client."""
    row = group.first
    if row.sandbox is not None:
        others = len({each.process.pid for each in group.rows if each.process is not None}) - 1
        more = f" and {others} more" if others > 0 else ""
        return f"{describe_process(row.process)}{more}", describe_program(row.process)
    local = row.flow.local if row.flow is not None else None
    client = str(local.address) if local is not None else printable(str(row.evidence.get("client")))
    return client, describe_source(row.source)


def describe_source(source: str) -> str:
    """Return the last part of a file's name."""
    return shorten(printable(PurePath(source).name or source), _MAX_SOURCE)


def finding_grounds(row: FindingRow, limit: int = 240) -> list[str]:
    """Return how sure it is and by which signature, then the numbers, then what was said."""
    sure = f"{row.confidence.value} confidence" if row.confidence is not None else ""
    signature = printable(row.signature or "")
    evidence = {key: value for key, value in row.evidence.items() if key != "client" or row.flow}
    excerpt = describe_excerpt(row.evidence, limit)
    lines = [
        ", ".join(part for part in (signature, sure) if part),
        describe_evidence(evidence, limit),
        f'"{excerpt}"' if excerpt else "",
    ]
    return [line for line in lines if line]


def finding_remedy(row: FindingRow) -> str:
    """Return which rule permits it and what would let it pass, in one line; or nothing."""
    permit = describe_permit(row.reason) if row.reason is not None and row.flow is not None else ""
    remedy = f"{_aim(row.verdict)} {printable(row.remedy)}" if row.remedy else ""
    return "; ".join(part for part in (permit, remedy) if part)


def findings_of(report: AuditReport) -> list[FindingRow]:
    """Return what is not about the wall itself."""
    return [row for row in report.findings if row.kind != WALL]


def wall_words(row: FindingRow) -> str:
    """Return what is wrong with the wall of which sandbox."""
    return printable(f"{row.sandbox}: {row.evidence.get('what')}")
