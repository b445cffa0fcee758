# SPDX-License-Identifier: Apache-2.0
"""Sandboxes for people: the list, one in full, and which are busy, from the daemon's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from agentwall.flow.tls import TlsLibrary
from agentwall.sinks.describe import describe_bytes, describe_count, describe_loss
from agentwall.sinks.status_fields import (
    Fields,
    counts,
    flag,
    labels,
    moment,
    number,
    part,
    parts,
    text,
    texts,
)
from agentwall.sinks.status_pretty import coverage_style, facts, mode_style, plain_table
from agentwall.sinks.tls_words import name_of

_SHORT = 12
_MAX_NAME = 40
_MAX_ROWS = 50
"""Denials and detections of one sandbox that are shown."""
_ORIGIN = ("runtime", "name", "image", "pod", "namespace", "job", "step", "unit", "container")


def sandbox_list(
    sandboxes: Sequence[Fields], *, is_narrow: bool = False
) -> Iterable[RenderableType]:
    """Yield the table of all *sandboxes*; *is_narrow*: where less than 130 columns are there."""
    if not sandboxes:
        yield Text("no sandboxes", style="dim")
        return
    columns: tuple[str, ...]
    if is_narrow:
        columns = ("sandbox", "policy, mode", "state", "denied", "last denial")
    else:
        columns = ("id", "name", "policy", "mode", "coverage", "denied", "last denial", "state")
        columns = (*columns, "labels")
    shown = plain_table(*columns, numbers=("denied",), folded=("sandbox", "name", "labels"))
    for each in sandboxes:
        last = moment(each, "last_denial") or "-"
        if is_narrow:
            state = Text().append(f"{text(each, 'state')}\n", style="dim")
            cells = (_judged(each), state.append_text(_coverage_listed(each)), _denied(each))
            shown.add_row(_stacked(each), *cells, last.replace(" ", "\n"))
        else:
            judged = (_policy(each), _mode(each), _coverage_listed(each), _denied(each), last)
            rest = (text(each, "state"), Text(labels(each)))
            shown.add_row(text(each, "id", _MAX_NAME), _name(each), *judged, *rest)
    yield shown
    yield Text(describe_count(len(sandboxes), "sandbox", "sandboxes"), style="dim")


def sandbox_parts(sandbox: Fields) -> Iterable[RenderableType]:
    """Yield everything about one sandbox."""
    yield Text("sandbox ").append(text(sandbox, "id"), style="bold")
    yield facts((*_who(sandbox), *_how(sandbox), *_what(sandbox)))
    yield from _tls(part(sandbox, "tls"))
    denials = part(sandbox, "denials")
    yield from _denials(denials)
    yield from _detections(denials)


def _who(sandbox: Fields) -> Iterable[tuple[str, Text]]:
    yield "cgroup", Text(text(sandbox, "cgroup"))
    origin = part(sandbox, "origin")
    found = [f"{name} {text(origin, name)}" for name in _ORIGIN if text(origin, name)]
    yield "origin", Text(", ".join(found) or "not known")
    yield "labels", Text(labels(sandbox) or "none")
    line = Text(f"{moment(sandbox, 'admitted')} ({text(sandbox, 'admission')})")
    if sandbox.get("unwatched_ms") is None:
        line.append(", not known for how long it ran before", style="yellow")
    elif unwatched := number(sandbox, "unwatched_ms"):
        line.append(f", ran unwatched for {unwatched} ms", style="yellow")
    yield "admitted", line
    processes = describe_count(number(sandbox, "pids"), "process", "processes")
    yield "state", Text(f"{text(sandbox, 'state')}, {processes}")


def _how(sandbox: Fields) -> Iterable[tuple[str, Text]]:
    commit = text(sandbox, "commit")[:_SHORT] or "none"
    digest = text(sandbox, "digest")[:_SHORT] or "none"
    line = Text(_policy(sandbox))
    yield "policy", line.append(f" (commit {commit}, digest {digest})", style="dim")
    line = _mode(sandbox)
    if override := part(sandbox, "override"):
        until = moment(override, "until") or "somebody ends it"
        line.append(f" until {until}, by {text(override, 'by')}: {text(override, 'reason')}")
    yield "mode", line
    yield "coverage", _coverage(sandbox)
    for road in texts(sandbox, "open_roads"):
        yield "", Text(f"open: {road}", style="yellow")
    for hook in parts(sandbox, "hooks"):
        if not flag(hook, "in_force"):
            yield "", Text(f"hook {text(hook, 'name')} is not in force", style="bold red")
    for name, reason in part(sandbox, "missing_hooks").items():
        hook = {"name": name, "reason": reason}
        missing = f"hook {text(hook, 'name')} is missing: {text(hook, 'reason')}"
        yield "", Text(missing, style="bold red")


def _what(sandbox: Fields) -> Iterable[tuple[str, Text]]:
    sums = f"{number(sandbox, 'denied')}, {number(sandbox, 'would_denied')} would be"
    last = moment(sandbox, "last_denial")
    yield "denied", Text(f"{sums}{f', last at {last}' if last else ''}")
    found = describe_count(number(sandbox, "detections"), "detection")
    cut, probes = number(sandbox, "matches"), number(sandbox, "probes")
    yield "found", Text(f"{found}, {cut} cut off, {describe_count(probes, 'probe')}")
    if tls := part(sandbox, "tls"):
        yield "inside TLS", _inside_tls(tls)
    for where, lost in counts(sandbox, "lost"):
        yield "lost", Text(f"{lost} {describe_loss(where)}", style="yellow")


def _inside_tls(tls: Fields) -> Text:
    if tls.get("sessions") is None:
        return Text("nothing is known", style="dim")
    sessions, joined = number(tls, "sessions"), number(tls, "joined")
    line = Text(f"{joined} of {describe_count(sessions, 'session')} read")
    if unread := sum(1 for each in parts(tls, "processes") if _is_unread_speaker(each)):
        count = describe_count(unread, "process", "processes")
        line.append(f", {count} with TLS that is not read", style="yellow")
    if reasons := [f"{count} {why}" for why, count in counts(tls, "unread")]:
        line.append(f"; not read: {', '.join(reasons)}", style="yellow")
    return line


def _is_unread_speaker(process: Fields) -> bool:
    return not flag(process, "read") and number(process, "sessions") > 0


def _library(row: Fields) -> str:
    value = text(row, "library")
    return next((name_of(each) for each in TlsLibrary if each.value == value), value)


def _tls(tls: Fields) -> Iterable[RenderableType]:
    rows = parts(tls, "processes")
    if not rows:
        return
    yield Text("")
    shown = plain_table(
        *("process", "program", "sessions", "inside TLS", "library"),
        numbers=("sessions",),
        folded=("process", "program", "inside TLS", "library"),
    )
    for row in rows[:_MAX_ROWS]:
        said = Text("read", style="green")
        if not flag(row, "read"):
            style = "yellow" if _is_unread_speaker(row) else "dim"
            said = Text(text(row, "why") or text(row, "unread") or "not read", style=style)
        shown.add_row(
            _process(row),
            text(row, "exe") or "-",
            str(number(row, "sessions")),
            said,
            " ".join(filter(None, (_library(row), text(row, "path")))) or "-",
        )
    yield shown
    if more := max(len(rows) - _MAX_ROWS, 0) + number(tls, "truncated"):
        yield Text(f"{describe_count(more, 'process', 'processes')} more", style="dim")


def _denials(denials: Fields) -> Iterable[RenderableType]:
    rows = parts(denials, "denials")
    if not rows:
        return
    yield Text("")
    columns = ["times", "at", "denied", "process", "rule"]
    if has_lines := any(text(row, "file") for row in rows[:_MAX_ROWS]):
        columns.append("where")
    shown = plain_table(*columns, numbers=("times",), folded=("denied", "process", "rule", "where"))
    for row in rows[:_MAX_ROWS]:
        file, line = text(row, "file"), text(row, "line")
        cells = (
            str(number(row, "count")),
            moment(row, "time"),
            Text(_target(row), style="red"),
            text(row, "process") or _process(part(row, "process")),
            text(row, "rule") or text(row, "reason"),
        )
        where = Text(f"{file}:{line}" if line else file, style="dim")
        shown.add_row(*cells, *([where] if has_lines else []))
    yield shown
    if len(rows) > _MAX_ROWS:
        yield Text(f"{len(rows) - _MAX_ROWS} more; the event log has them", style="dim")
    if denials.get("complete") is not True:
        yield Text("not all are here: some were lost, or forgotten", style="yellow")


def _target(row: Fields) -> str:
    named = text(row, "name")
    remote = text(row, "remote")
    where = f"{remote} ({named})" if named and remote else remote or named or "socket"
    return f"{text(row, 'protocol')} {where}"


def _process(process: Fields) -> str:
    name, pid = text(process, "comm", _MAX_NAME), number(process, "pid")
    return f"{name}[{pid}]" if pid else name or "unknown process"


def _detections(denials: Fields) -> Iterable[RenderableType]:
    rows = parts(denials, "detections")
    if not rows:
        return
    yield Text("")
    shown = plain_table("at", "found", "severity", "verdict", "rule", folded=("found", "rule"))
    for row in rows[:_MAX_ROWS]:
        kind = "/".join(filter(None, (text(row, "class"), text(row, "dialect"))))
        cells = (text(row, "severity"), text(row, "verdict"), text(row, "rule") or "-")
        shown.add_row(moment(row, "time"), Text(kind, style="bold red"), *cells)
    yield shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One sandbox between two looks at it."""

    sandbox: Fields
    """As it was at the second."""
    denied_per_s: float
    """Denials and what would be."""
    bytes_per_s: float | None
    """Both ways; None where the daemon does not say."""


