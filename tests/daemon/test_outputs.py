# SPDX-License-Identifier: Apache-2.0
"""The files a run writes."""

from __future__ import annotations

import json
import os
import stat

import pytest

from agentwall.daemon.outputs import ReportFile, open_events
from agentwall.errors import HostError
from agentwall.flow.record import Sandbox, StateRecord
from agentwall.sinks.jsonl import EventLog

RECORD = StateRecord(
    sandbox=Sandbox(id="r", cgroup="/x"),
    time_ns=1_700_000_000_000_000_000,
    mono_ns=1,
    state="started",
    detail={"mode": "enforce", "coverage": "full", "open_roads": [], "command": ["true"]},
)


def test_event_file(tmp_path):
    """The event file is the caller's, readable by the given group and writable by nobody else."""
    events = open_events(str(tmp_path / "e.jsonl"), "r", os.getegid())
    os.close(events.descriptor)

    found = events.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


def test_relative_event_file(tmp_path, monkeypatch):
    """A relative name is kept as an absolute path."""
    monkeypatch.chdir(tmp_path)
    events = open_events("e.jsonl", "r", os.getegid())
    os.close(events.descriptor)

    assert events.path == tmp_path / "e.jsonl"


@pytest.mark.parametrize("target", ["existing", "missing"])
def test_no_links(tmp_path, target):
    """A link in the place of the event file is not followed, whatever it leads to."""
    (tmp_path / "existing").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / target)

    with pytest.raises(HostError):
        open_events(str(tmp_path / "link"), "r", os.getegid())
    assert (tmp_path / "existing").read_text() == "precious"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".md", "# agentwall audit"), (".txt", ""), ("", ""), (".json", "{")]
)
def test_report(tmp_path, suffix, begins):
    """The report is audit's, in the format that the name's suffix says, over what was there."""
    path = tmp_path / f"report{suffix}"
    path.write_text("old " * 10_000)
    events = open_events(str(tmp_path / "e.jsonl"), "r", os.getegid())
    report = ReportFile(str(path), events, os.getegid())
    log = EventLog(events.descriptor, "r")
    log.write(RECORD)
    log.close()

    report.write()

    text = path.read_text()
    assert text.startswith(begins)
    assert "old" not in text
    assert str(events.path) in text
    if suffix == ".json":
        assert json.loads(text)["schema"] == "agentwall.audit/1"


def test_report_survives_renaming(tmp_path):
    """The report is made of the file that was opened, not of what has its name by then."""
    events = open_events(str(tmp_path / "e.jsonl"), "r", os.getegid())
    report = ReportFile(str(tmp_path / "r.json"), events, os.getegid())
    log = EventLog(events.descriptor, "r")
    log.write(RECORD)
    log.close()
    events.path.unlink()
    events.path.write_text("forged\n")

    report.write()

    document = json.loads((tmp_path / "r.json").read_text())
    assert document["events"] == 1
    assert [error["damage"] for error in document["errors"]] == ["unfinished"]


def test_report_through_link(tmp_path):
    """A report is not written through a link."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "r.md").symlink_to(tmp_path / "precious")
    events = open_events(str(tmp_path / "e.jsonl"), "r", os.getegid())

    with pytest.raises(HostError, match=r"report .*r\.md"):
        ReportFile(str(tmp_path / "r.md"), events, os.getegid())
    os.close(events.descriptor)
    assert (tmp_path / "precious").read_text() == "precious"


def test_report_of_device(tmp_path):
    """Of events that go into a device no report can be made, which is said before the start."""
    events = open_events("/dev/null", "r", os.getegid())

    with pytest.raises(HostError, match="device"):
        ReportFile(str(tmp_path / "r.md"), events, os.getegid())
    os.close(events.descriptor)


def test_report_is_not_the_event_file(tmp_path):
    """A report under the events' own name would destroy them: it is refused, and they stay."""
    path = tmp_path / "events.jsonl"
    events = open_events(str(path), "r", os.getegid())
    os.write(events.descriptor, b"evidence")

    with pytest.raises(HostError, match="another file"):
        ReportFile(str(path), events, os.getegid())
    os.close(events.descriptor)
    assert path.read_bytes() == b"evidence"
