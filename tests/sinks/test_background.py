# SPDX-License-Identifier: Apache-2.0
"""A log behind a thread: order, losses, and a medium that hangs."""

from __future__ import annotations

import os
import re
import time

from rig.process import wait_until
from rig.records import flow

from agentwall.engine.severity import severity_of
from agentwall.flow.record import GapRecord
from agentwall.flow.severity import Severity
from agentwall.sinks import background as module
from agentwall.sinks.background import GAP_WHERE, Background
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import read_log
from agentwall.sinks.jsonl import EventLog, open_event_file
from agentwall.sinks.rotating import RotatingLog

WAIT_S = 60.0


def read(path):
    with path.open("rb") as stream:
        return [item.record for item in read_log(stream, "e") if isinstance(item, LoggedEvent)]


def test_everything_arrives_in_order(tmp_path):
    """What was written is in the file, in order, once it is closed; flushing is enough before."""
    log = RotatingLog(tmp_path / "e.jsonl", "d1", max_bytes=1 << 20, keep=1)
    told = []
    other = EventLog(open_event_file(str(tmp_path / "other")), "o", lambda *one: told.append(one))
    background = Background(log, [other])
    other.write(flow())
    for number in range(100):
        background.write(flow(errno=number + 1))
    background.flush()
    wait_until(lambda: log.written == 100, what="what was flushed")
    background.write(flow(errno=101))
    background.close(WAIT_S)

    assert [record.errno for record in read(tmp_path / "e.jsonl")] == list(range(1, 102))
    assert background.lost == 0
    assert told == [(flow(), "o-1")]


def test_a_medium_that_hangs():
    """A pipe that nobody reads holds nobody up; what had no room is told where it is missing."""
    reading, writing = os.pipe()
    background = Background(EventLog(writing, "d1"), limit=50)
    for number in range(1000):
        background.write(flow(errno=number + 1))
        background.flush()
        if number % 100 == 0:
            time.sleep(0.001)
    # It comes here though nobody has read, and the pipe has long been full.
    lost = background.lost
    text = b""
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while text.count(b'"kind":"flow"') < 1000 - lost:
            text += stream.read(1 << 16)
        background.write(flow(errno=9999))
        background.close(WAIT_S)
        text += stream.read()

    assert lost > 100
    assert text.count(b'"kind":"flow"') == 1000 - lost + 1
    gaps = re.findall(f'"where":"{GAP_WHERE}","lost":([0-9]+)'.encode(), text)
    assert sum(map(int, gaps)) == lost


def test_closing_does_not_wait_for_ever():
    """A disk that hangs at the end costs the time that was given, and what waits is counted."""
    reading, writing = os.pipe()
    background = Background(EventLog(writing, "d1"), limit=5000)
    for _ in range(1000):
        background.write(flow())
    background.close(0.2)
    is_stuck = background._thread.is_alive()
    # The reader's end closes here, and the thread gets on.
    os.close(reading)
    background._thread.join(WAIT_S)

    assert is_stuck
    assert not background._thread.is_alive()


def test_such_a_gap_may_hide_denials():
    """It counts as a gap in the log does: of medium severity."""
    gap = GapRecord(sandbox=flow().sandbox, time_ns=1, mono_ns=1, where=GAP_WHERE, lost=1)

    assert severity_of(gap) is Severity.MEDIUM


def test_what_the_log_tells_comes_back(tmp_path):
    """Ids that the log gives in its thread are handed over in the thread that asks for them."""
    later: list[Background] = []
    log = RotatingLog(
        tmp_path / "e.jsonl",
        "d1",
        max_bytes=1 << 20,
        keep=1,
        tell=lambda record, event_id: later[0].tell(record, event_id),
    )
    background = Background(log)
    later.append(background)
    background.write(flow())
    background.write(flow(errno=2))
    background.close(WAIT_S)

    assert list(background.told()) == [(flow(), "d1-1"), (flow(errno=2), "d1-2")]
    assert list(background.told()) == []


def test_at_rest(monkeypatch):
    """Where nothing waits, flushing often wakes nobody; but now and then the sinks are asked."""
    flushed = []

    class Counting:
        def write(self, record):
            flushed.append("write")

        def flush(self):
            flushed.append("flush")

        def close(self):
            pass

    # However long the calls take, a second that passes meanwhile would be another look.
    monkeypatch.setattr(module, "_IDLE_S", 3600.0)
    background = Background(Counting())
    background.flush()
    wait_until(lambda: flushed == ["flush"], what="the first look")
    for _ in range(1000):
        background.flush()
    monkeypatch.setattr(module, "_IDLE_S", 0.0)
    background.write(flow())
    background.flush()
    wait_until(lambda: flushed[1:] == ["write", "flush"], what="what waits, and nothing before it")
    background.flush()
    wait_until(lambda: flushed[3:] == ["flush"], what="another look")
    background.close(WAIT_S)

    assert flushed.count("write") == 1
