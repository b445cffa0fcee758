# SPDX-License-Identifier: Apache-2.0
"""``agentwall audit``: event files and captures in, a report out. Needs no root and no policy."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from agentwall.cli.audit_inputs import Inputs, sort_inputs
from agentwall.cli.event_files import read_all
from agentwall.cli.failures import EXIT_USAGE, print_lines
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Verdict
from agentwall.policy.model import Policy
from agentwall.sinks.audit_json import encode_report
from agentwall.sinks.markdown import format_markdown
from agentwall.sinks.pretty import export_svg, format_plain, make_console, print_report
from agentwall.sinks.report import Filters, ReportBuilder
from agentwall.sinks.report_rows import AuditReport
from agentwall.sinks.rfc3339 import NS_PER_S, parse_time
from agentwall.sinks.watched import WatchedEvents

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


@click.command(short_help="Tell what was tried, from event files and captures.")
@click.argument("inputs", nargs=-1, required=True, metavar="EVENTS|CAPTURE|DIR|-...")
@click.option(
    "--policy",
    metavar="P",
    help="Judge every flow of captures by this policy file, and what is found by its detect.",
)
@click.option(
    "--signatures",
    multiple=True,
    metavar="PATH",
    help="A file of further signatures, or a directory of them. Repeatable.",
)
@click.option("--since", type=SinceType(), help="Only what happened from then on: a time or 10m.")
@click.option(
    "--verdict",
    type=click.Choice([verdict.value for verdict in Verdict]),
    help="Only these flows; deny takes in would-deny. Captures have verdicts under --policy.",
)
@click.option(
    "--process",
    metavar="P",
    help="Only this pid, name or program; may hold * and ?. Event files only.",
)
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
    inputs: tuple[str, ...],
    policy: str | None,
    signatures: tuple[str, ...],
    since: int | None,
    verdict: str | None,
    process: str | None,
    format_: str,
    fail_on: str,
    svg: str | None,
) -> int:
    """Tell what a sandbox tried and what was found in it, and what would let it through.

    An input is an event file of agentwall run, a capture (pcap or pcapng, also gzipped), a
    directory of both, or - for stdin; its first bytes tell which. Flows of captures are searched
    for mining, tunnels, scans and the like. Says where an input is damaged, and judges the rest.
    """
    wanted = None if verdict is None else Verdict(verdict)
    filters = Filters(since_ns=since, verdict=wanted, process=process)
    builder = ReportBuilder(filters)
    judging = None if policy is None else _load(policy)
    found = sort_inputs(inputs)
    problems = [*found.problems, *_misfits(found, filters, has_policy=policy is not None)]
    if found.events:
        watched = WatchedEvents(builder, judging.detect if judging else None)
        problems += read_all(found.events, watched)
        watched.end()
    if found.captures:
        _audit_captures(found.captures, builder, judging, signatures, filters)
    report = builder.report()
    if report.events or report.captures.count or not problems:
        _show(report, format_)
        if svg is not None:
            problems += _draw(report, svg)
    print_lines(problems)
    return EXIT_USAGE if problems else _judge(report, fail_on)


def _misfits(found: Inputs, filters: Filters, *, has_policy: bool) -> list[str]:
    """Return which options mean nothing for captures; those are then left out of *found*."""
    if not found.captures:
        return []
    if filters.process is not None:
        reason = "--process: expected event files, got captures, which do not tell of processes"
    elif filters.verdict is not None and not has_policy:
        reason = "--verdict: expected --policy with it, as captures have no verdicts of their own"
    else:
        return []
    found.captures.clear()
    return [reason]


def _load(path: str) -> Policy:
    # Slow to import, and seldom asked for.
    from agentwall.policy.load import load_policy
    from agentwall.policy.phases import in_phase

    return in_phase(load_policy(path))


def _audit_captures(
    paths: Sequence[str],
    builder: ReportBuilder,
    policy: Policy | None,
    signatures: Sequence[str],
    filters: Filters,
) -> None:
    # Event files alone are read without signatures, and without all that reads captures.
    from agentwall.cli.capture_audit import CaptureAudit

    CaptureAudit(builder, policy=policy, signatures=signatures, filters=filters).read(paths)


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
