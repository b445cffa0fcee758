# SPDX-License-Identifier: Apache-2.0
"""State records: a lock tells the living from the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace

import pytest

from agentwall.errors import HostError
from agentwall.host.state import RunRecord, exclusive, forget, hold, leftovers, live_runs

RECORD = RunRecord(
    id="20260101T000000Z-abc",
    cgroup="/agentwall.slice/agentwall-20260101T000000Z-abc",
    pin_dir="/run/agentwall/bpf/20260101T000000Z-abc",
    policy="train (train.yaml)",
    pid=4711,
    start_time="2026-01-01T00:00:00+00:00",
    events="/var/log/agentwall/runs/x.jsonl",
    argv=("sh", "-c", 'echo "\n"'),
)


def test_live(tmp_path):
    """A record that is held belongs to a live run, with everything that was written."""
    hold(RECORD, tmp_path)

    assert live_runs(tmp_path) == [RECORD]
    assert leftovers(tmp_path) == []


def test_removed(tmp_path):
    """A record that is removed belongs to nobody."""
    hold(RECORD, tmp_path).remove()

    assert live_runs(tmp_path) == leftovers(tmp_path) == []


def test_let_go(tmp_path):
    """A record that is let go of, but not removed, is a leftover until it is forgotten."""
    hold(RECORD, tmp_path).close()

    assert leftovers(tmp_path) == [RECORD]
    forget(RECORD, tmp_path)
    assert leftovers(tmp_path) == []


def test_killed_holder(tmp_path):
    """A run that is killed with SIGKILL leaves a leftover behind."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            hold(RECORD, tmp_path)
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"x"
    alive = live_runs(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)

    assert alive == [RECORD]
    assert leftovers(tmp_path) == [RECORD]


def test_twice(tmp_path):
    """Two runs of one id cannot be."""
    held = hold(RECORD, tmp_path)

    with pytest.raises(HostError):
        hold(replace(RECORD, pid=1), tmp_path)
    held.remove()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"schema": "agentwall.run/1"}',
        json.dumps({"schema": "agentwall.run/2", "id": "x"}),
    ],
)
def test_malformed(tmp_path, text):
    """A record that cannot be read, or is of another version, is left alone."""
    hold(RECORD, tmp_path).close()
    (tmp_path / "runs" / "x.json").write_text(text)

    assert leftovers(tmp_path) == [RECORD]


def test_nothing(tmp_path):
    """On a host where nothing ever ran there is nothing left over."""
    assert leftovers(tmp_path / "gone") == []


def test_private(tmp_path):
    """Records and their directory are for the owner's eyes."""
    held = hold(RECORD, tmp_path)

    assert held.path.stat().st_mode & 0o077 == 0
    assert held.path.parent.stat().st_mode & 0o077 == 0
    held.remove()


def test_exclusive(tmp_path):
    """While one holds the lock no other process gets it."""
    try_lock = ["flock", "--nonblock", str(tmp_path / "lock"), "true"]
    with exclusive(tmp_path):
        inside = subprocess.run(try_lock, check=False).returncode

    assert inside == 1
    assert subprocess.run(try_lock, check=False).returncode == 0
