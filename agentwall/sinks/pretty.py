# SPDX-License-Identifier: Apache-2.0
"""An audit report for people: colour on a terminal, plain text in a pipe, SVG for documents."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import IO

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentwall.engine.severity import Severity, severity_of
from agentwall.flow.verdict import Verdict
from agentwall.sinks.describe import (
    describe_bytes,
    describe_clock,
    describe_duration,
    describe_loss,
    describe_moment,
    describe_name,
    describe_place,
    describe_process,
    describe_program,
    describe_reason,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.report_rows import AuditReport, Bucket, FlowRow
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
from agentwall.sinks.targets import record_target

MAX_DENIALS = 40
MAX_OTHERS = 20
MAX_ERRORS = 20
PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""
_NARROW = 90
"""Below so many columns the cells of a row stand below each other."""
_BAR = 16

_SEVERITY_STYLES = {
    Severity.INFO: "dim",
    Severity.LOW: "yellow",
    Severity.MEDIUM: "bold yellow",
    Severity.HIGH: "bold red",
    Severity.CRITICAL: "bold white on red",
}
_VERDICT_STYLES = {
    Verdict.ALLOW: "green",
    Verdict.DENY: "bold red",
    Verdict.WOULD_DENY: "bold yellow",
    None: "",
}

_Line = tuple[str, str]
"""Text that is safe already, and its style."""


def make_console(stream: IO[str], *, width: int | None = None, record: bool = False) -> Console:
    """Return a console on *stream* that adds nothing of its own to what it is given."""
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        width=width or (None if is_terminal else PIPE_WIDTH),
        markup=False,
        emoji=False,
        highlight=False,
        record=record,
        force_terminal=True if record else None,
        color_system="truecolor" if record else "auto",
        legacy_windows=False,
    )


def print_report(report: AuditReport, console: Console) -> None:
    """Print *report* on *console*."""
    for section in _sections(report, console.options):
        console.print(section)


def format_plain(report: AuditReport, encoding: str, width: int = PIPE_WIDTH) -> str:
    """Return *report* as text without colour, in characters that *encoding* has, for a pipe."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    print_report(report, make_console(stream, width=width))
    stream.seek(0)
    # Tables fill their width with blanks, which a terminal needs and a file does not.
    return "".join(f"{line.rstrip()}\n" for line in stream)


def export_svg(report: AuditReport, *, title: str = "agentwall audit", width: int = 120) -> str:
    """Return *report* as an SVG picture of a terminal."""
    console = make_console(io.StringIO(), width=width, record=True)
    print_report(report, console)
    return console.export_svg(title=title)


def _sections(report: AuditReport, options: ConsoleOptions) -> Iterable[RenderableType]:
    is_narrow = options.max_width < _NARROW
    yield _head(report)
    yield from _denials(report, is_narrow)
    yield from _notes(report)
    yield from _permitted(report, is_narrow)
    yield from _processes(report)
    yield from _timeline(report, options.ascii_only)


def _head(report: AuditReport) -> RenderableType:
    phrases = [
        Text(words, style=_VERDICT_STYLES[verdict])
        for verdict, words in totals_words(report.totals, len(report.denials))
    ]
    lines = [Text(sources_words(report), style="bold"), Text("  ").join(phrases)]
    if period := period_words(report.totals):
        lines.append(Text(period, style="dim"))
    for row in report.sandboxes[:MAX_OTHERS]:
        line = Text("sandbox ").append(shorten(printable(row.sandbox.id), 60), style="bold")
        for words in sandbox_words(row):
            line.append(f"  {words}", style="yellow" if words == "coverage partial" else "")
        lines.append(line)
        if command := sandbox_command(row):
            lines.append(Text(f"  command: {command}", style="dim"))
        lines += [Text(f"  open: {printable(road)}", style="yellow") for road in row.open_roads]
    if note := unlisted_words(MAX_OTHERS, len(report.sandboxes), 0):
        lines.append(Text(note, style="dim"))
    return Group(*lines)


