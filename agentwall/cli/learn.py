# SPDX-License-Identifier: Apache-2.0
"""``agentwall policy learn``: event files in, a policy that permits what was seen out."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agentwall.cli.event_files import read_all
from agentwall.cli.failures import EXIT_USAGE, print_lines
from agentwall.engine.severity import DAMAGED
from agentwall.flow.record import FlowRecord, GapRecord, StateRecord
from agentwall.policy.learn import (
    FEWEST_OF_A_SCAN,
    MAX_TARGETS,
    Learned,
    Learner,
    LearnOptions,
)
from agentwall.policy.learned_evidence import Sighting
from agentwall.policy.learned_yaml import format_policy
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import LogError

EXIT_NOTHING = 1
_MOST_GAPS = 20
"""Lines about what is wrong with the logs; a damaged one may have millions."""


class _Reading:
    """Takes events: flows go to the learner, what is missing is noted."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.gaps: list[str] = []
        self.remarks: list[str] = []
        self._more_gaps = 0
        self._source = ""

    def begin(self, source: str) -> None:
        self._source = source

    def add(self, item: LoggedEvent | LogError) -> None:
        if isinstance(item, LogError):
            self._note_gap(str(item))
            return
        match item.record:
            case FlowRecord() as record:
                self.learner.add(Sighting(record=record, event=item.id, source=self._source))
            case GapRecord() as gap:
                self._note_gap(f"{self._source}: {item.id}: {gap.lost} events lost ({gap.where})")
            case StateRecord() as state:
                self._add_state(state, item.id)

    def _add_state(self, state: StateRecord, event: str) -> None:
        if state.state == DAMAGED:
            what = state.detail.get("what")
            self._note_gap(f"{self._source}: {event}: the wall was damaged: {what}")
        coverage = state.detail.get("coverage")
        if state.state == "started" and coverage != "full" and len(self.remarks) < _MOST_GAPS:
            self.remarks.append(
                f"coverage of {state.sandbox.id} was {coverage}: what left by other roads is not "
                "in the log"
            )

    def _note_gap(self, text: str) -> None:
        if len(self.gaps) < _MOST_GAPS:
            self.gaps.append(text)
        else:
            self._more_gaps += 1

    def gap_lines(self) -> list[str]:
        """Return what is missing, in the order it was found."""
        return self.gaps + ([f"and {self._more_gaps} more gaps"] if self._more_gaps else [])


@click.command(short_help="Propose a policy from event files.")
@click.argument("events", nargs=-1, required=True, metavar="EVENTS|DIR|-...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write to this file, which must not exist, instead of stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option(
    "--include-denied",
    is_flag=True,
    help="Propose also what was refused only because no rule allowed it.",
)
@click.option(
    "--wildcards",
    type=click.IntRange(min=2),
    metavar="N",
    help="From N names of one parent on, propose *.parent in their place.",
)
@click.option(
    "--scan",
    type=click.IntRange(min=2),
    default=FEWEST_OF_A_SCAN,
    show_default=True,
    metavar="N",
    help="N addresses without a name at one port, or N ports of one host, are a scan.",
)
@click.option("--allow-gaps", is_flag=True, help="Learn from logs of which parts are missing.")
def learn(
    events: tuple[str, ...],
    output: str | None,
    force: bool,
    include_denied: bool,
    wildcards: int | None,
    scan: int,
    allow_gaps: bool,
) -> int:
    """Propose the least policy that permits what event files tell of.

    EVENTS is an event file of agentwall run, a directory of them (*.jsonl), or - for stdin; best of
    runs in mode observe. Exits with 1 if nothing was seen that needs a rule.
    """
    if output is not None and not force and Path(output).exists():
        return _fail([f"{output}: the file exists; --force overwrites it"])
    options = LearnOptions(include_denied=include_denied, wildcards=wildcards, scan=scan)
    reading = _Reading(Learner(options))
    if problems := read_all(dict.fromkeys(events), reading):
        return _fail(problems)
    gaps = reading.gap_lines()
    if gaps and not allow_gaps:
        return _fail([*gaps, "the logs have gaps; --allow-gaps learns from what is left"])
    learned = reading.learner.learned()
    if learned.untaken:
        return _fail([f"expected at most {MAX_TARGETS} destinations: this is no policy"])
    if learned.is_empty:
        print_lines([*_left_out(learned), "nothing to learn: nothing was seen that needs a rule"])
        return EXIT_NOTHING
    return _write(format_policy(learned, [*gaps, *reading.remarks]), output, force)


def _left_out(learned: Learned) -> list[str]:
    groups = itertools.groupby(learned.left_out, key=lambda item: item.reason)
    return [f"left out: {reason}: {len(list(items))}" for reason, items in groups]


def _write(text: str, output: str | None, force: bool) -> int:
    if output is None:
        sys.stdout.write(text)
        return 0
    try:
        with open(output, "w" if force else "x", encoding="ascii") as file:
            file.write(text)
    except OSError as err:
        return _fail([f"{output}: {err.strerror}"])
    return 0


def _fail(lines: Sequence[str]) -> int:
    print_lines(lines)
    return EXIT_USAGE
