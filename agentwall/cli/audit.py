# SPDX-License-Identifier: Apache-2.0
"""``agentwall audit``: event files in, a report out. Needs no root and no policy."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path

import click

from agentwall.cli.event_files import read_all
from agentwall.cli.failures import EXIT_USAGE, print_lines
from agentwall.engine.severity import Severity
from agentwall.flow.verdict import Verdict
from agentwall.sinks.audit_json import encode_report
from agentwall.sinks.markdown import format_markdown
from agentwall.sinks.pretty import export_svg, format_plain, make_console, print_report
from agentwall.sinks.report import Filters, ReportBuilder
from agentwall.sinks.report_rows import AuditReport
from agentwall.sinks.rfc3339 import NS_PER_S, parse_time

EXIT_FOUND = 1
NEVER = "never"
_AGO = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class SinceType(click.ParamType[int]):
    """A moment: RFC 3339, or how long ago. Converts to nanoseconds since 1970."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the moment that *value* stands for."""
        text = str(value)
        if match := _AGO.fullmatch(text):
            return time.time_ns() - int(match[1]) * _AGO_S[match[2]] * NS_PER_S
        try:
            return parse_time(text)
        except ValueError:
            self.fail(
                f"expected a time such as 2026-01-31T12:00:00Z, or 30s, 10m, 2h, 1d ago, "
                f"got {text!r}",
                param,
                ctx,
            )


@click.command(short_help="Tell what was tried, from event files.")
@click.argument("events", nargs=-1, required=True, metavar="EVENTS|DIR|-...")
@click.option("--since", type=SinceType(), help="Only what happened from then on: a time or 10m.")
@click.option(
    "--verdict",
    type=click.Choice([verdict.value for verdict in Verdict]),
    help="Only these flows; deny takes in would-deny.",
)
@click.option("--process", metavar="P", help="Only this pid, name or program; may hold * and ?.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["pretty", "json", "md"]),
    default="pretty",
    show_default=True,
)
@click.option(
    "--fail-on",
    type=click.Choice([*(severity.label for severity in Severity), NEVER]),
    default=Severity.LOW.label,
    show_default=True,
    help="Exit with 1 for anything at least this serious.",
)
@click.option("--svg", type=click.Path(dir_okay=False), help="Also draw the report to this file.")
def audit(
    events: tuple[str, ...],
    since: int | None,
    verdict: str | None,
    process: str | None,
    format_: str,
    fail_on: str,
    svg: str | None,
) -> int:
    """Tell what a sandbox tried, denials first, and which line would permit it.

    EVENTS is an event file of agentwall run, a directory of them (*.jsonl), or - for stdin. Says
    where a file was altered or cut, and judges the rest.
    """
    wanted = None if verdict is None else Verdict(verdict)
    builder = ReportBuilder(Filters(since_ns=since, verdict=wanted, process=process))
    problems = read_all(events, builder)
    report = builder.report()
    if report.events or not problems:
        _show(report, format_)
        if svg is not None:
            problems += _draw(report, svg)
    print_lines(problems)
    return EXIT_USAGE if problems else _judge(report, fail_on)


def _judge(report: AuditReport, fail_on: str) -> int:
    if fail_on == NEVER:
        return 0
    is_clean = not (report.denials or report.findings or report.errors or report.gaps)
    threshold = Severity[fail_on.upper()]
    return 0 if is_clean or report.severity < threshold else EXIT_FOUND


def _show(report: AuditReport, format_: str) -> None:
    if format_ == "json":
        click.echo(json.dumps(encode_report(report), indent=2))
        return
    # A letter that this terminal's encoding lacks must not end the report.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if format_ == "md":
        sys.stdout.write(format_markdown(report))
    elif sys.stdout.isatty():
        print_report(report, make_console(sys.stdout))
    else:
        sys.stdout.write(format_plain(report, sys.stdout.encoding))


def _draw(report: AuditReport, svg: str) -> list[str]:
    try:
        Path(svg).write_text(export_svg(report), encoding="utf-8")
    except OSError as err:
        return [f"{svg}: {err.strerror}"]
    return []