def _denials(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    if not report.denials:
        yield _title("Nothing was denied", "green")
        return
    yield _title("Denied", "bold red")
    table = _table()
    table.add_column("Severity", no_wrap=True)
    table.add_column("Times", justify="right", no_wrap=True)
    if is_narrow:
        table.add_column("What, who and why", ratio=1, overflow="fold")
    else:
        table.add_column("What and where to", ratio=6, overflow="fold")
        table.add_column("Who", ratio=4, overflow="fold")
        table.add_column("Why, and what would permit it", ratio=10, overflow="fold")
    several = len({row.sandbox for row in report.denials}) > 1
    groups = collapse(report.denials)
    for group in groups[:MAX_DENIALS]:
        severity, times, *rest = _denial(group, several)
        cells = [Text("\n").join(rest)] if is_narrow else rest
        table.add_row(severity, times, *cells)
    yield table
    yield from _remark(unlisted_words(MAX_DENIALS, len(groups), report.totals.unlisted_denials))


def _denial(group: RowGroup, several: bool) -> Iterable[Text]:
    row = group.first
    first_ns = min(each.first_ns for each in group.rows)
    yield Text(row.severity.label, style=_SEVERITY_STYLES[row.severity])
    yield _lines([(str(group.count), ""), (describe_clock(first_ns, 1_000_000_000), "dim")])
    yield _lines([(group_target(group), _VERDICT_STYLES[row.verdict]), (row_outcome(row), "dim")])
    who = [(group_process(group), "bold"), (describe_program(row.process), "dim")]
    if several:
        who.append((f"in {shorten(printable(row.sandbox), 40)}", "dim"))
    yield _lines(who)
    yield _lines([(describe_reason(row.reason), ""), (group_permit(group), "cyan")])


def _notes(report: AuditReport) -> Iterable[RenderableType]:
    if report.findings:
        yield _title("The wall itself", "bold red")
        for finding in report.findings[:MAX_ERRORS]:
            where = f"{describe_moment(finding.at_ns)} {printable(finding.evidence)}"
            yield _item(finding.severity, where)
    if report.errors:
        yield _title("The event log is damaged or incomplete", "bold yellow")
        for error in report.errors[:MAX_ERRORS]:
            yield _item(error.severity, printable(str(error)))
        unlisted = report.totals.unlisted_errors + len(report.errors) - MAX_ERRORS
        if unlisted > 0:
            yield from _remark(f"{unlisted} more")
    if report.gaps:
        yield _title("Events were lost", "bold yellow")
        for gap in report.gaps[:MAX_ERRORS]:
            what = f"{gap.lost} {describe_loss(gap.where)}"
            yield _item(severity_of(gap), f"{describe_moment(gap.time_ns)} {what}")
        if len(report.gaps) > MAX_ERRORS:
            yield from _remark(f"{len(report.gaps) - MAX_ERRORS} more")


def _permitted(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    if not report.permitted:
        return
    yield _title("Permitted", "bold green")
    table = _table()
    table.add_column("Times", justify="right", no_wrap=True)
    if is_narrow:
        table.add_column("What and who", ratio=1, overflow="fold")
    else:
        table.add_column("What and where to", ratio=5, overflow="fold")
        table.add_column("Who", ratio=4, overflow="fold")
        table.add_column("Out", justify="right", no_wrap=True)
        table.add_column("In", justify="right", no_wrap=True)
        table.add_column("Open for", justify="right", no_wrap=True)
        table.add_column("Rule", ratio=5, overflow="fold")
    for row in report.permitted[:MAX_OTHERS]:
        what, who, out, back, time, rule = _permitted_cells(row)
        if is_narrow:
            traffic = Text(f"{out} out, {back} in, {time}")
            table.add_row(str(row.count), Text("\n").join([what, who, traffic, rule]))
        else:
            table.add_row(str(row.count), what, who, out, back, time, rule)
    yield table
    yield from _remark(
        unlisted_words(MAX_OTHERS, len(report.permitted), report.totals.unlisted_permitted)
    )


def _permitted_cells(row: FlowRow) -> Iterable[Text]:
    yield Text(row_target(row), style="green")
    yield Text(group_process(RowGroup((row,))), style="bold")
    yield Text(describe_bytes(row.bytes_out))
    yield Text(describe_bytes(row.bytes_in))
    yield Text(describe_duration(row.duration_ns))
    yield Text(describe_place(row.reason) or describe_reason(row.reason), style="dim")


def _processes(report: AuditReport) -> Iterable[RenderableType]:
    if len(report.processes) < 2:
        return
    yield _title("By program", "bold")
    table = _table()
    table.add_column("Program", ratio=1, overflow="fold")
    for name in ("Denied", "Permitted", "Addresses", "Out", "In"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.processes[:MAX_OTHERS]:
        table.add_row(
            Text(f"{describe_name(row.process)}  ").append(
                describe_program(row.process), style="dim"
            ),
            Text(str(row.denied), style="bold red" if row.denied else "dim"),
            Text(str(row.permitted), style="green" if row.permitted else "dim"),
            str(row.destinations),
            describe_bytes(row.bytes_out),
            describe_bytes(row.bytes_in),
        )
    yield table
    yield from _remark(unlisted_words(MAX_OTHERS, len(report.processes), 0))


def _timeline(report: AuditReport, is_ascii: bool) -> Iterable[RenderableType]:
    if not report.timeline:
        return
    yield _title(f"Timeline, steps of {describe_duration(report.step_ns)}, UTC", "bold")
    table = _table()
    table.add_column("From", no_wrap=True)
    table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("Denied", justify="right", no_wrap=True)
    table.add_column("Permitted", justify="right", no_wrap=True)
    table.add_column("First denial", ratio=1, overflow="fold")
    most = max(bucket.denied + bucket.permitted for bucket in report.timeline) or 1
    for bucket in report.timeline:
        table.add_row(
            describe_clock(bucket.start_ns, report.step_ns),
            _bar(bucket, most, "#" if is_ascii else "█", "=" if is_ascii else "█"),
            Text(str(bucket.denied), style="bold red" if bucket.denied else "dim"),
            Text(str(bucket.permitted), style="green" if bucket.permitted else "dim"),
            Text(_first_denial(bucket)),
        )
    yield table


def _bar(bucket: Bucket, most: int, denied_mark: str, permitted_mark: str) -> Text:
    denied = _share(bucket.denied, most)
    permitted = min(_share(bucket.permitted, most), _BAR - denied)
    return Text(denied_mark * denied, style="red").append(permitted_mark * permitted, style="green")


def _share(count: int, most: int) -> int:
    return max(1, count * _BAR // most) if count else 0


def _first_denial(bucket: Bucket) -> str:
    record = bucket.first_denial
    if record is None:
        return ""
    return f"{describe_process(record.process)}: {record_target(record)}"


def _title(words: str, style: str) -> RenderableType:
    return Padding(Text(words, style=style), (1, 0, 0, 0))


def _table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0)
    )


def _lines(lines: Sequence[_Line]) -> Text:
    shown = [Text(words, style=style) for words, style in lines if words]
    return Text("\n").join(shown)


def _item(severity: Severity, words: str) -> Text:
    label = Text(f"  {severity.label:9}", style=_SEVERITY_STYLES[severity])
    return label.append(Text(words, style="default", overflow="fold"))


def _remark(words: str) -> Iterable[RenderableType]:
    if words:
        yield Text(words, style="dim")
