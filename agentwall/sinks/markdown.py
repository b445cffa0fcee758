# SPDX-License-Identifier: Apache-2.0
"""An audit report as GitHub-flavoured markdown. Pure.

Whatever a sandbox or a file chose stands in a code span. Nothing in a code span is markup, and
the two characters that could end one or its table cell, the backquote and the bar, are escaped as
control characters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from agentwall.sinks.describe import (
    describe_bytes,
    describe_duration,
    describe_loss,
    describe_moment,
    describe_place,
    describe_program,
    describe_reason,
)
from agentwall.sinks.escape import escape, printable
from agentwall.sinks.finding_groups import collapse_findings
from agentwall.sinks.finding_words import (
    finding_grounds,
    finding_kind,
    finding_remedy,
    findings_of,
    group_flow,
    group_outcome,
    group_who,
    wall_words,
)
from agentwall.sinks.report_rows import WALL, AuditReport
from agentwall.sinks.row_words import (
    errors_title,
    findings_words,
    group_permit,
    group_process,
    group_target,
    nothing_denied,
    period_words,
    program_name,
    programs_words,
    row_outcome,
    row_target,
    sandbox_command,
    sandbox_words,
    sources_words,
    totals_words,
    unlisted_words,
)
from agentwall.sinks.scans import RowGroup, collapse
from agentwall.sinks.tls_rows import (
    inside_words,
    tls_row_names,
    tls_row_where,
    tls_row_who,
    tls_row_why,
)

MAX_ROWS = 200
MAX_CELL = 400
"""Characters of each piece of evidence."""
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
    words = [findings_words(report)]
    if report.is_judged:
        words += [phrase for _, phrase in totals_words(report.totals, len(report.denials))]
    yield ", ".join(filter(None, words)) + "  "
    yield period_words(report.totals)
    for row in report.sandboxes[:MAX_ROWS]:
        yield f"- sandbox {code(row.sandbox.id)}: {', '.join(map(code, sandbox_words(row)))}"
        if row.command:
            yield f"  - command {code(sandbox_command(row))}"
        yield from (f"  - open: {code(road)}" for road in row.open_roads)
    yield from _findings(report)
    if report.is_judged:
        yield from _denials(report)
    yield from _notes(report)
    yield from _inside_tls(report)
    yield from _permitted(report)
    yield from _processes(report)
    yield from _timeline(report)


def _findings(report: AuditReport) -> Iterator[str]:
    rows = findings_of(report)
    if not rows:
        if report.captures.count:
            yield from ("", "Nothing was found.")
        return
    groups = collapse_findings(rows)
    cells = (
        (
            group.first.severity.label,
            str(group.count),
            _below(
                finding_kind(group.first.kind, group.first.dialect, group.first.evidence),
                group_flow(group),
                group_outcome(group),
            ),
            _below(*group_who(group)),
            _below(*finding_grounds(group.first, MAX_CELL)),
            code(finding_remedy(group.first)),
        )
        for group in groups[:MAX_ROWS]
    )
    names = ("Severity", "Times", "What and where", "Who", "Why", "What would let it pass")
    yield from _table("Found", names, cells)
    yield from _note(unlisted_words(MAX_ROWS, len(groups), report.totals.unlisted_findings))


def _below(*lines: str) -> str:
    return "<br>".join(code(line) for line in lines if line) or "-"


def _denials(report: AuditReport) -> Iterator[str]:
    if not report.denials:
        yield from ("", f"{nothing_denied(report)}.")
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
    walls = [row for row in report.findings if row.kind == WALL]
    if walls:
        yield from ("", "## The wall itself", "")
        for row in walls[:MAX_ROWS]:
            moment = describe_moment(row.at_ns or 0)
            yield f"- {row.severity.label}: {moment} {code(wall_words(row))}"
    if report.errors:
        yield from ("", f"## {errors_title(report)}", "")
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


def _inside_tls(report: AuditReport) -> Iterator[str]:
    inside = report.inside_tls
    if not inside.sessions:
        return
    yield from ("", "## Inside TLS", "", f"{inside_words(inside)}.")
    if not inside.not_read:
        return
    several = len({row.sandbox for row in inside.not_read}) > 1
    rows = (
        (
            str(row.sessions),
            _below(*tls_row_who(row), tls_row_where(row) if several else ""),
            code(tls_row_names(row)),
            _below(*tls_row_why(row)),
        )
        for row in inside.not_read[:MAX_ROWS]
    )
    yield from _table("Not read inside TLS", ("Sessions", "Who", "Server names", "Why"), rows)
    yield from _note(unlisted_words(MAX_ROWS, len(inside.not_read), inside.unlisted))


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
            code(f"{program_name(row)} {where}"),
            str(row.denied),
            str(row.permitted),
            str(row.destinations),
            describe_bytes(row.bytes_out),
            describe_bytes(row.bytes_in),
        )
        for row, where in islice(programs_words(report), MAX_ROWS)
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
