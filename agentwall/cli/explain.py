# SPDX-License-Identifier: Apache-2.0
"""``agentwall explain``: one event, and all that is known about it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agentwall.cli.event_files import with_rotated
from agentwall.cli.failures import print_lines
from agentwall.daemon.config import LogSettings
from agentwall.daemon.outputs import LOG_DIRECTORY
from agentwall.engine.severity import severity_of
from agentwall.flow.record import DetectionRecord, FlowRecord, Record, StateRecord, TlsRecord
from agentwall.flow.verdict import Reason
from agentwall.sinks.describe import describe_clock
from agentwall.sinks.escape import printable
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.event_parse import EventFormatError, parse_line
from agentwall.sinks.event_words import event_line
from agentwall.sinks.eventlog import MAX_LINE_BYTES
from agentwall.sinks.explain_event import REMEDY, WHY, Case, RuleText, headline
from agentwall.sinks.explain_event import explain as explain_case
from agentwall.sinks.pretty import make_console
from agentwall.sinks.pretty_parts import SEVERITY_STYLES, VERDICT_STYLES

EXIT_UNKNOWN = 1
AROUND = 5
"""Events of the same process that are shown before it, and after."""
_MAX_POLICY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Found:
    event: LoggedEvent
    source: str
    applied: StateRecord | None
    before: tuple[LoggedEvent, ...]
    after: tuple[LoggedEvent, ...]


@click.command("explain", short_help="Tell all that is known about one event.")
@click.argument("event_id", metavar="EVENT_ID")
@click.option(
    "--file",
    "path",
    metavar="PATH",
    help="The event log it is in; else the daemon's, then those of agentwall run.",
)
def explain(event_id: str, path: str | None) -> int:
    """Tell what happened, by whom, where to, which rule decided, and what would permit it.

    EVENT_ID is the last word of a line of agentwall log, and the id in every event.
    """
    series = [with_rotated(path)] if path else list(_logs(event_id))
    found = _find(event_id, series)
    if found is None:
        print_lines(_not_found(event_id, path, series))
        return EXIT_UNKNOWN
    _show(found)
    return 0


def _logs(event_id: str) -> Iterator[list[str]]:
    """Yield the logs in which *event_id* may be, the likely one first."""
    runs = LOG_DIRECTORY / "runs"
    # Only a name of a file: the id is whatever somebody typed.
    own = runs / f"{Path(event_id.rpartition('-')[0]).name}.jsonl"
    if own.is_file():
        yield [str(own)]
    yield with_rotated(str(LogSettings().path))
    yield from ([str(each)] for each in sorted(runs.glob("*.jsonl")) if each != own)


def _not_found(event_id: str, path: str | None, series: list[list[str]]) -> Iterable[str]:
    number = sum(map(len, series))
    if path is not None and not number:
        yield f"{path}: no such file"
        return
    where = path or f"{LogSettings().path} and {LOG_DIRECTORY / 'runs'}"
    yield (
        f"{event_id}: no event has this id in {where}"
        f" ({number} {'file' if number == 1 else 'files'} read)"
    )
    yield "agentwall log shows ids at the end of each line; of another log say --file PATH"


def _find(event_id: str, series: Iterable[list[str]]) -> _Found | None:
    for files in series:
        applied: dict[str, StateRecord] = {}
        for number, path in enumerate(files):
            event = _find_in(event_id, path, applied)
            if event is not None:
                beside = files[max(number - 1, 0) : number + 2]
                before, after = _around(event, beside)
                rules = applied.get(event.record.sandbox.id)
                return _Found(event, path, rules, before, after)
    return None


def _find_in(event_id: str, path: str, applied: dict[str, StateRecord]) -> LoggedEvent | None:
    """Look for an event in one file; note the rules that are applied on the way in *applied*."""
    wanted = f'"id":{json.dumps(event_id)}'.encode("ascii")
    for line in _lines(path):
        # Most lines need not be parsed.
        if b'"state":"rules-applied"' in line:
            event = _parse(line)
            if event is not None and isinstance(event.record, StateRecord):
                applied[event.record.sandbox.id] = event.record
        if wanted in line:
            event = _parse(line)
            if event is not None and event.id == event_id:
                return event
    return None


def _around(
    event: LoggedEvent, files: Iterable[str]
) -> tuple[tuple[LoggedEvent, ...], tuple[LoggedEvent, ...]]:
    """Return what the same process did just before and just after *event*, in any of *files*."""
    pid = _pid(event.record)
    if not pid:
        return (), ()
    mark = f'"pid":{pid},'.encode("ascii")
    before: deque[LoggedEvent] = deque(maxlen=AROUND)
    after: list[LoggedEvent] = []
    is_behind = False
    for line in chain.from_iterable(map(_lines, files)):
        if mark not in line:
            continue
        other = _parse(line)
        if other is None:
            continue
        if other.id == event.id:
            is_behind = True
        elif _pid(other.record) == pid and other.record.sandbox.id == event.record.sandbox.id:
            (after if is_behind else before).append(other)
            if len(after) >= AROUND:
                break
    return tuple(before), tuple(after)


def _pid(record: Record) -> int:
    if not isinstance(record, FlowRecord | DetectionRecord | TlsRecord):
        return 0
    return record.process.pid if record.process is not None else 0


def _lines(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=1 << 20) as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                yield line
    except OSError as err:
        print_lines([f"{path}: {err.strerror}"])


def _parse(line: bytes) -> LoggedEvent | None:
    try:
        return parse_line(line.rstrip(b"\n"))
    except EventFormatError:
        return None


def _rule_text(record: Record, applied: StateRecord | None) -> RuleText | None:
    """Return the line of the rule in *record*, if the file is still the one that was in force."""
    if not isinstance(record, FlowRecord | DetectionRecord | TlsRecord):
        return None
    reason = record.reason
    if reason.rule is None or reason.file is None or reason.line is None:
        return None
    line = _line_of(reason)
    if line is None:
        return RuleText(text=None, note=f"{reason.file} cannot be read here")
    detail = applied.detail if applied is not None else {}
    files, digest = detail.get("files"), detail.get("digest")
    if not isinstance(files, list) or not isinstance(digest, str):
        return RuleText(text=line, note="the log does not tell whether the file is still the same")
    if _digest([str(each) for each in files]) == digest:
        return RuleText(text=line)
    commit = record.sandbox.policy.commit if record.sandbox.policy is not None else None
    hint = ""
    if commit:
        folder, name = os.path.split(reason.file)
        hint = f"; see git -C {folder or '.'} show {commit}:./{name}"
    return RuleText(text=None, note=f"the policy's files have changed since then{hint}")


def _line_of(reason: Reason) -> str | None:
    try:
        with open(reason.file or "", encoding="utf-8", errors="backslashreplace") as file:
            for number, line in enumerate(file, 1):
                if number == reason.line:
                    return line.rstrip("\n")
    except (OSError, ValueError):
        pass
    return None


def _digest(files: list[str]) -> str | None:
    """Return the digest of a policy that was read from *files*, as ``policy/load.py`` makes it."""
    found = hashlib.sha256()
    left = _MAX_POLICY_BYTES
    try:
        for name in files:
            content = Path(name).read_bytes() if os.path.getsize(name) <= left else None
            if content is None:
                return None
            left -= len(content)
            found.update(content)
    except (OSError, ValueError):
        return None
    return found.hexdigest()


def _show(found: _Found) -> None:
    record = found.event.record
    case = Case(
        event=found.event,
        source=found.source,
        rule=_rule_text(record, found.applied),
        applied=found.applied,
    )
    around = list(_neighbours(found))
    if not sys.stdout.isatty():
        _show_plain(case, around)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, words in explain_case(case):
        table.add_row(heading, Text(words, style=_EMPHASIS.get(heading, "")))
    head = Text(headline(record), style=_style(record))
    make_console(sys.stdout).print(Group(head, table, *around))


def _show_plain(case: Case, around: Iterable[Text]) -> None:
    """Print without a terminal's width: a line stays a line."""
    click.echo(headline(case.event.record))
    for heading, words in explain_case(case):
        click.echo(f"{heading:10}{words}")
    for each in around:
        click.echo(each.plain)


_EMPHASIS = {WHY: "bold", REMEDY: "green"}


def _style(record: Record) -> str:
    if isinstance(record, FlowRecord):
        return f"bold {VERDICT_STYLES[record.verdict]}"
    return SEVERITY_STYLES[severity_of(record)]


def _neighbours(found: _Found) -> Iterator[Text]:
    if not found.before and not found.after:
        return
    yield Text("\nThe same process, around it", style="bold")
    for event in (*found.before, found.event, *found.after):
        clock = describe_clock(event.record.time_ns, 1)
        is_it = event is found.event
        words = (
            f"{'>' if is_it else ' '} {clock} {event_line(event.record)} ({printable(event.id)})"
        )
        yield Text(words, style="bold" if is_it else "dim", overflow="fold")
