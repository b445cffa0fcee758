# SPDX-License-Identifier: Apache-2.0
"""The table of findings in a report for people: what was recognised, in what, by whom, and why."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from agentwall.sinks.describe import describe_moment
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.finding_groups import FindingGroup, collapse_findings
from agentwall.sinks.finding_words import (
    finding_grounds,
    finding_kind,
    finding_remedy,
    findings_of,
    group_flow,
    group_outcome,
    group_who,
)
from agentwall.sinks.pretty_parts import (
    SEVERITY_STYLES,
    VERDICT_STYLES,
    grouped_table,
    lines,
    remark,
    title,
)
from agentwall.sinks.report_rows import AuditReport
from agentwall.sinks.row_words import unlisted_words

MAX_FINDINGS = 40


def findings_section(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    """Yield the section of what was recognised; nothing if nothing was looked for."""
    rows = findings_of(report)
    if not rows:
        if report.captures.count:
            yield title("Nothing was found", "green")
        return
    yield title("Found", "bold red")
    remedies = any(row.remedy for row in rows)
    why = "Why, and what would let it pass" if remedies else "Why"
    several = len({row.sandbox for row in rows}) > 1
    groups = collapse_findings(rows)
    yield grouped_table(
        "What, where, who and why",
        ("What and where", "Who", why),
        (_finding(group, several) for group in groups[:MAX_FINDINGS]),
        is_narrow=is_narrow,
    )
    yield from remark(unlisted_words(MAX_FINDINGS, len(groups), report.totals.unlisted_findings))


def _finding(group: FindingGroup, several: bool) -> Iterable[Text]:
    row = group.first
    yield Text(row.severity.label, style=SEVERITY_STYLES[row.severity])
    first_ns = min((each.at_ns for each in group.rows if each.at_ns is not None), default=None)
    # Captures may be years old, and of different days.
    day, clock = describe_moment(first_ns).split() if first_ns is not None else ("", "")
    day = day if row.sandbox is None else ""
    yield lines([(str(group.count), ""), (day, "dim"), (clock, "dim")])
    style = VERDICT_STYLES[row.verdict] or SEVERITY_STYLES[row.severity]
    yield lines(
        [
            (finding_kind(row.kind, row.dialect, row.evidence), "bold"),
            (group_flow(group), style),
            (group_outcome(group), "dim"),
        ]
    )
    name, more = group_who(group)
    who = [(name, "bold"), (more, "dim")]
    if several and row.sandbox is not None:
        who.append((f"in {shorten(printable(row.sandbox), 40)}", "dim"))
    yield lines(who)
    grounds = [(words, "") for words in finding_grounds(row)]
    yield lines([*grounds, (finding_remedy(row), "cyan")])
