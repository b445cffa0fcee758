# SPDX-License-Identifier: Apache-2.0
"""Which inputs are read, and what is said of those that cannot be."""

from __future__ import annotations

import pytest
from rig.daemon_log import write_daemon_log
from rig.records import FINISHED, STARTED, permitted, write_log

from agentwall.cli.event_files import is_event_name, read_all, with_rotated
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import Damage, LogError


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


def test_rotated_files_are_one_log(tmp_path):
    """In a directory, or named in whatever order, the files of a log are read the oldest first."""
    newest = write_daemon_log(tmp_path)
    files = with_rotated(str(newest))
    problems, kept = read(tmp_path)
    again, mixed = read(*reversed(files))

    assert problems == again == []
    assert kept.sources == mixed.sources == files
    assert not any(isinstance(item, LogError) for item in (*kept.items, *mixed.items))


def test_a_file_given_twice(tmp_path):
    """A file that is read a second time follows nothing, and is no broken chain."""
    newest = write_daemon_log(tmp_path)
    _, kept = read(tmp_path, newest)

    flaws = [item.damage for item in kept.items if isinstance(item, LogError)]
    assert flaws == [Damage.CONTINUED]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("e.jsonl", True),
        ("e.jsonl.1", True),
        ("e.jsonl.12", True),
        ("e.jsonl.01", False),
        ("e.jsonl.gz", False),
        ("e.json", False),
        ("jsonl", False),
    ],
)
def test_names_of_event_files(name, is_one):
    """Rotated files count, what was packed or is called otherwise does not."""
    assert is_event_name(name) is is_one


def test_beside_it(tmp_path):
    """The rotated files of a log of any name are found, the oldest first; others are not."""
    for name in ("d.log", "d.log.2", "d.log.10", "d.log.x", "e.log.1"):
        (tmp_path / name).touch()

    found = with_rotated(str(tmp_path / "d.log"))
    assert [each.rpartition("/")[2] for each in found] == ["d.log.10", "d.log.2", "d.log"]
    assert with_rotated(str(tmp_path / "none" / "x")) == []
