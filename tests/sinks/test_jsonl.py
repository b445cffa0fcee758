# SPDX-License-Identifier: Apache-2.0
"""The event log on real files, full disks and pipes."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import stat
from contextlib import contextmanager

import pytest
from rig.records import FINISHED, STARTED, flow, rome_day, write_log

from agentwall.errors import HostError
from agentwall.flow.record import GapRecord
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent
from agentwall.sinks.eventlog import read_log
from agentwall.sinks.jsonl import BATCH, GAP_WHERE, EventLog, open_event_file


def read(path):
    with path.open("rb") as stream:
        return list(read_log(stream, str(path)))


@contextmanager
def file_size_limit(size_bytes):
    """Let no file of this process grow past *size_bytes*: writes fail with EFBIG, partly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_each_line_carries_the_hash_of_the_one_before(tmp_path):
    """The chain is SHA-256 over the bytes of the line before; the first has 64 zeros."""
    path = write_log(tmp_path / "e.jsonl", rome_day())

    prev = FIRST_PREV
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        document = json.loads(line)
        assert document["prev"] == prev
        assert document["id"] == f"run-7f3a-{number}"
        prev = hashlib.sha256(line).hexdigest()


def test_records_come_back(tmp_path):
    """What was written is read back, without a complaint."""
    records = rome_day()

    found = read(write_log(tmp_path / "e.jsonl", records))

    assert [item.record for item in found] == records


def test_records_wait_for_flush(tmp_path):
    """Records are written in batches, at the latest when a batch is full."""
    path = tmp_path / "e.jsonl"
    log = EventLog(open_event_file(str(path)), "r")
    log.write(STARTED)
    before = path.stat().st_size
    log.flush()
    after = path.stat().st_size
    for _ in range(BATCH):
        log.write(flow())
    full = path.stat().st_size
    log.close()

    assert before == 0 < after < full
    assert log.written == BATCH + 1


@pytest.mark.parametrize("limit", [1, 700, 2000, 5000, 9999])
def test_a_full_disk_is_survived_and_told(tmp_path, limit):
    """What did not fit is counted; the file holds whole lines, then a gap, then the rest."""
    path = tmp_path / "e.jsonl"
    log = EventLog(open_event_file(str(path)), "r")
    with file_size_limit(limit):
        log.write(STARTED)
        log.flush()
        for _ in range(30):
            log.write(flow())
            log.flush()
    kept = path.read_bytes().count(b"\n")
    log.write(FINISHED)
    log.close()

    found = read(path)
    assert kept < 31
    assert all(isinstance(item, LoggedEvent) for item in found[1 if limit == 1 else 0 :])
    gaps = [item.record for item in found if isinstance(getattr(item, "record", None), GapRecord)]
    assert [(gap.where, gap.lost) for gap in gaps] == [(GAP_WHERE, 31 - kept)]
    assert log.failed == 31 - kept
    assert found[-1].record == FINISHED
    # The ids alone tell how many are missing: they count on over the lost ones.
    assert found[-1].id == f"r-{31 + 2}"


def test_a_disk_that_fails_twice_loses_count_of_nothing(tmp_path):
    """Each time without room ends in a gap of its own, and the chain holds."""
    path = tmp_path / "e.jsonl"
    log = EventLog(open_event_file(str(path)), "r")
    log.write(STARTED)
    log.flush()
    for _ in range(2):
        with file_size_limit(path.stat().st_size + 10):
            for _ in range(3):
                log.write(flow())
            log.flush()
        log.write(flow())
        log.flush()
    log.write(FINISHED)
    log.close()

    found = [item.record for item in read(path)]
    assert [record.lost for record in found if isinstance(record, GapRecord)] == [3, 3]
    assert log.failed == 6


def test_the_last_loss_is_told_at_the_end(tmp_path):
    """A gap follows once there is room again, even when no record comes any more."""
    path = tmp_path / "e.jsonl"
    log = EventLog(open_event_file(str(path)), "r")
    log.write(STARTED)
    log.flush()
    with file_size_limit(path.stat().st_size):
        log.write(flow())
        log.flush()
    log.close()

    assert [item.record.lost for item in read(path)[1:-1]] == [1]


def test_a_full_device_raises_nothing(caplog):
    """A device that takes nothing is an error counted and logged once."""
    log = EventLog(open_event_file("/dev/full"), "r")
    for _ in range(5):
        log.write(flow())
        log.flush()
    log.close()

    assert (log.written, log.failed) == (0, 5)
    assert [record.message for record in caplog.records] == ["event file: No space left on device"]


def test_a_pipe_whose_reader_left_raises_nothing():
    """A reader that goes away costs events, not the run."""
    reader, writer = os.pipe()
    log = EventLog(writer, "r")
    log.write(STARTED)
    log.flush()
    os.close(reader)
    log.write(FINISHED)
    log.close()

    assert (log.written, log.failed) == (1, 1)


def test_the_file_is_the_owners(tmp_path):
    """The command it accuses can read it through its group, and never write."""
    path = tmp_path / "e.jsonl"
    before = os.umask(0)
    try:
        os.close(open_event_file(str(path), group=os.getgid()))
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_gid == os.getgid()


@pytest.mark.parametrize(
    ("link", "problem"),
    [(False, "exists already; choose another name"), (True, "expected a new file, got a symbolic")],
)
def test_evidence_is_never_written_over(tmp_path, link, problem):
    """A file that exists, also behind a link, is refused and keeps its content."""
    target = tmp_path / "there"
    target.write_text("evidence", encoding="ascii")
    path = tmp_path / "link" if link else target
    if link:
        path.symlink_to(target)

    with pytest.raises(HostError, match=f"event file .*: {problem}"):
        open_event_file(str(path))
    assert target.read_text(encoding="ascii") == "evidence"


def test_a_link_that_leads_nowhere(tmp_path):
    """A link whose target does not exist is refused as a link, and nothing is made."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")

    with pytest.raises(HostError, match="expected a new file, got a symbolic link"):
        open_event_file(str(link))
    assert not (tmp_path / "target").exists()


def test_a_place_that_is_not_there(tmp_path):
    """A directory that does not exist is a clear error."""
    with pytest.raises(HostError, match=r"event file .*: No such file or directory"):
        open_event_file(str(tmp_path / "no" / "e.jsonl"))


def test_ids_are_told(tmp_path):
    """Whoever asks is told of each record with its id, and of what was lost without one."""
    told = []
    path = tmp_path / "e.jsonl"
    log = EventLog(open_event_file(str(path)), "r", lambda *one: told.append(one))
    log.write(STARTED)
    log.write(flow())
    log.flush()
    with file_size_limit(path.stat().st_size):
        log.write(flow(errno=2))
        log.flush()
    log.write(FINISHED)
    log.close()

    gap = read(path)[2].record
    assert told == [
        (STARTED, "r-1"),
        (flow(), "r-2"),
        (flow(errno=2), None),
        (gap, "r-4"),
        (FINISHED, "r-5"),
    ]
    assert [item.id for item in read(path)] == ["r-1", "r-2", "r-4", "r-5"]
