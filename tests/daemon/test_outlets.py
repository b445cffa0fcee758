# SPDX-License-Identifier: Apache-2.0
"""Every record reaches everyone who counts: what is tallied, logged and shown agrees."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.cgroup import temp_cgroup
from rig.keeping import bare_config, member_at
from rig.records import SANDBOX, SECOND, START_NS, detection, endpoint, flow, permitted, state

from agentwall.daemon import outlets as outlets_module
from agentwall.daemon.config import LogSettings
from agentwall.daemon.members import Members
from agentwall.daemon.outlets import Outlets
from agentwall.daemon.sinks import open_sinks
from agentwall.flow.record import GapRecord
from agentwall.flow.verdict import Verdict

pytestmark = pytest.mark.kernel

PORTS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(list(Verdict))), max_size=60)


@pytest.fixture(scope="module")
def member():
    """The sandbox that the records are of."""
    with temp_cgroup() as directory:
        yield member_at(directory, id=SANDBOX.id)


@pytest.fixture
def make(tmp_path, member):
    """A function that returns outlets, and one that closes them and returns the log's lines."""
    number = itertools.count()

    def build(*, keeps_flows: bool = True):
        path = tmp_path / f"{next(number)}.jsonl"
        members = Members()
        members.add(member)
        member.detections, member.last_denial_ns, member.bytes_out, member.bytes_in = 0, None, 0, 0
        sinks = open_sinks(bare_config(log=LogSettings(path=path)), None)
        outlets = Outlets(sinks, members, keeps_flows=keeps_flows)

        def lines():
            outlets.end_all()
            sinks.close()
            return [json.loads(line) for line in path.read_text().splitlines()]

        return outlets, lines

    return build


@given(PORTS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_counts_add_up(make, seen):
    """However many equal ones become one line: the log, the tally and the figures agree."""
    outlets, lines = make()
    for index, (port, verdict) in enumerate(seen):
        moment = {"time_ns": START_NS + index * SECOND, "mono_ns": (5 + index) * SECOND}
        outlets.write(flow(remote=endpoint("203.0.113.7", port), verdict=verdict, **moment))
    written = lines()
    tally = outlets.tallies.of(SANDBOX.id)
    told = tally.answer({}) if tally else {"denied": 0, "would_denied": 0}

    for verdict, key in ((Verdict.DENY, "denied"), (Verdict.WOULD_DENY, "would_denied")):
        happened = sum(each is verdict for _, each in seen)
        logged = sum(each["count"] for each in written if each["verdict"] == verdict.value)
        assert logged == told[key] == happened


def test_a_thousand_equal_denials_are_two_lines(make):
    """The first at once, the others with their count."""
    outlets, lines = make()
    for index in range(1000):
        outlets.write(flow(mono_ns=5 * SECOND + index))
    written = lines()

    assert [each["count"] for each in written] == [1, 999]


def test_permitted_flows_only_where_they_are_wanted(make, member):
    """They count in any case: bytes belong to the sandbox."""
    outlets, lines = make(keeps_flows=False)
    outlets.write(permitted(bytes_out=100, bytes_in=7))
    outlets.write(permitted(bytes_out=None, bytes_in=None))
    outlets.write(flow())
    written = lines()

    assert [each["verdict"] for each in written] == ["deny"]
    assert (member.bytes_out, member.bytes_in) == (100, 7)


def test_a_sandbox_knows_what_was_found_in_it(make, member):
    """Detections and the time of the last denial, by its id; others' are not its."""
    outlets, lines = make()
    outlets.write(detection())
    outlets.write(flow(time_ns=START_NS + 5))
    outlets.write(permitted(time_ns=START_NS + 9))
    outlets.write(flow(sandbox=replace(SANDBOX, id="other"), time_ns=START_NS + 10))
    lines()

    assert (member.detections, member.last_denial_ns) == (1, START_NS + 5)


def test_losses_are_summed_by_place(make):
    """Whoever's they were."""
    outlets, lines = make()
    for where, lost in (("denials", 3), ("flows", 1), ("denials", 4)):
        outlets.write(
            GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=0, where=where, lost=lost)
        )
    lines()

    assert outlets.lost == {"denials": 7, "flows": 1}


def test_who_comes_again_is_not_forgotten_with_who_was(make, monkeypatch):
    """An id that is used again: the hour after the first one's end takes nothing from the second.

    Its denials were told as none, which a harness would have taken for innocence.
    """
    clock = [100.0]
    monkeypatch.setattr(outlets_module.time, "monotonic", lambda: clock[0])
    outlets, lines = make()
    outlets.write(flow())
    outlets.end(SANDBOX.id)
    outlets.write(state("started"))
    outlets.write(flow(remote=endpoint("203.0.113.9", 1)))
    clock[0] += 10**6
    outlets.end("another")
    tally = outlets.tallies.of(SANDBOX.id)
    lines()

    assert tally is not None
    assert tally.answer({})["denied"] == 2


def test_the_end_of_a_sandbox_tells_what_was_held_back(make):
    """Nothing waits for a window that nobody will be there to see."""
    outlets, lines = make()
    for index in range(5):
        outlets.write(flow(mono_ns=5 * SECOND + index))
    outlets.end(SANDBOX.id)
    outlets.write(state("finished"))
    written = lines()

    assert [each.get("count") for each in written] == [1, 4, None]
