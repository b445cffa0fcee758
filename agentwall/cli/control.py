# SPDX-License-Identifier: Apache-2.0
"""What the commands that ask the daemon have in common."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType

from agentwall.client import CONTROL_SOCKET
from agentwall.sinks.escape import printable
from agentwall.sinks.pretty import make_console

NARROW = 130
"""Below so many columns the cells of a row stand below each other."""
_PIPE_WIDTH = 100_000
"""Columns where there is no terminal: a cell is as wide as what is in it."""
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)

FuncT = TypeVar("FuncT", bound=Callable[..., Any])


def socket_option(command: FuncT) -> FuncT:
    """Add ``--socket`` to a command."""
    return click.option(
        "--socket",
        "path",
        default=CONTROL_SOCKET,
        show_default=True,
        metavar="PATH",
        help="The daemon's control socket.",
    )(command)


def format_option(command: FuncT) -> FuncT:
    """Add ``--format`` to a command."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(["pretty", "json"]),
        default="pretty",
        show_default=True,
    )(command)


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return the seconds that ``90s``, ``30m`` or ``1h30m`` says: a callback for an option."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if value else None
    if match is None:
        told = f"expected a duration such as 90s, 30m or 1h30m, got {printable(value)}"
        raise click.BadParameter(told, ctx, param)
    hours, minutes, seconds = (int(each or 0) for each in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def print_json(document: object) -> None:
    """Print *document* for machines."""
    click.echo(json.dumps(document, indent=2))


def console() -> Console:
    """Return a console for stdout; where that is no terminal, nothing is cut or broken there."""
    if sys.stdout.isatty():
        return make_console(sys.stdout, width=shutil.get_terminal_size().columns)
    return make_console(sys.stdout, width=_PIPE_WIDTH)


def is_narrow() -> bool:
    """Say whether stdout is a terminal of few columns."""
    return console().width < NARROW


def show(parts: Iterable[RenderableType]) -> None:
    """Print *parts* for people."""
    screen = console()
    with screen.capture() as captured:
        for part in parts:
            screen.print(part)
    # Cells are filled up with blanks, which nobody needs at the end of a line.
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    # Labels may have characters that this terminal has not.
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), color=True)
