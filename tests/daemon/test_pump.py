# SPDX-License-Identifier: Apache-2.0
"""Events from a real wall to the records, and what the engine says to be done."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.keeping import keeping, make_edition, owned, spelled
from rig.sights import ALL, ESCAPED, POLICY, SUBSCRIBE, beginning, excerpt, matched

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.pump import Pump
from agentwall.engine.commands import StopSandbox
from agentwall.engine.events import HostChanged
from agentwall.errors import EventDecodeError, KernelError
from agentwall.flow.finding import Stage
from agentwall.flow.record import DetectionRecord, FlowRecord, GapRecord, StateRecord
from agentwall.flow.verdict import Hook, Mode, Verdict

pytestmark = pytest.mark.kernel

TRY = """
import socket, sys
for port in range(1, int(sys.argv[1]) + 1):
    with socket.socket() as s:
        s.connect_ex(("127.0.0.1", port))
"""


def nowhere(_: object) -> None:
    """Where a sandbox is of which nothing is known."""


class Drawer:
    """An outlet that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[object] = []

    def write(self, record) -> None:
        """Keep it."""
        self.records.append(record)

    def of(self, kind: type) -> list:
        """What is of this kind."""
        return [each for each in self.records if isinstance(each, kind)]


class Clock:
    """A time of the test's own."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        """Return it."""
        return self.now_s


@pytest.fixture
def scope():
    """An owned scope with one cgroup."""
    with temp_cgroup("scope") as made:
        (made / "one").mkdir()
        yield made


@pytest.fixture
def bench(small_wall, tmp_path, scope):
    """A keeper of sandboxes that may do nothing."""
    with keeping(small_wall, make_edition(tmp_path, {}, owned(spelled(scope)))) as made:
        yield made


@pytest.fixture
def pump(bench):
    """A pump of its wall, which the keeper tells its events, and its outlet."""
    stopped: list[StopSandbox] = []
    drawer = Drawer()
    made = Pump(bench.keeper.wall, bench.keeper.members.cgroup_of, drawer, stopped.append)
    bench.keeper.emit = made.emit
    while made.drain():
        pass  # What the tests before have left in the kernel.
    drawer.records.clear()
    yield made, drawer
    made.close()


def attempt(cgroup, ports: int = 1) -> None:
    """Connect to some ports of loopback from inside *cgroup*."""
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", TRY, str(ports))
    subprocess.run(command, check=True, timeout=60)


def test_a_denial_becomes_a_record_with_its_process(bench, pump, scope):
    """Whose it is, and which program tried; once taken, nothing is left."""
    pump, drawer = pump
    bench.admit(scope / "one")
    attempt(scope / "one")
    any_seen, any_left = pump.drain(), pump.drain()
    (record,) = drawer.of(FlowRecord)

    assert (any_seen, any_left) == (True, False)
    assert (record.sandbox.id, record.verdict) == ("one", Verdict.DENY)
    assert record.process.comm.startswith("python")
    assert [each.state for each in drawer.of(StateRecord)][:2] == ["started", "rules-applied"]


@pytest.mark.parametrize(("took_s", "expected_s"), [(0.125, 0.125), (3.0, 0.2)])
def test_many_are_followed_by_a_rest(bench, pump, scope, monkeypatch, took_s, expected_s):
    """As long as reading took, and never longer than a fifth of a second."""
    pump, drawer = pump
    bench.admit(scope / "one")
    attempt(scope / "one", 200)
    clock, write = Clock(), drawer.write

    def take(record) -> None:
        clock.now_s += took_s / 200 if isinstance(record, FlowRecord) else 0
        write(record)

    monkeypatch.setattr("agentwall.daemon.pump.time", clock)
    monkeypatch.setattr(drawer, "write", take)
    pump.drain()
    rest_s = pump.rest_s()
    clock.now_s += rest_s

    assert len(drawer.of(FlowRecord)) == 200
    assert rest_s == pytest.approx(expected_s)
    assert pump.rest_s() == pytest.approx(0)


def test_processes_of_few_sandboxes_are_remembered(bench, pump, scope, monkeypatch):
    """Whoever is heard of makes room for itself; who ended, or is unknown, takes none."""
    pump, _ = pump
    monkeypatch.setattr("agentwall.daemon.pump._MAX_READERS", 2)
    members = []
    for name in ("a", "b", "c"):
        (scope / name).mkdir()
        members.append(bench.admit(scope / name))
        attempt(scope / name)
        pump.drain()
    kept = list(pump._readers)
    pump.forget(members[2].key)
    pump.forget(members[0].key)

    assert kept == [members[1].key, members[2].key]
    assert list(pump._readers) == [members[1].key]


class Held:
    """A wall with a match inside TLS, after which there is text for the decoders."""

    def __init__(self) -> None:
        text = SUBSCRIBE[:37] + b'"'
        self._attempts = [[matched(ALL, text, Verdict.WOULD_DENY, hook=Hook.PLAIN, cookie=8)]]
        self._excerpts = [[], [excerpt(ESCAPED, 0)]]

    def attempts(self, _limit: int):
        """What there is at this look."""
        return self._attempts.pop(0) if self._attempts else []

    def excerpts(self):
        """What there is at this look."""
        return self._excerpts.pop(0) if self._excerpts else []


@pytest.mark.parametrize("how", ["drain", "settle", "close"])
def test_what_is_kept_back_is_told(how):
    """By the next drain, for which the wall need have no news; and before whatever ends."""
    drawer = Drawer()
    pump = Pump(Held(), nowhere, drawer, print)
    for event in beginning(replace(POLICY, mode=Mode.AUDIT)):
        pump.emit(event)
    pump.drain()
    before, was_holding = drawer.of(DetectionRecord), pump.is_holding
    getattr(pump, how)()
    found, is_holding = drawer.of(DetectionRecord), pump.is_holding
    pump.close()

    assert [each.finding.stage for each in before] == [Stage.SIGNATURE]
    assert [each.finding.stage for each in found] == [Stage.SIGNATURE, Stage.DECODER]
    assert (was_holding, is_holding) == (True, False)
    assert drawer.of(DetectionRecord) == found


def test_settling_keeps_nothing_back():
    """At once, what came with the last match."""
    drawer = Drawer()
    pump = Pump(Held(), nowhere, drawer, print)
    for event in beginning(replace(POLICY, mode=Mode.AUDIT)):
        pump.emit(event)
    pump.settle()
    pump.close()

    assert len(drawer.of(DetectionRecord)) == 2


class Broken:
    """A wall whose events nobody can read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def attempts(self, *_: object):
        """Fail."""
        raise self._error

    excerpts = totals = attempts


@pytest.mark.parametrize("call", ["drain", "drain_totals"])
def test_what_nobody_understands_is_a_gap(call):
    """The other object's events, say: counted as lost, and the daemon goes on."""
    drawer = Drawer()
    pump = Pump(Broken(EventDecodeError("expected 64 bytes, got 10")), nowhere, drawer, print)
    getattr(pump, call)()
    pump.close()
    gaps = drawer.of(GapRecord)

    assert {(gap.where, gap.lost) for gap in gaps} == {("decode", 1)}


def test_a_table_that_the_kernel_does_not_show_is_a_gap():
    """The next time may do better."""
    drawer = Drawer()
    pump = Pump(Broken(KernelError(12, "map: no memory")), nowhere, drawer, print)
    pump.drain_totals()
    pump.close()

    assert len(drawer.of(GapRecord)) == 1


def test_what_the_host_says_is_passed_on(pump):
    """Events that no kernel sent."""
    pump, drawer = pump
    pump.emit(HostChanged(mono_ns=boot_ns(), clock_offset_ns=0, state="reloaded", detail={"a": 1}))
    (record,) = drawer.of(StateRecord)

    assert (record.state, record.detail) == ("reloaded", {"a": 1})
