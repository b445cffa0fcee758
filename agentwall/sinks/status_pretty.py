# SPDX-License-Identifier: Apache-2.0
"""The daemon's state for people, from ``agentwall.status/1``; wide tables, short words."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentwall.sinks.describe import describe_count, describe_loss
from agentwall.sinks.status_fields import (
    Fields,
    counts,
    duration,
    flag,
    moment,
    number,
    part,
    parts,
    text,
    texts,
)
from agentwall.sinks.status_tls import tls_line, tls_problems

_SHORT = 12
"""Characters of a digest or a commit, as git shows them."""
_MODES = {"enforce": "green", "audit": "yellow", "observe": "yellow"}
_COVERAGE = {"full": "green", "partial": "yellow", "network-only": "yellow", "none": "bold red"}


def mode_style(mode: str) -> str:
    """Return the style of a mode's name: what lets everything through stands out."""
    return _MODES.get(mode, "bold red")


def coverage_style(level: str) -> str:
    """Return the style of a level of coverage."""
    return _COVERAGE.get(level, "bold red")


def plain_table(*columns: str, numbers: Iterable[str] = (), folded: Iterable[str] = ()) -> Table:
    """Return a table of these columns; *numbers* to the right, *folded* broken where narrow."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        shown.add_column(
            name,
            justify="right" if name in numbers else "left",
            no_wrap=name not in folded,
            overflow="fold",
        )
    return shown


def is_in_force(status: Fields) -> bool:
    """Say whether every required hook, and every scope, is in force."""
    hooks = all(flag(hook, "in_force") for hook in parts(status, "hooks") if hook.get("required"))
    return hooks and all(flag(scope, "in_force") for scope in parts(status, "scopes"))


def status_problems(status: Fields) -> list[str]:
    """Return everything that somebody should look at, a line each."""
    found = [
        f"hook {text(hook, 'name')} is not in force: {text(hook, 'reason') or 'it is absent'}"
        for hook in parts(status, "hooks")
        if hook.get("required") and not flag(hook, "in_force")
    ]
    for scope in parts(status, "scopes"):
        problem = text(scope, "problem")
        if not flag(scope, "in_force"):
            why = problem or "its programs are not attached"
            found.append(f"scope {text(scope, 'cgroup')} is not in force: {why}")
        elif problem:
            found.append(f"scope {text(scope, 'cgroup')}: {problem}")
    found += texts(part(status, "checks"), "problems")
    found += [f"{lost} {describe_loss(where)}" for where, lost in counts(status, "lost")]
    if failed := number(part(status, "log"), "failed"):
        found.append(f"the event log: {describe_count(failed, 'event')} not written")
    found += tls_problems(part(status, "tls"))
    reload = part(status, "reload")
    if reload and not flag(reload, "applied"):
        found.append(f"the last reload was not applied: {text(reload, 'what')}")
        found += texts(reload, "problems")
    if commit := text(status, "commit_problem"):
        found.append(f"commit: {commit}")
    return found


def facts(rows: Iterable[tuple[str, Text]]) -> RenderableType:
    """Return lines of a name and what there is to say, which stays beside it where it is broken."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, said in rows:
        shown.add_row(name, said)
    return shown


def status_parts(status: Fields, *, is_narrow: bool = False) -> Iterable[RenderableType]:
    """Yield what to print of a status; *is_narrow*: where less than 130 columns are there."""
    yield _headline(status)
    yield _second_line(status)
    problems = status_problems(status)
    if problems:
        yield Text("\nproblems", style="bold red")
        for problem in problems:
            yield Text(f"  {problem}", style="yellow" if is_in_force(status) else "red")
    yield Text("")
    yield facts(_facts(status))
    if scopes := parts(status, "scopes"):
        yield Text("")
        yield _scopes(scopes)
    if policies := parts(status, "policies"):
        yield Text("")
        yield _policies(policies, is_narrow)
    yield Text("")
    yield _hooks(parts(status, "hooks"))


def _headline(status: Fields) -> Text:
    total = number(part(status, "sandboxes"), "total")
    line = Text("agentwall ", style="bold").append(text(status, "version"))
    if not is_in_force(status):
        return line.append("  not in force", style="bold red")
    line.append("  in force", style="bold green")
    return line.append(f" for {describe_count(total, 'sandbox', 'sandboxes')}")


