# SPDX-License-Identifier: Apache-2.0
"""Beacons: by the clock, small, to the outside."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.series import BEGIN_NS, SECOND, by_clock, conversation, miner, typing

from agentwall.detect.beacon import MAX_DESTINATIONS, BeaconWatch, beacon_within
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity
from agentwall.net.endpoint import Endpoint, L4Protocol

OUTSIDE = Endpoint(ip_address("203.0.113.7"), 8443, L4Protocol.TCP)


def calls(times_s, remote=OUTSIDE, size=0, name=None):
    """Return what a watch of its own says of calls at these seconds."""
    watch = BeaconWatch()
    return [
        finding
        for at in times_s
        for finding in watch.see(BEGIN_NS + int(at * SECOND), remote, size, name)
    ]


def test_calls_by_the_clock():
    """Ten calls a minute apart are a beacon, told of once, and no more than suspected."""
    found = calls(60 * n for n in range(30))

    assert [finding.signature for finding in found] == ["behaviour/beacon-calls"]
    assert found[0].cls is DetectionClass.BEACON
    assert (found[0].confidence, found[0].severity) == (Confidence.LOW, Severity.LOW)
    assert found[0].evidence == {
        "beats": 10,
        "pause_seconds": 60.0,
        "irregularity": 0.0,
        "seconds": 540,
        "remote": "203.0.113.7:8443",
        "name": None,
    }


def test_told_again_after_an_hour():
    """A beacon that goes on is told of once an hour."""
    assert len(calls(60 * n for n in range(180))) == 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), every_s=st.floats(6, 3000))
def test_a_little_off(seed, every_s):
    """A twentieth of the pause to either side hides no beacon, nor does a second address family."""
    chance = random.Random(seed)
    times = []
    for n in range(40):
        at = every_s * (n + chance.uniform(-0.05, 0.05))
        times += [at, at + 0.05, at + 0.3]

    assert calls(times) != []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), every_s=st.floats(6, 600))
def test_by_chance(seed, every_s):
    """Calls by chance are no beacon."""
    chance = random.Random(seed)
    at, times = 0.0, []
    for _ in range(25):
        at += 3 + chance.expovariate(1 / every_s)
        times.append(at)

    # Sixteen pauses of pure chance are that even once in many thousand series.
    assert calls(times) == []


@pytest.mark.parametrize(
    ("remote", "size"),
    [
        (Endpoint(ip_address("10.20.0.7"), 9090, L4Protocol.TCP), 0),
        (Endpoint(ip_address("fd00::7"), 9090, L4Protocol.TCP), 0),
        (Endpoint(ip_address("127.0.0.1"), 9090, L4Protocol.TCP), 0),
        (Endpoint(ip_address("203.0.113.7"), 123, L4Protocol.UDP), 0),
        (Endpoint(ip_address("203.0.113.7"), 53, L4Protocol.UDP), 0),
        (OUTSIDE, 5000),
    ],
)
def test_what_is_left_out(remote, size):
    """Private addresses, clocks, DNS and calls that carry much are left out."""
    assert calls((60 * n for n in range(40)), remote, size) == []


def test_too_fast():
    """What comes every second or two is a poll, and no beacon."""
    assert calls(3 * n for n in range(400)) == []


def test_addresses_of_a_name():
    """Calls to changing addresses of one name are calls to one place."""
    watch = BeaconWatch()
    found = []
    for n in range(12):
        remote = Endpoint(ip_address(f"203.0.113.{n % 3}"), 443, L4Protocol.TCP)
        found += watch.see(BEGIN_NS + 60 * n * SECOND, remote, 0, "c2.example")

    assert [finding.evidence["name"] for finding in found] == ["c2.example"]


def test_memory_is_bounded():
    """Destinations are capped, and what was forgotten is counted."""
    watch = BeaconWatch()
    for n in range(2 * MAX_DESTINATIONS):
        remote = Endpoint(ip_address("8.0.0.0") + n, 443, L4Protocol.TCP)
        assert list(watch.see(BEGIN_NS + n, remote, 0)) == []

    assert len(watch._calls) == MAX_DESTINATIONS
    assert watch.dropped == MAX_DESTINATIONS


def test_messages_by_the_clock():
    """A flow of nothing but small messages by the clock is a beacon."""
    series = by_clock(1800, 60, [(0.0, 117, True), (0.1, 64, False)])
    finding = beacon_within(conversation(series))

    assert finding is not None
    assert finding.signature == "behaviour/beacon-messages"
    assert finding.evidence["pause_seconds"] == pytest.approx(60, abs=0.2)
    assert finding.evidence["message_bytes"] == 117


@pytest.mark.parametrize(
    "made",
    [
        conversation(miner(1, 900)),
        conversation(typing(1, 900)),
        conversation(by_clock(1800, 60, [(0.0, 117, True)]), server="10.0.0.5"),
        conversation(by_clock(1800, 60, [(0.0, 117, True), (0.1, 9000, False)])),
        conversation(by_clock(1800, 60, [(0.0, 1400, True)])),
        conversation([]),
    ],
    ids=["miner", "typing", "private", "downloads", "uploads", "empty"],
)
def test_messages_of_other_kinds(made):
    """Chance, private addresses and much data are no beacon."""
    assert beacon_within(made) is None
