# SPDX-License-Identifier: Apache-2.0
"""``agentwall doctor``: what this host can enforce, found out by trying; and what is left over.

Exits with 0, with 4 where a required hook is missing, with 77 where agentwall cannot run at all,
and with 1 where ``--clean`` could not clear everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from agentwall.cli.doctor_tls import inside_tls
from agentwall.cli.failures import EXIT_CANNOT_RUN, print_lines
from agentwall.daemon.leftovers import Leftover, clear_leftover, find_leftovers, is_run_id
from agentwall.detect.budget import BudgetError
from agentwall.errors import (
    AgentwallError,
    HostError,
    KernelError,
    PolicyError,
    UnsupportedFeatureError,
)
from agentwall.flow.record import SandboxKey
from agentwall.host import state
from agentwall.host.netns import netns_cookie
from agentwall.host.resolver import advise_servers, read_resolv_conf
from agentwall.host.roads import Road, find_roads
from agentwall.host.signature_files import read_signatures, table_of
from agentwall.host.sock_diag import try_destroying
from agentwall.kernel import pins
from agentwall.kernel.abi_scan import STATES
from agentwall.kernel.cgroup2 import attachable, temporary_cgroup
from agentwall.kernel.features import Feature, Group, State, survey
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.links import ProgramInfo, effective_programs, program_info
from agentwall.kernel.wall import Wall
from agentwall.sinks.escape import printable

EXIT_NOT_CLEARED = 1
EXIT_HOOK_MISSING = 4
SCHEMA = "agentwall.doctor/1"

_SOCK_ADDR = (AttachType.CONNECT4, AttachType.CONNECT6, AttachType.SENDMSG4, AttachType.SENDMSG6)
_TITLES = {Group.HOST: "this host", Group.HOOK: "hooks", Group.KERNEL: "kernel"}
_TRIAL = SandboxKey(1)
_WALL = "the wall itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """Everything that was found."""

    features: list[Feature]
    translators: list[ProgramInfo]
    """Programs on this process's cgroup or above it that may rewrite destinations."""
    roads: list[Road]
    leftovers: list[Leftover]
    orphans: list[Path]
    """Pin directories of runs that no record names. A daemon's are its own: what it leaves stands
    until the next one takes it over, or until ``agentwall daemon --detach``."""

    @property
    def exit_code(self) -> int:
        """What this host comes to, leftovers apart."""
        lacking = [f for f in self.features if f.required and f.state is not State.SUPPORTED]
        groups = {feature.group for feature in lacking}
        if Group.HOOK in groups and Group.HOST not in groups:
            return EXIT_HOOK_MISSING
        return EXIT_CANNOT_RUN if groups else 0


@click.command(short_help="Say what this host can enforce.")
@click.option("--clean", is_flag=True, help="Clear what runs that were killed have left.")
@click.option("--kill", is_flag=True, help="With --clean: also end what still lives behind it.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["pretty", "json"]),
    default="pretty",
    show_default=True,
)
def doctor(clean: bool, kill: bool, format_: str) -> int:
    """Say what this host can enforce, hook by hook, by trying.

    Also names open roads, programs that may rewrite destinations, and what is left of runs that
    were killed. Needs root for all but the first lines.
    """
    if kill and not clean:
        raise click.UsageError("--kill goes with --clean")
    problems = _clear(kill) if clean else []
    checkup = _examine()
    if format_ == "json":
        click.echo(json.dumps(_encode(checkup), indent=2))
    else:
        in_colour = _wants_colour()
        for line, colour in _lines(checkup, _terminal_columns()):
            click.secho(line, fg=colour, bold=colour == _HEADING, color=in_colour)
    print_lines(problems)
    return checkup.exit_code or (EXIT_NOT_CLEARED if problems else 0)


def _examine() -> Checkup:
    features = survey()
    is_able = all(f.state is State.SUPPORTED for f in features if f.group is Group.HOST)
    if is_able:
        features.append(_try_wall())
    features += _name_features()
    features += [_try_destroying(is_able), _try_signatures(), *inside_tls(is_able=is_able)]
    return Checkup(
        features=features,
        translators=_translators() if is_able else [],
        roads=find_roads(),
        leftovers=find_leftovers(),
        orphans=_orphans(),
    )


