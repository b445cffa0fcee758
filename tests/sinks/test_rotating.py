# SPDX-License-Identifier: Apache-2.0
"""The daemon's log on real files: rotated, moved, deleted, torn, and on a disk that is full."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from rig.cli import run_agentwall
from rig.records import flow, state
from rig.small_disk import small_disk

from agentwall.errors import HostError
from agentwall.flow.record import HOST, GapRecord, Record, StateRecord
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent
from agentwall.sinks.eventlog import CONTINUED, Chain, Damage, LogError, read_log
from agentwall.sinks.jsonl import GAP_WHERE
from agentwall.sinks.rotating import RotatingLog

DAEMON = replace(state("daemon-started"), sandbox=HOST)


def open_log(path: Path, run: str = "d1", *, max_bytes: int = 20_000, keep: int = 8) -> RotatingLog:
    log = RotatingLog(path, run, max_bytes=max_bytes, keep=keep)
    # Look each time: tests do not wait.
    log._next_look_s = 0.0
    return log


def begin_log(path: Path, *, keep: int = 8) -> RotatingLog:
    log = open_log(path, keep=keep)
    log.write(DAEMON)
    return log


def write(log: RotatingLog, number: int, each: int = 1) -> None:
    for index in range(number):
        log.write(flow(errno=index + 1))
        if index % each == each - 1:
            log._next_look_s = 0.0
            log.flush()
    log.flush()


def files(path: Path) -> list[Path]:
    found = [each for each in path.parent.iterdir() if each.name.startswith(path.name)]
    return sorted(found, key=lambda each: -int(each.suffix[1:]) if each.suffix[1:].isdigit() else 0)


def read(path: Path) -> list[LoggedEvent | LogError]:
    """Read all files of a log as one, the oldest first."""
    chain = Chain()
    found: list[LoggedEvent | LogError] = []
    for each in files(path):
        with each.open("rb") as stream:
            found += read_log(stream, each.name, chain)
    return found


def flaws(path: Path) -> list[Damage]:
    return [item.damage for item in read(path) if isinstance(item, LogError)]


def records(path: Path) -> list[Record]:
    return [item.record for item in read(path) if isinstance(item, LoggedEvent)]


def marks(found: list[Record]) -> list[StateRecord]:
    return [each for each in found if isinstance(each, StateRecord) and each.state == CONTINUED]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "log" / "events.jsonl"


@pytest.mark.parametrize("each", [1, 7, 100])
def test_files_are_rotated_and_are_one_log(path, each):
    """No file grows beyond its size, however large the batches; nothing is missing between them."""
    log = open_log(path)
    log.write(DAEMON)
    write(log, 100, each)
    log.close()

    found = read(path)
    assert [item for item in found if isinstance(item, LogError)] == []
    assert len(files(path)) == log.rotated + 1 > 3
    assert all(each.stat().st_size <= 20_000 for each in files(path))
    assert [one.errno for one in records(path) if not isinstance(one, StateRecord)] == list(
        range(1, 101)
    )
    assert [item.id for item in found] == [f"d1-{n}" for n in range(1, len(found) + 1)]
    assert len(marks(records(path))) == log.rotated
    assert (log.written, log.failed) == (len(found), 0)


def test_each_file_says_what_it_continues(path):
    """A rotated file begins with a record that says so; read alone that is no flaw but a note."""
    log = begin_log(path)
    write(log, 100)
    log.close()
    with path.open("rb") as stream:
        first, second, *_ = read_log(stream, "events.jsonl")

    assert (first.damage, first.severity.label) == (Damage.CONTINUED, "info")
    assert (second.record.sandbox, second.record.state) == (HOST, CONTINUED)
    assert second.record.detail == {"file": "events.jsonl", "run": "d1"}


def test_a_file_that_is_missing_is_noticed(path):
    """Whoever takes a whole file out of the middle breaks the chain."""
    log = begin_log(path)
    write(log, 100)
    log.close()
    files(path)[1].unlink()

    (flaw,) = [item for item in read(path) if isinstance(item, LogError)]
    assert (flaw.damage, flaw.line) == (Damage.CHAIN_BROKEN, 1)
    assert "a file between them is missing" in flaw.problem


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_old_files_go(path, keep):
    """So many rotated files are kept and no more."""
    log = open_log(path, keep=keep)
    write(log, 200)
    log.close()

    assert [each.name for each in files(path)] == [
        *(f"events.jsonl.{number}" for number in range(keep, 0, -1)),
        "events.jsonl",
    ]


def test_a_restart_goes_on(path):
    """The next daemon appends under its own run; the chain does not break, the mode is 0640."""
    for run in ("d1", "d2", "d3"):
        log = open_log(path, run)
        log.write(DAEMON)
        write(log, 3)
        log.close()

    found = read(path)
    assert flaws(path) == []
    assert [item.id for item in found][:6] == ["d1-1", "d1-2", "d1-3", "d1-4", "d2-1", "d2-2"]
    assert found[0].prev == FIRST_PREV
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_restart_after_a_rotation(path):
    """Where the newest file is missing the chain goes on from the one before."""
    log = begin_log(path)
    write(log, 5)
    log.close()
    path.rename(f"{path}.1")
    log = open_log(path, "d2")
    write(log, 1)
    log.close()

    assert flaws(path) == []
    assert len(marks(records(path))) == 1


@pytest.mark.parametrize("cut", [1, 5, 300])
def test_a_torn_last_line(path, cut):
    """What a crash left of a line is ended, told as a gap, and covered by the chain."""
    log = open_log(path)
    log.write(DAEMON)
    write(log, 3)
    log.close()
    os.truncate(path, path.stat().st_size - cut)
    log = open_log(path, "d2")
    log.write(DAEMON)
    log.close()

    found = read(path)
    # Only the line end was missing: the line itself counts.
    expected = [] if cut == 1 else [Damage.BAD_LINE]
    assert flaws(path) == expected
    gap = found[-2].record
    assert isinstance(gap, GapRecord)
    assert (gap.where, gap.lost) == (GAP_WHERE, 1)


def test_a_long_last_line(path):
    """The chain is taken up whatever the length of the last line."""
    log = open_log(path, max_bytes=1 << 22)
    log.write(replace(DAEMON, detail={"text": "x" * 200_000}))
    log.close()
    log = open_log(path, "d2", max_bytes=1 << 22)
    log.write(DAEMON)
    log.close()

    assert flaws(path) == []


def test_a_record_beyond_the_size(path):
    """One that no file has room for gets a file of its own."""
    log = open_log(path, max_bytes=2000)
    for _ in range(3):
        log.write(replace(DAEMON, detail={"text": "x" * 5000}))
    log.close()

    assert flaws(path) == []
    assert [len(each.read_bytes().splitlines()) for each in files(path)] == [1, 2, 2]


@pytest.mark.parametrize("how", ["moved", "deleted", "truncated"])
def test_somebody_moves_the_file(path, how):
    """logrotate may move, delete or empty it: a new one continues it, and says so."""
    log = begin_log(path)
    write(log, 3)
    if how == "moved":
        path.rename(f"{path}.1")
    elif how == "deleted":
        path.unlink()
    else:
        os.truncate(path, 0)
    write(log, 3)
    log.close()

    expected = [] if how == "moved" else [Damage.CONTINUED]
    assert flaws(path) == expected
    last = records(path)[-4:]
    assert last[0].state == CONTINUED
    assert [record.errno for record in last[1:]] == [1, 2, 3]
    assert log.failed == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_in_its_place(path, caplog):
    """A link is refused at the start; put there later, events stay in the old file."""
    path.parent.mkdir()
    aim = path.parent / "aim"
    aim.write_bytes(b"mine")
    path.symlink_to(aim)
    with pytest.raises(HostError, match=r"events\.jsonl: expected a file, got a link"):
        open_log(path)
    path.unlink()
    log = open_log(path)
    write(log, 1)
    path.rename(f"{path}.1")
    path.symlink_to(aim)
    write(log, 2)

    assert log.problem == f"event log {path}: expected a file, got a link"
    assert aim.read_bytes() == b"mine"
    assert Path(f"{path}.1").read_bytes().count(b"\n") == 3
    assert len(caplog.records) == 1
    path.unlink()
    write(log, 1)
    assert log.problem is None
    log.close()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: os.chown(path, 1234, 0), "expected a file of our own, got one of uid 1234"),
        (lambda path: os.link(path, f"{path}.x"), "expected a regular file with one name"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "No such device or address"),
    ],
)
def test_what_is_refused(path, spoil, says):
    """Files of others, with several names, and what is no file are not written to."""
    path.parent.mkdir()
    path.write_bytes(b"")
    spoil(path)

    with pytest.raises(HostError, match=says):
        open_log(path)


def test_the_group_may_read(path):
    """The files, rotated ones too, belong to the group that was given."""
    log = RotatingLog(path, "d1", max_bytes=5000, keep=2, group=1234)
    write(log, 30)
    log.close()

    assert {each.stat().st_gid for each in files(path)} == {1234}
    assert {stat.S_IMODE(each.stat().st_mode) for each in files(path)} == {0o640}


def test_a_full_disk(tmp_path):
    """What finds no room is counted and told in a gap once there is some; the log holds."""
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        path = disk / "events.jsonl"
        log = open_log(path, max_bytes=24_000, keep=4)
        log.write(DAEMON)
        write(log, 300)
        failed = log.failed
        before = records(path)
        for each in files(path)[:-1]:
            each.unlink()
        write(log, 5)
        log.close()
        after = records(path)
        found = flaws(path)

    assert failed > 100
    assert len([one for one in before if not isinstance(one, StateRecord)]) == 300 - failed
    assert found == [Damage.CONTINUED]
    gaps = [one for one in after if isinstance(one, GapRecord)]
    assert [(gap.where, gap.lost) for gap in gaps] == [(GAP_WHERE, failed)]
    assert [one.errno for one in after[-5:]] == [1, 2, 3, 4, 5]
    assert log.failed == failed


def test_a_directory_that_cannot_be_written(path, caplog):
    """Where rotating fails the file goes on beyond its size, and the others stay as they are."""
    log = begin_log(path, keep=1)
    blocked = Path(f"{path}.1")
    blocked.mkdir()
    (blocked / "full").touch()
    write(log, 100)
    problem = log.problem
    (blocked / "full").unlink()
    blocked.rmdir()
    write(log, 1)
    log.close()

    assert problem is not None
    assert problem.startswith("rotating: ")
    assert len(caplog.records) == 1
    assert blocked.stat().st_size > 20_000
    assert (log.failed, log.problem) == (0, None)
    assert flaws(path) == []


def test_audit_reads_a_directory_of_them(path):
    """`audit` of the directory reads the files as one log; of a rotated one alone it says so."""
    log = begin_log(path)
    write(log, 100)
    log.close()
    whole = run_agentwall("audit", "--format", "json", "--fail-on", "critical", path.parent)
    alone = run_agentwall("audit", "--format", "json", "--fail-on", "critical", path)

    assert whole.returncode == alone.returncode == 0
    report = json.loads(whole.stdout)
    assert report["errors"] == []
    assert report["totals"]["denied"] == 100
    assert report["sandboxes"] == []
    (error,) = json.loads(alone.stdout)["errors"]
    assert (error["damage"], error["severity"]) == ("continued", "info")
    assert "give both, or the directory" in error["problem"]
