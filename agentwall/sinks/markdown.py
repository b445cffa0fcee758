# SPDX-License-Identifier: Apache-2.0
"""An audit report as GitHub-flavoured markdown. Pure.

Whatever a sandbox or a file chose stands in a code span. Nothing in a code span is markup, and
the two characters that could end one or its table cell, the backquote and the bar, are escaped as
control characters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentwall.sinks.describe import (
    describe_bytes,
    describe_duration,
    describe_loss,
    describe_moment,
    describe_name,
    describe_place,
    describe_program,
    describe_reason,
)
from agentwall.sinks.escape import escape, printable
from agentwall.sinks.report_rows import AuditReport
from agentwall.sinks.row_words import (
    group_permit,
    group_process,
    group_target,
    period_words,
    row_outcome,
    row_target,
    sandbox_command,
    sandbox_words,
    sources_words,
    totals_words,
    unlisted_words,
)
from agentwall.sinks.scans import RowGroup, collapse

MAX_ROWS = 200
_UNSAFE = str.maketrans({character: escape(character) for character in "`|"})


def format_markdown(report: AuditReport) -> str:
    """Return *report* as a markdown document."""
    return "\n".join(_document(report)) + "\n"


def code(text: str) -> str:
    """Return *text* as a code span that it cannot leave; a dash if it is empty."""
    safe = printable(text).translate(_UNSAFE).strip()
    return f"`{safe}`" if safe else "-"


def _document(report: AuditReport) -> Iterator[str]:
    yield "# agentwall audit"
    yield ""
    yield code(sources_words(report)) + "  "
    words = totals_words(report.totals, len(report.denials))
    yield ", ".join(phrase for _, phrase in words) + "  "
    yield period_words(report.totals)
    for row in report.sandboxes[:MAX_ROWS]:
        yield f"- sandbox {code(row.sandbox.id)}: {', '.join(map(code, sandbox_words(row)))}"
        if row.command:
            yield f"  - command {code(sandbox_command(row))}"
        yield from (f"  - open: {code(road)}" for road in row.open_roads)
    yield from _denials(report)
    yield from _notes(report)
    yield from _permitted(report)
    yield from _processes(report)
    yield from _timeline(report)


def _denials(report: AuditReport) -> Iterator[str]:
    if not report.denials:
        yield from ("", "Nothing was denied.")
        return
    groups = collapse(report.denials)
    rows = (
        (
            group.first.severity.label,
            str(group.count),
            f"{code(group_target(group))}<br>{code(row_outcome(group.first))}",
            f"{code(group_process(group))}<br>{code(describe_program(group.first.process))}",
            code(describe_reason(group.first.reason)),
            code(group_permit(group)),
        )
        for group in groups[:MAX_ROWS]
    )
    names = ("Severity", "Times", "What and where to", "Who", "Why", "What would permit it")
    yield from _table("Denied", names, rows)
    yield from _note(unlisted_words(MAX_ROWS, len(groups), report.totals.unlisted_denials))


def _notes(report: AuditReport) -> Iterator[str]:
    if report.findings:
        yield from ("", "## The wall itself", "")
        for finding in report.findings[:MAX_ROWS]:
            moment = describe_moment(finding.at_ns)
            yield f"- {finding.severity.label}: {moment} {code(finding.evidence)}"
    if report.errors:
        yield from ("", "## The event log is damaged or incomplete", "")
        for error in report.errors[:MAX_ROWS]:
            yield f"- {error.severity.label}: {code(str(error))}"
        yield from _note(
            unlisted_words(MAX_ROWS, len(report.errors) + report.totals.unlisted_errors, 0)
        )
    if report.gaps:
        yield from ("", "## Events were lost", "")
        for gap in report.gaps[:MAX_ROWS]:
            lost = f"{gap.lost} {describe_loss(gap.where)}"
            yield f"- {describe_moment(gap.time_ns)}: {code(lost)}"
        yield from _note(unlisted_words(MAX_ROWS, len(report.gaps), 0))


def _permitted(report: AuditReport) -> Iterator[str]:
    if not report.permitted:
        return
    rows = (
        (
            str(row.count),
            code(row_target(row)),
            code(group_process(RowGroup((row,)))),
            describe_bytes(row.bytes_out),
            describe_bytes(row.bytes_in),
            describe_duration(row.duration_ns),
            code(describe_place(row.reason) or describe_reason(row.reason)),
        )
        for row in report.permitted[:MAX_ROWS]
    )
    names = ("Times", "What and where to", "Who", "Out", "In", "Open for", "Rule")
    yield from _table("Permitted", names, rows)
    yield from _note(
        unlisted_words(MAX_ROWS, len(report.permitted), report.totals.unlisted_permitted)
    )


def _processes(report: AuditReport) -> Iterator[str]:
    if not report.processes:
        return
    rows = (
        (
            code(f"{describe_name(row.process)} {describe_program(row.process)}"),
            str(row.denied),
            str(row.permitted),
            str(row.destinations),
            describe_bytes(row.bytes_out),
            describe_bytes(row.bytes_in),
        )
        for row in report.processes[:MAX_ROWS]
    )
    names = ("Program", "Denied", "Permitted", "Addresses", "Out", "In")
    yield from _table("By program", names, rows)
    yield from _note(unlisted_words(MAX_ROWS, len(report.processes), 0))


def _timeline(report: AuditReport) -> Iterator[str]:
    if not report.timeline:
        return
    rows = (
        (describe_moment(bucket.start_ns), str(bucket.denied), str(bucket.permitted))
        for bucket in report.timeline
    )
    title = f"Timeline, steps of {describe_duration(report.step_ns)}"
    yield from _table(title, ("From (UTC)", "Denied", "Permitted"), rows)


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield "| " + " | ".join(names) + " |"
    yield "| " + " | ".join("---" for _ in names) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _note(words: str) -> Iterator[str]:
    if words:
        yield from ("", f"{words}.")