# The proof of all the above: the programs themselves, on an empty cgroup of our own.
def _try_wall() -> Feature:
    start_s = time.monotonic()
    try:
        with temporary_cgroup() as cgroup, Wall.load() as wall:
            wall.attach(cgroup, _TRIAL)
            count = len(wall.links(_TRIAL))
            wall.detach(_TRIAL)
        detail = f"{count} programs loaded and attached in {time.monotonic() - start_s:.2f} s"
        found = State.SUPPORTED
    except AgentwallError as err:
        detail, found = str(err), State.MISSING
    return Feature(
        name=_WALL,
        group=Group.KERNEL,
        state=found,
        detail=detail,
        required=True,
        remedy="" if found is State.SUPPORTED else "what is missing above; else report it",
    )


def _name_features() -> Iterator[Feature]:
    """Yield what rules on names depend on beside the wall's hooks."""
    yield Feature(
        name="resolv.conf",
        group=Group.HOST,
        state=State.SUPPORTED,
        detail=advise_servers(read_resolv_conf()),
        required=False,
    )
    try:
        netns_cookie()
        detail, found = "there: DNS answers count in the sandbox's own one only", State.SUPPORTED
    except UnsupportedFeatureError as err:
        detail, found = str(err), State.MISSING
    yield Feature(name="netns cookie", group=Group.HOST, state=found, detail=detail, required=False)


def _try_destroying(is_able: bool) -> Feature:
    """Find out whether an application learns that its flow was cut for what it said."""
    detail, found = "not tried: needs root", State.UNKNOWN
    if is_able:
        try:
            try_destroying()
            detail, found = "an application is told at once that its flow is cut", State.SUPPORTED
        except HostError as err:
            detail, found = f"applications hang whose flow is cut: {err}", State.MISSING
    return Feature(
        name="ending sockets",
        group=Group.HOST,
        state=found,
        detail=detail,
        required=False,
        remedy="" if found is not State.MISSING else "a kernel with CONFIG_INET_DIAG_DESTROY",
    )


def _try_signatures() -> Feature:
    """Find out whether the signatures of this host fit the kernel's table."""
    try:
        signatures = read_signatures()
        table = table_of(signatures)
        detail = f"{len(signatures.signatures)}, in {table.states} of {STATES} states"
        found = State.SUPPORTED
    except (PolicyError, BudgetError) as err:
        detail, found = str(err), State.MISSING
    return Feature(
        name="signatures",
        group=Group.HOST,
        state=found,
        detail=detail,
        required=False,
        remedy=""
        if found is State.SUPPORTED
        else "signatures that fit; without them no run starts",
    )


def _translators() -> list[ProgramInfo]:
    found: dict[int, ProgramInfo] = {}
    with temporary_cgroup() as cgroup, attachable(cgroup) as fd:
        for attach_type in _SOCK_ADDR:
            for program_id in effective_programs(fd, attach_type):
                info = program_info(program_id)
                if info:
                    found[program_id] = info
    return list(found.values())


# Pins are listed before records are read: a run writes its record first and removes it last.
def _orphans() -> list[Path]:
    pinned = _pinned() or []
    known = {record.id for record in (*state.live_runs(), *state.leftovers())}
    return [path for path in pinned if is_run_id(path.name) and path.name not in known]


def _pinned() -> list[Path] | None:
    """Return where runs have their pins; None: whoever asks may not look."""
    try:
        return pins.pin_dirs()
    except PermissionError:
        return None


def _clear(kill: bool) -> list[str]:
    problems = []
    for leftover in find_leftovers():
        try:
            clear_leftover(leftover, force=kill)
        except AgentwallError as err:
            advice = "" if kill else "; --kill ends them"
            problems.append(f"{err}{advice if leftover.pids else ''}")
    pinned = _pinned()
    if pinned is None:
        problems.append(f"{pins.BPFFS}: expected root, to clear what is left there: use sudo")
    elif pinned:
        with state.exclusive():
            for path in _orphans():
                try:
                    pins.clear_pins(path)
                except KernelError as err:
                    problems.append(str(err))
    return problems


def _encode(checkup: Checkup) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "exit": checkup.exit_code,
        "features": [
            asdict(f) | {"group": f.group.value, "state": f.state.value} for f in checkup.features
        ],
        "translators": [asdict(program) for program in checkup.translators],
        "roads": [asdict(road) for road in checkup.roads],
        "leftovers": [
            {"run": left.record.id, "cgroup": left.record.cgroup, "pids": list(left.pids)}
            for left in checkup.leftovers
        ],
        "orphans": [str(path) for path in checkup.orphans],
    }


@dataclass(frozen=True, slots=True)
class _Row:
    """One thing that was found."""

    word: str
    name: str
    detail: str
    colour: str | None = None


