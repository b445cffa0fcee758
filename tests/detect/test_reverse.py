# SPDX-License-Identifier: Apache-2.0
"""Reverse tunnels by who begins and who says more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.records import ALLOWED, SECOND, START_NS, endpoint, flow, process
from rig.series import by_clock, conversation, miner, reverse_shell, typing

from agentwall.detect.reverse import MAX_FLOWS, LeadWatch, reverse_tunnel
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.verdict import Direction, Hook, Verdict

RUN = settings(max_examples=60, deadline=None, derandomize=True)
SSH = b"SSH-2.0-OpenSSH_9.2p1\r\n"


def totals(at_s, *, out, back, sockets=0, lasted_s=0.0, remote="203.0.113.7", pid=7, **changes):
    """Return the totals of a permitted flow."""
    return flow(
        time_ns=START_NS + int(at_s * SECOND),
        verdict=Verdict.ALLOW,
        reason=ALLOWED,
        hook=Hook.SOCK_RELEASE,
        errno=None,
        remote=endpoint(remote, 443),
        process=process("ssh", pid),
        bytes_out=out,
        bytes_in=back,
        duration_ns=int(lasted_s * SECOND),
        count=sockets,
        **changes,
    )


@RUN
@given(seed=st.integers(0, 10**6), keepalive_s=st.floats(15, 60))
def test_reverse_tunnel(seed, keepalive_s):
    """A quarter of an hour of orders and larger answers is found, keepalives or not."""
    made = conversation(reverse_shell(seed, 1200, keepalive_s=keepalive_s), head=SSH, port=22)
    finding = reverse_tunnel(made)

    assert finding is not None
    assert (finding.cls, finding.confidence) == (DetectionClass.TUNNEL, Confidence.MEDIUM)
    evidence = finding.evidence
    assert evidence["begun_by_server"] >= 0.75 * evidence["exchanges"]
    assert evidence["client_bytes"] > evidence["server_bytes"]
    assert evidence["keepalives"] > 5


def test_inside_tls():
    """Inside TLS it is found as well; without more keepalives than orders it is less sure."""
    finding = reverse_tunnel(conversation(reverse_shell(1, 1800, keepalive_s=600)))

    assert finding is not None
    assert finding.confidence is Confidence.LOW


@RUN
@given(seed=st.integers(0, 10**6))
def test_somebody_typing(seed):
    """A shell that somebody in the sandbox uses is led by the client."""
    assert reverse_tunnel(conversation(typing(seed, 1200), head=SSH)) is None


@RUN
@given(seed=st.integers(0, 10**6))
def test_pushed_news(seed):
    """Messages that a server pushes are answered by little, if at all."""
    chance = random.Random(seed)
    series, at = [], 12.0
    while (at := at + 2 + chance.expovariate(0.05)) < 1800:
        series += [(at, chance.randint(100, 1400), False), (at + 0.05, 38, True)]

    assert reverse_tunnel(conversation(series)) is None


@pytest.mark.parametrize(
    "made",
    [
        conversation(miner(1, 1800)),
        conversation(by_clock(1800, 15, [(0, 1400, True), (0.01, 700, True), (0.05, 90, False)])),
        conversation(by_clock(1800, 30, [(0, 400, True), (0.05, 9000, False)])),
        conversation(by_clock(1800, 30, [(0, 52, False), (0.01, 52, True)])),
        conversation(reverse_shell(1, 1200), is_midstream=True),
        conversation(reverse_shell(1, 200)),
        conversation([]),
    ],
    ids=["miner", "metrics", "downloads", "server-pings", "midstream", "young", "empty"],
)
def test_others(made):
    """Who asks for itself, says nothing, or was not seen from its beginning is none."""
    assert reverse_tunnel(made) is None


def test_totals_that_lead():
    """Totals of half an hour in which much more left than came add up to a suspicion, once."""
    watch = LeadWatch()
    found = []
    for n in range(60):
        record = totals(30 * n, out=6000, back=900, sockets=int(n == 0))
        found += [(n, finding) for finding in watch.see(record)]

    assert [n for n, _ in found] == [30]
    finding = found[0][1]
    assert (finding.signature, finding.confidence) == ("behaviour/long-lead", Confidence.LOW)
    assert finding.evidence == {
        "seconds": 900,
        "sockets": 1,
        "bytes_out": 31 * 6000,
        "bytes_in": 31 * 900,
    }


def test_totals_of_one_record():
    """The same in one record, of a flow that has ended."""
    found = LeadWatch().see(totals(0, out=200_000, back=20_000, sockets=1, lasted_s=2000))

    assert [finding.evidence["seconds"] for finding in found] == [2000]


@pytest.mark.parametrize(
    "changes",
    [
        {"lasted_s": 100},
        {"back": 180_000},
        {"back": 0},
        {"out": 20_000, "back": 2_000},
        {"out": 200_000_000},
        {"sockets": 40},
        {"remote": "10.20.0.7"},
        {"direction": Direction.IN},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_totals_of_other_kinds(changes):
    """Short, balanced, one-way, small, fast, private flows and many sockets are none."""
    numbers = {"out": 200_000, "back": 20_000, "sockets": 1, "lasted_s": 2000}

    assert list(LeadWatch().see(totals(0, **(numbers | changes)))) == []


def test_memory_is_bounded():
    """Flows are capped, and what was forgotten is counted."""
    watch = LeadWatch()
    for n in range(2 * MAX_FLOWS):
        assert list(watch.see(totals(n, out=10, back=10, sockets=1, pid=n))) == []

    assert len(watch._flows) == MAX_FLOWS
    assert watch.dropped == MAX_FLOWS
