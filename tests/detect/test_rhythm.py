# SPDX-License-Identifier: Apache-2.0
"""The rhythm of mining by sizes and times, and what looks a little like it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.series import by_clock, conversation, miner, typing, work_feed

from agentwall.detect.rhythm import MIN_SECONDS, mining_rhythm
from agentwall.flow.finding import Confidence, DetectionClass, Stage
from agentwall.net.endpoint import L4Protocol

RUN = settings(max_examples=60, deadline=None, derandomize=True)

WEBSOCKET = [(0.0, 28, True), (0.1, 28, False)]
MQTT_SENSOR = [(0.0, 118, True), (0.05, 26, False)]
MQTT_SUBSCRIBED = [*MQTT_SENSOR, (3.0, 240, False)]
GRPC_PING = [(0.0, 39, True), (0.02, 39, False)]
REMOTE_WRITE = [(0.0, 1420, True), (0.001, 610, True), (0.02, 85, False)]
WANDB = [(0.0, 740, True), (0.2, 310, False)]
IRC = [(0.0, 52, False), (0.01, 52, True)]
SSH_IDLE = [(0.0, 52, True), (0.02, 36, False)]
HEALTH = [(0.0, 130, True), (0.01, 105, False)]
LONG_POLL = [(0.0, 210, True), (25.0, 90, False)]
CONFUSERS = {
    "websocket": (WEBSOCKET, 20.0),
    "mqtt": (MQTT_SENSOR, 10.0),
    "mqtt-subscribed": (MQTT_SUBSCRIBED, 10.0),
    "grpc": (GRPC_PING, 10.0),
    "prometheus": (REMOTE_WRITE, 15.0),
    "wandb": (WANDB, 15.0),
    "irc": (IRC, 60.0),
    "ssh-idle": (SSH_IDLE, 30.0),
    "health": (HEALTH, 5.0),
    "long-poll": (LONG_POLL, 30.0),
}


def test_miner_behind_tls():
    """Ten minutes of shares, answers and work are found, with the numbers that say so."""
    finding = mining_rhythm(conversation(miner(1, 600)))

    assert finding is not None
    assert (finding.cls, finding.stage) == (DetectionClass.MINING, Stage.BEHAVIOUR)
    assert (finding.signature, finding.confidence) == (
        "behaviour/mining-rhythm",
        Confidence.MEDIUM,
    )
    evidence = finding.evidence
    assert evidence["share_bytes"] == [205, 206]
    assert evidence["answer_bytes"] == [85, 86]
    assert evidence["push_bytes"] == [400]
    assert evidence["answered"] >= 0.8
    assert 500 <= evidence["seconds"] <= 600
    assert evidence["bytes_per_second"] < 100


def test_work_feed_behind_tls():
    """Work of one size, pushed by chance, is found, and is no more than a suspicion."""
    finding = mining_rhythm(conversation(work_feed(1, 120)))

    assert finding is not None
    assert finding.signature == "behaviour/mining-work-feed"
    assert finding.confidence is Confidence.LOW
    assert finding.evidence["push_bytes"] == [265, 265]


@RUN
@given(
    seed=st.integers(0, 10_000),
    share=st.integers(110, 400),
    answer=st.integers(40, 100),
    job=st.integers(200, 900),
    rtt_s=st.floats(0.02, 0.4),
)
def test_any_miner(seed, share, answer, job, rtt_s):
    """A miner is found after a quarter of an hour, whatever the sizes of its dialect."""
    series = miner(seed, 900, share=share, answer=answer, job=job, rtt_s=rtt_s)

    assert mining_rhythm(conversation(series)) is not None


@pytest.mark.parametrize("name", CONFUSERS)
@RUN
@given(seed=st.integers(0, 10_000), stretch=st.floats(0.5, 3.0), jitter_s=st.floats(0.0, 0.5))
def test_by_the_clock(name, seed, stretch, jitter_s):
    """What is sent by the clock is not mining, whatever its sizes."""
    exchange, every_s = CONFUSERS[name]
    series = by_clock(1800, every_s * stretch, exchange, seed=seed, jitter_s=jitter_s)

    assert mining_rhythm(conversation(series)) is None


@RUN
@given(seed=st.integers(0, 10_000))
def test_somebody_typing(seed):
    """Keys and their echoes have one size and come by chance, and are not mining."""
    assert mining_rhythm(conversation(typing(seed, 900), head=b"\x16\x03\x01")) is None


@RUN
@given(seed=st.integers(0, 10_000), rate=st.floats(0.1, 2.0))
def test_requests_by_chance(seed, rate):
    """Requests of one size at any time, each answered, are not mining: nothing is pushed."""
    chance = random.Random(seed)
    series, at = [], 4.0
    while (at := at + 0.1 + chance.expovariate(rate)) < 900:
        series += [(at, 190, True), (at + 0.05, 85, False)]

    assert mining_rhythm(conversation(series)) is None


@RUN
@given(seed=st.integers(0, 10_000))
def test_browsing(seed):
    """Requests and answers of all sizes are not mining."""
    chance = random.Random(seed)
    series, at = [], 4.0
    while (at := at + chance.expovariate(0.1)) < 900:
        series.append((at, chance.randint(60, 900), True))
        for packet in range(chance.randint(1, 10)):
            series.append((at + 0.1 + packet / 1000, chance.randint(60, 1448), False))

    assert mining_rhythm(conversation(series)) is None


@RUN
@given(
    st.lists(
        st.tuples(st.floats(0, 1000), st.integers(1, 65535), st.booleans()),
        min_size=1,
        max_size=80,
    )
)
def test_any_series(series):
    """Any messages at all are judged without an error, and the numbers are finite."""
    finding = mining_rhythm(conversation(series, seconds=1000))

    if finding is not None:
        assert 0 <= finding.evidence["irregularity"] < 1000


def test_large_shares_are_less_certain():
    """Shares that fill several packets are put together, and never more than suspected."""
    series = []
    for at, size, up in miner(3, 900, share=2800, share_s=25):
        if up and size >= 2800:
            series += [(at, 1448, True), (at + 0.001, size - 1448, True)]
        else:
            series.append((at, size, up))
    finding = mining_rhythm(conversation(series))

    assert finding is not None
    assert finding.confidence is Confidence.LOW
    assert finding.evidence["share_bytes"] == [2800, 2801]


def test_young_flow():
    """What is younger than the limit is not judged; what is younger than five minutes is unsure."""
    series = miner(1, 600, share_s=3, job_s=15)
    young = [one for one in series if one[0] < MIN_SECONDS - 1]
    older = [one for one in series if one[0] < 200]
    finding = mining_rhythm(conversation(older))

    assert mining_rhythm(conversation(young)) is None
    assert finding is not None
    assert finding.confidence is Confidence.LOW


@pytest.mark.parametrize(
    "changes",
    [
        {"head": b'{"id":1,"method":"login"}'},
        {"protocol": L4Protocol.UDP},
    ],
)
def test_what_is_not_judged(changes):
    """What can be read is left to those who read, and mining goes over TCP."""
    assert mining_rhythm(conversation(miner(1, 600), **changes)) is None


def test_busy_flow():
    """A flow that carries more than a miner ever does is not mining."""
    series = miner(1, 600, share_s=0.9)

    assert mining_rhythm(conversation(series)) is None
