# SPDX-License-Identifier: Apache-2.0
"""``agentwall sandbox``: list sandboxes, show one, label it, switch its mode."""

from __future__ import annotations

from collections.abc import Mapping

import click

from agentwall.cli.control import (
    format_option,
    is_narrow,
    print_json,
    read_duration,
    show,
    socket_option,
)
from agentwall.client import Client
from agentwall.sinks.describe import describe_duration
from agentwall.sinks.escape import printable
from agentwall.sinks.rfc3339 import NS_PER_S
from agentwall.sinks.status_fields import labels, text
from agentwall.sinks.status_sandboxes import sandbox_list, sandbox_parts

SCHEMA = "agentwall.sandboxes/1"
MODES = ("audit", "observe", "enforce")
_ENDED = "ended by hand"


@click.group()
def sandbox() -> None:
    """List sandboxes, show one, label it, switch its mode.

    A sandbox goes by its id, its container's id or four characters or more of that, its name, or
    its cgroup.
    """


@sandbox.command()
@click.option(
    "--label", "wanted", multiple=True, metavar="K=V", help="Only those with it. Repeatable."
)
@format_option
@socket_option
def ls(wanted: tuple[str, ...], style: str, path: str) -> None:
    """List the sandboxes there are."""
    pairs = dict(_split_pair(each) for each in wanted)
    with Client(path) as wall:
        found = [each for each in wall.sandboxes() if _has_labels(each, pairs)]
    if style == "json":
        print_json({"schema": SCHEMA, "sandboxes": found})
    else:
        show(sandbox_list(found, is_narrow=is_narrow()))


@sandbox.command("show")
@click.argument("handle", metavar="ID")
@format_option
@socket_option
def show_one(handle: str, style: str, path: str) -> None:
    """Show everything about one sandbox, and what was denied in it."""
    with Client(path) as wall:
        found = wall.sandbox(handle)
    if style == "json":
        print_json(found)
    else:
        show(sandbox_parts(found))


@sandbox.command()
@click.argument("handle", metavar="ID")
@click.argument("changes", nargs=-1, required=True, metavar="K=V|K-...")
@socket_option
def label(handle: str, changes: tuple[str, ...], path: str) -> None:
    """Label a sandbox: K=V sets a label, K- removes it. Its events carry them from then on.

    The label phase switches the sandbox to that phase of its policy.
    """
    pairs = dict(_split_change(each) for each in changes)
    with Client(path) as wall:
        result = wall.label(handle, pairs)
    name = text(result, "id") or text(result, "sandbox") or printable(handle)
    if shown := labels(result):
        click.echo(f"{name}: {shown}")


@sandbox.command()
@click.argument("words", nargs=-1, metavar="[ID] [audit|observe|enforce]")
@click.option("--all", "is_all", is_flag=True, help="All sandboxes, in place of one.")
@click.option("--end", is_flag=True, help="End it: the policies' own mode holds again.")
@click.option(
    "--for",
    "for_s",
    callback=read_duration,
    metavar="TIME",
    help="When it ends by itself: 90s, 30m, 1h30m, 24h at most. Only enforce may go without.",
)
@click.option("--reason", metavar="TEXT", help="Why; it is logged with who did it.")
@socket_option
def mode(
    words: tuple[str, ...],
    is_all: bool,
    end: bool,
    for_s: float | None,
    reason: str | None,
    path: str,
) -> None:
    """Put another mode in place of the policies' own for a while: the switch of 3 a.m.

    audit and observe let everything through; what would be denied is still recorded under audit.
    """
    handle, wanted = _split_words(list(words), is_all, end)
    if not end and not reason:
        raise click.UsageError("--reason TEXT is needed: it is logged")
    if end and for_s is not None:
        raise click.UsageError("--for does not go with --end")
    if wanted in ("audit", "observe") and for_s is None:
        raise click.UsageError(f"--for TIME is needed: {wanted} has to end by itself")
    who = "all sandboxes" if handle is None else printable(handle)
    with Client(path) as wall:
        if wanted is None:
            wall.end_mode(handle, reason=reason or _ENDED)
            click.echo(f"{who}: the policies' own mode is in force again")
            return
        wall.mode(handle, wanted, for_s=for_s, reason=reason or "")
    until = f"for {describe_duration(int(for_s * NS_PER_S))}" if for_s else "until it is ended"
    click.echo(f"{who}: {wanted} {until}")


def _split_words(words: list[str], is_all: bool, end: bool) -> tuple[str | None, str | None]:
    wanted = None
    if not end:
        wanted = words.pop() if words else None
        if wanted not in MODES:
            raise click.UsageError(f"expected a mode, one of {', '.join(MODES)}; or --end")
    if is_all and words:
        raise click.UsageError("expected a sandbox or --all, got both")
    if not is_all and len(words) != 1:
        raise click.UsageError(f"expected one sandbox or --all, got {len(words)}")
    return (None if is_all else words[0]), wanted


def _split_change(change: str) -> tuple[str, str | None]:
    key, separator, value = change.partition("=")
    if separator:
        return key, value
    if change.endswith("-") and len(change) > 1:
        return change[:-1], None
    raise click.UsageError(f"expected K=V or K-, got {printable(change)}")


def _split_pair(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator:
        raise click.UsageError(f"--label: expected K=V, got {printable(pair)}")
    return key, value


def _has_labels(found: Mapping[str, object], wanted: Mapping[str, str]) -> bool:
    has = found.get("labels")
    return isinstance(has, dict) and wanted.items() <= has.items()
