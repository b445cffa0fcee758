# SPDX-License-Identifier: Apache-2.0
"""An audit report for people: colour on a terminal, plain text in a pipe, SVG for documents."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from itertools import islice
from typing import IO

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from agentwall.engine.severity import severity_of
from agentwall.sinks.describe import (
    describe_bytes,
    describe_clock,
    describe_duration,
    describe_loss,
    describe_moment,
    describe_place,
    describe_process,
    describe_program,
    describe_reason,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.finding_words import findings_of, wall_words
from agentwall.sinks.pretty_findings import findings_section
from agentwall.sinks.pretty_parts import (
    SEVERITY_STYLES,
    VERDICT_STYLES,
    grouped_table,
    item,
    lines,
    remark,
    table,
    title,
)
from agentwall.sinks.pretty_tls import tls_section
from agentwall.sinks.report_rows import WALL, AuditReport, Bucket, FlowRow
from agentwall.sinks.row_words import (
    client_name,
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
from agentwall.sinks.targets import record_target

MAX_DENIALS = 40
MAX_OTHERS = 20
MAX_ERRORS = 20
PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""
_NARROW = 90
"""Below so many columns the cells of a row stand below each other."""
_BAR = 16
_FONTS = 2
_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


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


def export_svg(report: AuditReport, *, name: str = "agentwall audit", width: int = 120) -> str:
    """Return *report* as an SVG picture of a terminal; whoever looks at it fetches nothing."""
    console = make_console(io.StringIO(), width=width, record=True)
    print_report(report, console)
    # Rich names fonts of a public host; they stand before all that a sandbox has chosen.
    return _FONT.sub("", console.export_svg(title=name), count=_FONTS)


def _sections(report: AuditReport, options: ConsoleOptions) -> Iterable[RenderableType]:
    is_narrow = options.max_width < _NARROW
    yield _head(report)
    yield from findings_section(report, is_narrow)
    if report.is_judged:
        yield from _denials(report, is_narrow)
    yield from _notes(report)
    yield from tls_section(report, is_narrow)
    yield from _permitted(report, is_narrow)
    yield from _processes(report)
    yield from _timeline(report, options.ascii_only)


def _head(report: AuditReport) -> RenderableType:
    phrases = []
    if found := findings_words(report):
        phrases.append(Text(found, style="bold red" if findings_of(report) else "green"))
    if report.is_judged:
        phrases += [
            Text(words, style=VERDICT_STYLES[verdict])
            for verdict, words in totals_words(report.totals, len(report.denials))
        ]
    shown = [Text(sources_words(report), style="bold"), Text("  ").join(phrases)]
    if period := period_words(report.totals):
        shown.append(Text(period, style="dim"))
    for row in report.sandboxes[:MAX_OTHERS]:
        line = Text("sandbox ").append(shorten(printable(row.sandbox.id), 60), style="bold")
        for words in sandbox_words(row):
            line.append(f"  {words}", style="yellow" if words == "coverage partial" else "")
        shown.append(line)
        if command := sandbox_command(row):
            shown.append(Text(f"  command: {command}", style="dim"))
        shown += [Text(f"  open: {printable(road)}", style="yellow") for road in row.open_roads]
    if note := unlisted_words(MAX_OTHERS, len(report.sandboxes), 0):
        shown.append(Text(note, style="dim"))
    return Group(*shown)


def _denials(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    if not report.denials:
        yield title(nothing_denied(report), "green")
        return
    yield title("Denied", "bold red")
    several = len({row.sandbox for row in report.denials}) > 1
    groups = collapse(report.denials)
    yield grouped_table(
        "What, who and why",
        ("What and where to", "Who", "Why, and what would permit it"),
        (_denial(group, several) for group in groups[:MAX_DENIALS]),
        is_narrow=is_narrow,
    )
    yield from remark(unlisted_words(MAX_DENIALS, len(groups), report.totals.unlisted_denials))


def _denial(group: RowGroup, several: bool) -> Iterable[Text]:
    row = group.first
    first_ns = min(each.first_ns for each in group.rows)
    yield Text(row.severity.label, style=SEVERITY_STYLES[row.severity])
    yield lines([(str(group.count), ""), (describe_clock(first_ns, 1_000_000_000), "dim")])
    yield lines([(group_target(group), VERDICT_STYLES[row.verdict]), (row_outcome(row), "dim")])
    who = [(group_process(group), "bold"), (describe_program(row.process), "dim")]
    if several and row.process is not None:
        who.append((f"in {shorten(printable(row.sandbox), 40)}", "dim"))
    yield lines(who)
    yield lines([(describe_reason(row.reason), ""), (group_permit(group), "cyan")])


def _notes(report: AuditReport) -> Iterable[RenderableType]:
    walls = [row for row in report.findings if row.kind == WALL]
    if walls:
        yield title("The wall itself", "bold red")
        for row in walls[:MAX_ERRORS]:
            yield item(row.severity, f"{describe_moment(row.at_ns or 0)} {wall_words(row)}")
    if report.errors:
        yield title(errors_title(report), "bold yellow")
        for error in report.errors[:MAX_ERRORS]:
            yield item(error.severity, printable(str(error)))
        unlisted = report.totals.unlisted_errors + len(report.errors) - MAX_ERRORS
        if unlisted > 0:
            yield from remark(f"{unlisted} more")
    if report.gaps:
        yield title("Events were lost", "bold yellow")
        for gap in report.gaps[:MAX_ERRORS]:
            what = f"{gap.lost} {describe_loss(gap.where)}"
            yield item(severity_of(gap), f"{describe_moment(gap.time_ns)} {what}")
        if len(report.gaps) > MAX_ERRORS:
            yield from remark(f"{len(report.gaps) - MAX_ERRORS} more")


def _permitted(report: AuditReport, is_narrow: bool) -> Iterable[RenderableType]:
    if not report.permitted:
        return
    yield title("Permitted", "bold green")
    shown = table()
    shown.add_column("Times", justify="right", no_wrap=True)
    if is_narrow:
        shown.add_column("What and who", ratio=1, overflow="fold")
    else:
        shown.add_column("What and where to", ratio=5, overflow="fold")
        shown.add_column("Who", ratio=4, overflow="fold")
        shown.add_column("Out", justify="right", no_wrap=True)
        shown.add_column("In", justify="right", no_wrap=True)
        shown.add_column("Open for", justify="right", no_wrap=True)
        shown.add_column("Rule", ratio=5, overflow="fold")
    for row in report.permitted[:MAX_OTHERS]:
        what, who, out, back, time, rule = _permitted_cells(row)
        if is_narrow:
            traffic = Text(f"{out} out, {back} in, {time}")
            shown.add_row(str(row.count), Text("\n").join([what, who, traffic, rule]))
        else:
            shown.add_row(str(row.count), what, who, out, back, time, rule)
    yield shown
    yield from remark(
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
    yield title("By program", "bold")
    shown = table()
    shown.add_column("Program", ratio=1, overflow="fold")
    for name in ("Denied", "Permitted", "Addresses", "Out", "In"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row, where in islice(programs_words(report), MAX_OTHERS):
        shown.add_row(
            Text(f"{program_name(row)}  ").append(where, style="dim"),
            Text(str(row.denied), style="bold red" if row.denied else "dim"),
            Text(str(row.permitted), style="green" if row.permitted else "dim"),
            str(row.destinations),
            describe_bytes(row.bytes_out),
            describe_bytes(row.bytes_in),
        )
    yield shown
    yield from remark(unlisted_words(MAX_OTHERS, len(report.processes), 0))


def _timeline(report: AuditReport, is_ascii: bool) -> Iterable[RenderableType]:
    if not report.timeline:
        return
    yield title(f"Timeline, steps of {describe_duration(report.step_ns)}, UTC", "bold")
    shown = table()
    shown.add_column("From", no_wrap=True)
    shown.add_column("", width=_BAR, no_wrap=True)
    shown.add_column("Denied", justify="right", no_wrap=True)
    shown.add_column("Permitted", justify="right", no_wrap=True)
    shown.add_column("First denial", ratio=1, overflow="fold")
    most = max(bucket.denied + bucket.permitted for bucket in report.timeline) or 1
    for bucket in report.timeline:
        shown.add_row(
            describe_clock(bucket.start_ns, report.step_ns),
            _bar(bucket, most, "#" if is_ascii else "█", "=" if is_ascii else "█"),
            Text(str(bucket.denied), style="bold red" if bucket.denied else "dim"),
            Text(str(bucket.permitted), style="green" if bucket.permitted else "dim"),
            Text(_first_denial(bucket)),
        )
    yield shown


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
    who = describe_process(record.process) if record.process else client_name(record.sandbox.id)
    return f"{who}: {record_target(record)}"