def paces(before: Sequence[Fields], after: Sequence[Fields], passed_s: float) -> list[Pace]:
    """Return how busy each sandbox of *after* was since *before*, the busiest first."""
    earlier = {text(each, "id"): each for each in before}
    found = []
    for each in after:
        # One that came in between began at nothing.
        old = earlier.get(text(each, "id"), {})
        traffic = None
        if "bytes_out" in each:
            traffic = _grown(old, each, "bytes_out", "bytes_in") / passed_s
        denied = _grown(old, each, "denied", "would_denied") / passed_s
        found.append(Pace(sandbox=each, denied_per_s=denied, bytes_per_s=traffic))
    found.sort(key=_rank)
    return found


def _rank(pace: Pace) -> tuple[float, float, int, str]:
    total = number(pace.sandbox, "denied") + number(pace.sandbox, "would_denied")
    return (-pace.denied_per_s, -(pace.bytes_per_s or 0), -total, text(pace.sandbox, "id"))


def _grown(before: Fields, after: Fields, *keys: str) -> int:
    return sum(max(number(after, key) - number(before, key), 0) for key in keys)


def top_table(
    found: Sequence[Pace], most: int | None = None, *, is_narrow: bool = False
) -> RenderableType:
    """Return the table of the busiest *most* sandboxes; None: of all."""
    has_bytes = any(pace.bytes_per_s is not None for pace in found)
    who = ("sandbox", "policy, mode") if is_narrow else ("id", "name", "policy", "mode")
    columns = [*who, "denied/s", "denied", *(["bytes/s"] * has_bytes), "pids", "last denial"]
    if not is_narrow:
        columns.append("labels")
    numbers = ("denied/s", "denied", "bytes/s", "pids")
    shown = plain_table(*columns, numbers=numbers, folded=("sandbox", "name", "labels"))
    for pace in found[:most]:
        each = pace.sandbox
        cells: list[RenderableType] = [_stacked(each), _judged(each)]
        if not is_narrow:
            cells = [text(each, "id", _MAX_NAME), _name(each), _policy(each), _mode(each)]
        rate = f"{pace.denied_per_s:.1f}"
        cells += [Text(rate, style="bold red" if pace.denied_per_s else "dim"), _denied(each)]
        if has_bytes:
            size = None if pace.bytes_per_s is None else round(pace.bytes_per_s)
            cells.append(describe_bytes(size))
        last = moment(each, "last_denial") or "-"
        cells += [str(number(each, "pids")), last.replace(" ", "\n") if is_narrow else last]
        shown.add_row(*cells, *([] if is_narrow else [Text(labels(each))]))
    return shown