def _second_line(status: Fields) -> Text:
    since = f"up {duration(status, 'uptime_s')} since {moment(status, 'started')}"
    words = [f"pid {text(status, 'pid')}", since, f"Linux {text(status, 'kernel')}"]
    return Text(", ".join(words), style="dim")


def _facts(status: Fields) -> Iterable[tuple[str, Text]]:
    sandboxes = part(status, "sandboxes")
    line = _counted(sandboxes, _MODES)
    if overrides := number(status, "mode_overrides"):
        line.append(f", {overrides} switched by hand", style="bold yellow")
    yield "modes", line
    line = _counted(sandboxes, _COVERAGE)
    if unwatched := number(sandboxes, "unwatched"):
        line.append(f", {unwatched} ran unwatched at first", style="yellow")
    yield "coverage", line
    denied, would = number(status, "denied"), number(status, "would_denied")
    line = Text().append(str(denied), style="bold" if denied else "")
    yield "denied", line.append(f", {would} would be", style="yellow" if would else "")
    log = part(status, "log")
    if log:
        sums = (
            f"{describe_count(number(log, 'written'), 'event')}, rotated {number(log, 'rotated')}"
        )
        yield "event log", Text(f"{text(log, 'path')}: {sums} times")
    signatures = part(status, "signatures")
    digest = text(signatures, "digest")[:_SHORT]
    yield "signatures", Text(f"{number(signatures, 'count')} ({digest or 'none'})")
    if tls := part(status, "tls"):
        yield "inside TLS", tls_line(tls)
    if checked := moment(part(status, "checks"), "last"):
        yield "self-check", Text(checked)
    if reload := part(status, "reload"):
        words = "applied" if flag(reload, "applied") else "not applied"
        yield "reload", Text(f"{moment(reload, 'time')} {words}: {text(reload, 'what')}")


def _counted(found: Fields, styles: dict[str, str]) -> Text:
    shown = [(name, number(found, name)) for name in styles if number(found, name)]
    if not shown:
        return Text("no sandboxes", style="dim")
    return Text(", ").join(Text(f"{count} {name}", styles[name]) for name, count in shown)


def _scopes(scopes: Iterable[Fields]) -> RenderableType:
    shown = plain_table(
        *("scope", "kind", "default", "sandboxes", "unbound", "in force"),
        numbers=("sandboxes", "unbound"),
        folded=("scope",),
    )
    for scope in scopes:
        unbound = number(scope, "unbound")
        is_in = flag(scope, "in_force")
        shown.add_row(
            text(scope, "cgroup"),
            text(scope, "kind"),
            text(scope, "default") or "-",
            str(number(scope, "sandboxes")),
            Text(str(unbound), style="yellow" if unbound else ""),
            Text("yes" if is_in else "NO", style="green" if is_in else "bold red"),
        )
    return shown


def _policies(policies: Iterable[Fields], is_narrow: bool) -> RenderableType:
    digests = () if is_narrow else ("commit", "digest")
    shown = plain_table(
        *("policy", "mode", "phases", "sandboxes", *digests, "file"),
        numbers=("sandboxes",),
        folded=("policy", "phases", "file"),
    )
    for policy in policies:
        mode = text(policy, "mode")
        cells = [text(policy, key)[:_SHORT] or "-" for key in digests]
        shown.add_row(
            text(policy, "name"),
            Text(mode, style=mode_style(mode)),
            ", ".join(texts(policy, "phases")) or "-",
            str(number(policy, "sandboxes")),
            *cells,
            text(policy, "file") or "-",
        )
    return shown


def _hooks(hooks: list[Fields]) -> Text:
    held = sum(flag(hook, "in_force") for hook in hooks)
    line = Text(f"{held} of {len(hooks)} hooks in force")
    for hook in hooks:
        if not flag(hook, "in_force"):
            style = "bold red" if hook.get("required") else "yellow"
            why = text(hook, "reason")
            need = "required" if hook.get("required") else "optional"
            line.append(f"\n  {text(hook, 'name')} ({need}): {why or 'absent'}", style=style)
    return line