_Line = tuple[str, str | None]
"""Text that is safe to print, and its colour."""
_HEADING = "cyan"
_COLOURS = {"ok": "green", "MISSING": "red", "absent": "yellow", "not tried": "yellow"}
_WORD_WIDTH = 10
_LEAST_DETAIL = 30
"""Narrower than that, what was found is left to the terminal to break."""


def _lines(checkup: Checkup, columns: int | None = None) -> Iterator[_Line]:
    """Yield what to print; broken to *columns*, for a terminal."""
    sections = list(_sections(checkup))
    width = max(len(printable(row.name)) for _, rows in sections for row in rows) + 2
    for title, rows in sections:
        yield title, _HEADING
        for row in rows:
            for line in _layout(row, width, columns):
                yield line, row.colour
    yield _conclusion(checkup)


def _layout(row: _Row, width: int, columns: int | None) -> list[str]:
    first = f"  {row.word:{_WORD_WIDTH}}{printable(row.name):{width}}"
    detail = printable(row.detail)
    if columns is None or columns - len(first) < _LEAST_DETAIL:
        return [f"{first}{detail}".rstrip()]
    rest = " " * len(first)
    broken = textwrap.wrap(detail, columns, initial_indent=first, subsequent_indent=rest)
    return broken or [first.rstrip()]


def _sections(checkup: Checkup) -> Iterator[tuple[str, list[_Row]]]:
    for group, title in _TITLES.items():
        features = [feature for feature in checkup.features if feature.group is group]
        yield title, list(_feature_rows(features, group))
    yield "open roads", list(_road_rows(checkup)) or [_Row("none", "", "", "green")]
    if checkup.leftovers or checkup.orphans:
        option = "--clean --kill" if any(left.pids for left in checkup.leftovers) else "--clean"
        yield f"left over (agentwall doctor {option} clears it)", list(_leftover_rows(checkup))


def _feature_rows(features: list[Feature], group: Group) -> Iterator[_Row]:
    untried = [feature for feature in features if feature.state is State.UNKNOWN]
    if untried and group is not Group.HOST and len(untried) == len(features):
        # One cause, and every line would repeat it.
        yield from _rows_of(replace(untried[0], name=f"all {len(untried)}"))
        return
    if group is Group.KERNEL:
        # Map types and helpers that are there go in one line.
        telling = [f for f in features if f.state is not State.SUPPORTED or f.name == _WALL]
        if plain := len(features) - len(telling):
            text = f"{plain} maps, helpers and operations that the programs need"
            yield _Row("ok", "what they use", text, "green")
        features = telling
    for feature in features:
        yield from _rows_of(feature)


def _rows_of(feature: Feature) -> Iterator[_Row]:
    words = {
        State.SUPPORTED: "ok",
        State.MISSING: "MISSING" if feature.required else "absent",
        State.UNKNOWN: "not tried",
    }
    word = words[feature.state]
    detail = feature.detail.replace("not tried: ", "because of: ", 1)
    yield _Row(word, feature.name, detail, _COLOURS[word])
    if feature.remedy:
        yield _Row("", "", f"needs: {feature.remedy}")


def _road_rows(checkup: Checkup) -> Iterator[_Row]:
    for road in checkup.roads:
        yield _Row("open", road.name, road.detail, "yellow")
        yield _Row("", "", f"close: {road.remedy}")
    for program in checkup.translators:
        text = f"{program.name} (id {program.id}, loaded by uid {program.created_by_uid})"
        yield _Row("open", "translation", f"may rewrite destinations: {text}", "yellow")


def _leftover_rows(checkup: Checkup) -> Iterator[_Row]:
    for leftover in checkup.leftovers:
        yield _Row("run", "", str(leftover).removeprefix("run "), "yellow")
    for path in checkup.orphans:
        yield _Row("pins", "", f"{path}: of no run", "yellow")


def _conclusion(checkup: Checkup) -> _Line:
    if checkup.exit_code == 0:
        return "agentwall can run here: every required hook is there", "green"
    lacking = [f.name for f in checkup.features if f.required and f.state is State.MISSING]
    what = "is not closed" if checkup.exit_code == EXIT_HOOK_MISSING else "cannot run"
    return f"agentwall {what} here: {', '.join(lacking)}", "red"


def _terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is, or None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _wants_colour() -> bool | None:
    """Return False where colour is not wanted, and None to have it in a terminal only."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if is_plain else None
