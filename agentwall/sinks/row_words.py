# SPDX-License-Identifier: Apache-2.0
"""The words for rows of a report that tables and markdown share. Pure; one line each, escaped."""

from __future__ import annotations

from collections.abc import Iterator

from agentwall.flow.verdict import Direction, Verdict
from agentwall.net.ports import protocol_name
from agentwall.sinks.describe import (
    describe_address,
    describe_bytes,
    describe_count,
    describe_exit,
    describe_hook,
    describe_moment,
    describe_name,
    describe_process,
    describe_program,
    describe_verdict,
    has_ports,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.report_rows import (
    WALL,
    AuditReport,
    CaptureFlaw,
    FlowRow,
    ProcessRow,
    SandboxRow,
    Totals,
)
from agentwall.sinks.scans import RowGroup
from agentwall.sinks.targets import Target, describe_host, describe_question, describe_target


def row_target(row: FlowRow) -> str:
    """Return what was tried and where to, with the name of the address where it is known."""
    return describe_target(
        Target(
            direction=row.direction,
            protocol=row.protocol,
            remote=row.remote,
            port=row.port,
            socket_type=row.socket_type,
            code=row.reason.code,
            name=row.name,
            question=row.question,
            others=len(row.addresses) - 1,
        )
    )


def group_target(group: RowGroup) -> str:
    """Return what was tried and where to, over all rows of *group*."""
    row = group.first
    name = protocol_name(row.protocol)
    if group.addresses is not None:
        low, high = group.addresses
        port = f" port {row.port}" if has_ports(row.protocol) else ""
        way = "from" if row.direction is Direction.IN else "at"
        return f"{name}{port} {way} {len(group.rows)} addresses, {low} to {high}"
    if group.ports is not None and row.remote is not None:
        way = "from " if row.direction is Direction.IN else ""
        low_port, high_port = group.ports
        count = f"{len(group.rows)} ports, {low_port} to {high_port}"
        host = describe_host(row.name) if row.name else row.remote.address
        return f"{name} {way}{host}, {count}"
    if group.questions and row.question is not None and row.remote is not None:
        first = describe_question(row.question)
        many = f"{group.questions} DNS questions"
        return f"{many} to {row.remote.address}, the first for {first}"
    return row_target(row)


def group_permit(group: RowGroup) -> str:
    """Return what would permit the rows of *group*."""
    text = printable(group.first.permit or "")
    if not text.startswith("under "):
        return text
    others = len(group.rows) - 1
    return text.removeprefix("under ") + (f" and {others} more like it" if others else "")


def row_outcome(row: FlowRow) -> str:
    """Return the verdict, where it fell and what the application saw.

    ``denied (connect, EPERM)``.
    """
    seen = dict.fromkeys(
        describe_hook(hook, row.errno if index == 0 else None)
        for index, hook in enumerate(row.hooks)
    )
    text = f"{describe_verdict(row.verdict)} ({'; '.join(seen)})"
    if row.claimed is not None:
        text += f", asked for {describe_address(row.claimed.address, row.claimed.port)}"
    return text


def group_process(group: RowGroup) -> str:
    """Return the process of *group* and how many more of its name; of captures the client."""
    if group.first.process is None:
        return client_name(group.first.sandbox)
    others = len({pid for row in group.rows for pid in row.pids}) - 1
    more = f" and {others} more" if others > 0 else ""
    return f"{describe_process(group.first.process)}{more}"


def program_name(row: ProcessRow) -> str:
    """Return the name of a program; of captures the client."""
    return describe_name(row.process) if row.process else client_name(row.sandbox)


def programs_words(report: AuditReport) -> Iterator[tuple[ProcessRow, str]]:
    """Yield each program with where it lies, and in which sandbox it is where there are several."""
    several = len({row.sandbox for row in report.processes}) > 1
    for row in report.processes:
        where = f"in {client_name(row.sandbox)}" if several and row.process is not None else ""
        yield row, "  ".join(filter(None, (describe_program(row.process), where)))


def client_name(sandbox: str) -> str:
    """Return what stands where no process is known: a sandbox's id, or a capture's client."""
    return shorten(printable(sandbox), 60) or describe_name(None)


def findings_words(report: AuditReport) -> str:
    """Return how much was recognised; nothing where nothing was and only events were read."""
    rows = [row for row in report.findings if row.kind != WALL]
    found = sum(row.count for row in rows)
    if not found and not report.captures.count:
        return ""
    more = "+" if report.totals.unlisted_findings else ""
    words = f"{found}{more} findings" if more else describe_count(found, "finding")
    cut = sum(row.count for row in rows if row.verdict is Verdict.DENY)
    return f"{words}, {cut} cut off" if cut else words


def nothing_denied(report: AuditReport) -> str:
    """Return what stands where a table of denials would, if there are none."""
    is_cut = any(row.verdict is Verdict.DENY for row in report.findings)
    return "Nothing else was denied" if is_cut else "Nothing was denied"


def errors_title(report: AuditReport) -> str:
    """Return the heading of what is wrong with the inputs."""
    if all(isinstance(error, CaptureFlaw) for error in report.errors):
        return "Captures are damaged or incomplete"
    if any(isinstance(error, CaptureFlaw) for error in report.errors):
        return "Inputs are damaged or incomplete"
    return "The event log is damaged or incomplete"


def totals_words(totals: Totals, distinct: int) -> Iterator[tuple[Verdict | None, str]]:
    """Yield the sums of a report as phrases, each with the verdict it is about."""
    if totals.denied or not totals.would_denied:
        yield Verdict.DENY, f"{totals.denied} denied"
    if totals.would_denied:
        yield Verdict.WOULD_DENY, f"{totals.would_denied} would be denied"
    if distinct:
        yield None, f"{distinct}{'+' if totals.unlisted_denials else ''} distinct"
    yield Verdict.ALLOW, f"{totals.permitted} permitted"
    yield None, f"{describe_bytes(totals.bytes_out)} out"
    yield None, f"{describe_bytes(totals.bytes_in)} in"
    if totals.probes:
        yield None, describe_count(totals.probes, "probe")
    if totals.lost:
        yield None, f"{describe_count(totals.lost, 'event')} lost"


def period_words(totals: Totals) -> str:
    """Return from when to when, in UTC, or nothing if no flow was seen."""
    if totals.first_ns is None or totals.last_ns is None:
        return ""
    first, last = describe_moment(totals.first_ns), describe_moment(totals.last_ns)
    if first == last:
        return f"{first} UTC"
    return f"{first} to {last.removeprefix(first[:11])} UTC"


def sandbox_words(row: SandboxRow) -> Iterator[str]:
    """Yield what is known of a sandbox, a phrase each: policy, coverage, end, labels."""
    if row.policy is not None:
        mode = f" ({printable(row.mode)})" if row.mode else ""
        yield f"policy {printable(row.policy)}{mode}"
    if row.coverage is not None:
        yield f"coverage {printable(row.coverage)}"
    if row.exit_code is not None:
        yield describe_exit(row.exit_code)
    elif row.finished_ns is None:
        yield "not finished"
    if row.sandbox.labels:
        pairs = (f"{key}={value}" for key, value in row.sandbox.labels.items())
        yield shorten(printable(" ".join(pairs)), 100)


def sandbox_command(row: SandboxRow) -> str:
    """Return the command that ran inside, or nothing."""
    return shorten(printable(" ".join(row.command)), 200)


def unlisted_words(shown: int, total: int, unlisted: int) -> str:
    """Return the note under a table that does not show everything, or nothing."""
    parts = []
    if total > shown:
        parts.append(f"{total - shown} more rows; --format json lists them")
    if unlisted:
        parts.append(f"{unlisted} more attempts counted but not listed")
    return "; ".join(parts)


def sources_words(report: AuditReport) -> str:
    """Return how many events and captures came from where."""
    shown = ", ".join(shorten(printable(source), 60) for source in report.sources[:3])
    more = len(report.sources) - 3
    text = f"{shown} and {more} more" if more > 0 else shown
    captures = report.captures
    parts = []
    if captures.count:
        packets = describe_count(captures.packets, "packet")
        flows = describe_count(captures.conversations, "flow")
        parts.append(f"{describe_count(captures.count, 'capture')} ({packets}, {flows})")
    if report.events or not captures.count:
        parts.append(describe_count(report.events, "event"))
    return f"{' and '.join(parts)} from {text}"
