# SPDX-License-Identifier: Apache-2.0
"""Which inputs are read, and what is said of those that cannot be."""

from __future__ import annotations

import pytest
from rig.records import FINISHED, STARTED, permitted, write_log

from agentwall.cli.event_files import read_all
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import LogError


class Kept:
    """A taker that keeps what it is given."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.items: list[LoggedEvent | LogError] = []

    def begin(self, source: str) -> None:
        self.sources.append(source)

    def add(self, item: LoggedEvent | LogError) -> None:
        self.items.append(item)


def read(*names: object) -> tuple[list[str], Kept]:
    kept = Kept()
    return read_all(map(str, names), kept), kept


def test_files_and_directories(tmp_path):
    """A directory stands for its event files, by name; a file for itself."""
    for name in ("b.jsonl", "a.jsonl"):
        write_log(tmp_path / name, [STARTED, permitted(), FINISHED])
    (tmp_path / "notes.txt").write_text("not events", encoding="ascii")

    problems, kept = read(tmp_path, tmp_path / "b.jsonl")

    assert problems == []
    assert [name.rpartition("/")[2] for name in kept.sources] == ["a.jsonl", "b.jsonl", "b.jsonl"]
    assert len(kept.items) == 9


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected events of agentwall run, got none"),
        (b"text\n", "expected events of agentwall run, got none"),
        (b"\x0a\x0d\x0d\x0a" + bytes(20), "got a packet capture"),
        (None, "No such file"),
    ],
)
def test_no_events(tmp_path, content, says):
    """An input without an event is a problem; those after it are read."""
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    if content is not None:
        bad.write_bytes(content)
    write_log(good, [STARTED, FINISHED])

    problems, kept = read(bad, good)

    assert len(problems) == 1
    assert problems[0].startswith(str(bad))
    assert says in problems[0]
    assert sum(isinstance(item, LoggedEvent) for item in kept.items) == 2


def test_damage_stands_in_its_place(tmp_path):
    """Where a log is cut the taker is told, between the events around it."""
    path = write_log(tmp_path / "e.jsonl", [STARTED, permitted(), permitted(), FINISHED])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))

    problems, kept = read(path)

    assert problems == []
    assert [isinstance(item, LogError) for item in kept.items] == [False, True, False, False]