def _stacked(sandbox: Fields) -> Text:
    shown = Text(f"{text(sandbox, 'id', _MAX_NAME)} {_name(sandbox)}")
    found = labels(sandbox)
    return shown.append(f"\n{found}", style="dim") if found else shown


def _judged(sandbox: Fields) -> Text:
    return Text(f"{_policy(sandbox)}\n").append_text(_mode(sandbox))


def _name(sandbox: Fields) -> str:
    origin = part(sandbox, "origin")
    named = text(origin, "name", _MAX_NAME) or text(origin, "pod", _MAX_NAME)
    return named or text(origin, "unit", _MAX_NAME)


def _policy(sandbox: Fields) -> str:
    phase = text(sandbox, "phase")
    return f"{text(sandbox, 'policy') or '-'}{f'/{phase}' if phase else ''}"


def _mode(sandbox: Fields) -> Text:
    asked, effective = text(sandbox, "mode"), text(sandbox, "effective_mode")
    shown = Text(effective or asked, style=mode_style(effective or asked))
    if effective and asked and effective != asked:
        shown.append(f" (not {asked})", style="bold yellow")
    return shown


def _coverage(sandbox: Fields) -> Text:
    level = text(sandbox, "coverage") or "none"
    roads = len(texts(sandbox, "open_roads"))
    return Text(f"{level}{f' ({roads} open)' if roads else ''}", style=coverage_style(level))


def _coverage_listed(sandbox: Fields) -> Text:
    shown = _coverage(sandbox)
    if unread := number(sandbox, "tls_unread"):
        shown.append(f"\nTLS of {unread} not read", style="yellow")
    return shown


def _denied(sandbox: Fields) -> Text:
    denied, would = number(sandbox, "denied"), number(sandbox, "would_denied")
    shown = Text(str(denied), style="bold red" if denied else "dim")
    return shown.append(f" +{would}", style="yellow") if would else shown
