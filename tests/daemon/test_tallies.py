# SPDX-License-Identifier: Apache-2.0
"""What a harness is told of its episode."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rig.records import SANDBOX, START_NS, detection, endpoint, flow

from agentwall.daemon.tallies import KEPT_S, MAX_DETECTIONS, MAX_KINDS, Tallies, Tally, nothing
from agentwall.flow.record import GapRecord
from agentwall.flow.verdict import Verdict


def in_episode(episode: str, **changes: object):
    """A denial of a step of *episode*."""
    return flow(sandbox=replace(SANDBOX, labels={"episode": episode}), **changes)


def test_an_episode_is_told_of_its_own_denials_only():
    """Labels choose: another episode of the same sandbox is not mixed in."""
    tallies = Tallies()
    tallies.add(in_episode("17"))
    tallies.add(in_episode("17"))
    tallies.add(in_episode("18", remote=endpoint("203.0.113.8", 443)))

    found = tallies.of(SANDBOX.id).answer({"episode": "17"})
    assert (found["denied"], len(found["denials"])) == (2, 1)
    assert found["denials"][0]["remote"] == "203.0.113.7 port 443"
    assert found["denials"][0]["count"] == 2
    assert found["complete"]


def test_what_would_be_denied_is_counted_apart():
    """Audit mode lets it through, and says so."""
    tally = Tally(SANDBOX.id)
    tally.add(flow(verdict=Verdict.WOULD_DENY))

    assert (tally.answer({})["denied"], tally.answer({})["would_denied"]) == (0, 1)


def test_permitted_flows_are_not_tallied():
    """A sandbox that only did what it may has nothing to tell."""
    tallies = Tallies()
    tallies.add(flow(verdict=Verdict.ALLOW))
    tallies.add(GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=0, where="totals", lost=3))

    assert tallies.of(SANDBOX.id) is None
    assert nothing()["complete"]


def test_a_lost_event_makes_the_answer_incomplete():
    """Silence is not innocence where events were lost."""
    tallies = Tallies()
    tallies.add(GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=0, where="denials", lost=3))

    found = tallies.of(SANDBOX.id).answer({})
    assert (found["complete"], found["lost"]) == (False, 3)


def test_detections_are_told():
    """Mining is told with its dialect; more than fit are said to be missing."""
    tally = Tally(SANDBOX.id)
    for _ in range(MAX_DETECTIONS + 1):
        tally.add(detection())

    found = tally.answer({})
    assert len(found["detections"]) == MAX_DETECTIONS
    assert not found["complete"]


@given(st.lists(st.integers(0, 2 * MAX_KINDS), max_size=600))
def test_nothing_is_forgotten_silently(ports):
    """Counts and what was dropped add up to what happened, however many kinds there are."""
    tallies = Tallies()
    for port in ports:
        tallies.add(flow(remote=endpoint("203.0.113.7", port)))

    tally = tallies.of(SANDBOX.id)
    told = tally.answer({})["denied"] + tally.dropped if tally else 0
    assert told == len(ports)
    assert tally is None or len(tally.denials) <= MAX_KINDS


def test_a_sandbox_that_ended_is_answered_for_a_while():
    """A harness asks when its container is gone already."""
    tallies = Tallies()
    tallies.add(flow())
    tallies.end(SANDBOX.id, 0.0)
    tallies.end("another", KEPT_S - 1)
    still = tallies.of(SANDBOX.id)
    tallies.end("another", KEPT_S + 1)

    assert still is not None
    assert tallies.of(SANDBOX.id) is None


def test_what_an_earlier_daemon_was_told_is_not_vouched_for():
    """Of labels that were there before nothing is complete; of later ones all is known."""
    tallies = Tallies()
    tallies.begin_late(SANDBOX.id, {"run": "r", "episode": "17"})
    tally = tallies.of(SANDBOX.id)

    assert not tally.answer({"episode": "17"})["complete"]
    assert not tally.answer({})["complete"]
    assert tally.answer({"episode": "18"})["complete"]
