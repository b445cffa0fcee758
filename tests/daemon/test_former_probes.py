# SPDX-License-Identifier: Apache-2.0
"""What an earlier daemon has probed: found, and taken off when nothing else is to be done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.probed import Caller, Counting, bpffs, build, calling, counting
from rig.process import wait_until

from agentwall.daemon import former_probes
from agentwall.daemon.side_thread import SideThread
from agentwall.probes import uprobes

pytestmark = pytest.mark.kernel

SYMBOLS = ("SSL_read", "SSL_write")
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier daemon has left."""

    place: Path
    """With two directories of pins, of one probe each."""
    caller: Caller
    counted: Counting

    def runs(self) -> int:
        """Call each probed function once; return how many probes ran."""
        return self.counted.ran(self.caller, *SYMBOLS)


@contextmanager
def left_behind(directory: Path) -> Iterator[Left]:
    parts = build(directory)
    with ExitStack() as stack:
        counted = stack.enter_context(counting(parts))
        if counted.by_cookie is None:
            pytest.skip("no links on perf events before Linux 5.15")
        place = stack.enter_context(bpffs(directory / "bpf"))
        library = stack.enter_context(parts.library.open("rb"))
        for symbol in SYMBOLS:
            pins = place / former_probes.PINS / symbol
            pins.mkdir(parents=True)
            where = {"offset": parts.offsets[symbol], "is_return": False, "pin": pins / "0"}
            uprobes.attach(counted.program, library.fileno(), **where).keep()
        caller = stack.enter_context(calling(parts, parts.library))
        yield Left(place=place, caller=caller, counted=counted)


@pytest.fixture
def left(tmp_path) -> Iterator[Left]:
    """Two probes without a daemon."""
    if reason := uprobes.why_not():
        pytest.skip(reason)
    with left_behind(tmp_path) as made:
        yield made


@pytest.fixture
def thread() -> Iterator[SideThread]:
    """A thread that does nothing yet."""
    made = SideThread("test")
    yield made
    made.close(PATIENCE_S)


def test_what_else_there_is_comes_before(left, thread):
    """Without their pins the probes run on until the thread has nothing to do; then they go."""
    gate, found = threading.Event(), []
    former = former_probes.directories(left.place)
    try:
        former_probes.take_off(former, thread)
        thread.run(gate.wait)
        wait_until(lambda: former_probes.directories(left.place) == [], what="the end of the pins")
        thread.step()
        thread.run(left.runs, found.append)
    finally:
        gate.set()

    def are_off() -> bool:
        thread.step()
        return bool(found) and left.runs() == 0

    wait_until(are_off, what="the end of the probes")

    assert sorted(each.name for each in former) == sorted(SYMBOLS)
    assert found == [2]


def test_remove(left):
    """All go at once, the kernel's work is done by itself."""
    before = left.runs()
    former_probes.remove(left.place)
    wait_until(lambda: left.runs() == 0, what="the end of the probes")

    assert before == 2
    assert former_probes.directories(left.place) == []


def test_nothing_left(tmp_path):
    """Where no daemon has probed anything there is nothing to take off."""
    assert former_probes.directories(tmp_path) == []
    former_probes.remove(tmp_path)
