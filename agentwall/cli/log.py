# SPDX-License-Identifier: Apache-2.0
"""``agentwall log``: the daemon's events, those that are there and those that come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing

import click

from agentwall.cli.audit import SinceType
from agentwall.cli.event_tail import Tail
from agentwall.cli.failures import EXIT_USAGE, print_lines
from agentwall.daemon.config import LogSettings
from agentwall.flow.record import DetectionRecord, FlowRecord, GapRecord, Record, TlsRecord
from agentwall.flow.verdict import Verdict
from agentwall.sinks.describe import describe_clock
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.event_json import LoggedEvent, format_line
from agentwall.sinks.event_search import KINDS, Wanted
from agentwall.sinks.event_words import event_line, labels_words

DEFAULT_LOG = str(LogSettings().path)
_POLL_S = 0.2
_DAY_NS = 86_400_000_000_000
_STYLES: dict[Verdict, dict[str, object]] = {
    Verdict.DENY: {"fg": "red"},
    Verdict.WOULD_DENY: {"fg": "yellow"},
    Verdict.ALLOW: {},
}


class LabelType(click.ParamType[tuple[str, str]]):
    """``k=v``."""

    name = "k=v"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the two sides of *value*."""
        key, separator, label = str(value).partition("=")
        if not key or not separator:
            self.fail(f"expected KEY=VALUE, got {str(value)!r}", param, ctx)
        return key, label


@click.command("log", short_help="Show what the daemon's log has, or follow it.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Only the last so many of them.")
@click.option(
    "--sandbox", metavar="ID", help="Its id, name or cgroup, or the beginning of its container's."
)
@click.option(
    "--label", "labels", type=LabelType(), multiple=True, metavar="K=V", help="Repeatable."
)
@click.option("--kind", type=click.Choice(KINDS))
@click.option(
    "--verdict",
    type=click.Choice([verdict.value for verdict in Verdict]),
    help="Only these flows and detections; deny takes in would-deny.",
)
@click.option("--since", type=SinceType(), help="Only what happened from then on: a time or 10m.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["pretty", "json"]),
    default="pretty",
    show_default=True,
    help="json: the lines as they are in the file.",
)
@click.option(
    "--file", "path", default=DEFAULT_LOG, show_default=True, metavar="PATH", help="The event log."
)
def log(
    follow: bool,
    lines: int | None,
    sandbox: str | None,
    labels: tuple[tuple[str, str], ...],
    kind: str | None,
    verdict: str | None,
    since: int | None,
    format_: str,
    path: str,
) -> int:
    """Show the events of the daemon's log, the oldest first, rotated files included."""
    wanted = Wanted(
        sandbox=sandbox,
        labels=dict(labels),
        kind=kind,
        verdict=None if verdict is None else Verdict(verdict),
        since_ns=since,
    )
    try:
        _show(_chosen(path, wanted, lines, follow=follow), format_)
    except FileNotFoundError:
        print_lines(
            [
                f"{path}: no such file: no daemon has written a log there;"
                " of agentwall run say --file /var/log/agentwall/runs/RUN.jsonl"
            ]
        )
        return EXIT_USAGE
    except (PermissionError, IsADirectoryError) as err:
        print_lines([f"{path}: {err.strerror}"])
        return EXIT_USAGE
    return 0


def _chosen(path: str, wanted: Wanted, lines: int | None, *, follow: bool) -> Iterator[LoggedEvent]:
    with closing(Tail(path, _Problems())) as tail:
        tail.begin(wanted.since_ns)
        found = (event for event in tail.read() if wanted.accepts(event.record))
        yield from found if lines is None else deque(found, maxlen=lines)
        while follow:
            time.sleep(_POLL_S)
            yield from (event for event in tail.read() if wanted.accepts(event.record))


class _Problems:
    """Prints each place that could not be read once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print_lines([line])


def _show(events: Iterator[LoggedEvent], format_: str) -> None:
    for event in events:
        # Each at once: whoever follows does not want to wait for a full buffer.
        click.echo(format_line(event).decode("ascii") if format_ == "json" else pretty_line(event))


def pretty_line(event: LoggedEvent) -> str:
    """Return *event* as one line: when, which sandbox and episode, what, and the event's id."""
    record = event.record
    day = describe_clock(record.time_ns, _DAY_NS)
    clock = describe_clock(record.time_ns, 1)
    sandbox = shorten(printable(record.sandbox.id), 40)
    labels = f" [{labels_words(record.sandbox.labels)}]" if record.sandbox.labels else ""
    return " ".join(
        (
            click.style(f"{day} {clock}", dim=True),
            click.style(sandbox, fg="cyan") + click.style(labels, dim=True),
            click.style(event_line(record), **_style(record)),  # type: ignore[arg-type]
            click.style(f"({shorten(printable(event.id), 80)})", dim=True),
        )
    )


def _style(record: Record) -> dict[str, object]:
    match record:
        case DetectionRecord():
            return {**_STYLES[record.verdict], "bold": True}
        case FlowRecord():
            return _STYLES[record.verdict]
        case GapRecord():
            return {"fg": "magenta"}
        case TlsRecord():
            return {} if record.is_joined else {"fg": "yellow"}
        case _:
            return {"fg": "red", "bold": True} if record.state == "damaged" else {"bold": True}
