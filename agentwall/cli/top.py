# SPDX-License-Identifier: Apache-2.0
"""``agentwall top``: which sandboxes are refused most at the moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from agentwall.cli.control import console, is_narrow, show, socket_option
from agentwall.client import Client
from agentwall.sinks.describe import describe_count
from agentwall.sinks.status_sandboxes import Pace, paces, top_table

_LINES_AROUND = 4
"""Lines of a screen that are not rows."""


@click.command(short_help="Watch which sandboxes are refused most.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Print one table and end.")
@socket_option
def top(every_s: float, once: bool, path: str) -> int:
    """Watch which sandboxes are refused most: denials per second, and the last of them.

    Where stdout is no terminal one table is printed, after one interval.
    """
    with Client(path) as wall:
        if once or not sys.stdout.isatty():
            show([_screen(next(_looks(wall, every_s)), None)])
            return 0
        screen = console()
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            try:
                for found in _looks(wall, every_s):
                    lines = 2 if is_narrow() else 1
                    most = max((screen.size.height - _LINES_AROUND) // lines, 1)
                    live.update(_screen(found, most), refresh=True)
            except KeyboardInterrupt:
                return 0
    return 0


def _looks(wall: Client, every_s: float) -> Iterator[list[Pace]]:
    before, before_s = wall.sandboxes(), time.monotonic()
    while True:
        time.sleep(every_s)
        after, after_s = wall.sandboxes(), time.monotonic()
        yield paces(before, after, after_s - before_s)
        before, before_s = after, after_s


def _screen(found: list[Pace], most: int | None) -> RenderableType:
    total = sum(pace.denied_per_s for pace in found)
    line = Text(describe_count(len(found), "sandbox", "sandboxes"), style="bold")
    line.append(f", {total:.1f} denied per second", style="bold red" if total else "green")
    return Group(line, Text(""), top_table(found, most, is_narrow=is_narrow()))
