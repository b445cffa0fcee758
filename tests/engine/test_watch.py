# SPDX-License-Identifier: Apache-2.0
"""Behaviour over flow records: what ROME's agent did, and what training jobs do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from rig.records import (
    ALLOWED,
    NO_RULE,
    SECOND,
    START_NS,
    TCP,
    UDP,
    endpoint,
    flow,
    rome_day,
    write_log,
)

from agentwall.engine.watch import MAX_SANDBOXES, Watch
from agentwall.flow.finding import DetectionClass
from agentwall.flow.record import FlowRecord, Question, Sandbox
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.policy.model import Detect, DnsLimits, Response, ScanLimits
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import read_log

PERMITTED = {"verdict": Verdict.ALLOW, "reason": ALLOWED, "errno": None, "bytes_out": None}


def tried(at_s, address="10.20.0.1", port=22, **changes):
    """Return the record of one attempt, refused unless *changes* say otherwise."""
    return flow(time_ns=START_NS + int(at_s * SECOND), remote=endpoint(address, port), **changes)


def totals(at_s, address, port, *, out=180, back=0, count=1, **changes):
    """Return the totals of permitted flows."""
    numbers = {"hook": Hook.SOCK_RELEASE, "duration_ns": SECOND, "count": count}
    given = {**PERMITTED, **numbers, "bytes_out": out, "bytes_in": back, **changes}
    return tried(at_s, address, port, **given)


def asked(at_s, name, kind=16):
    """Return the record of a question that was refused."""
    return tried(
        at_s,
        "192.0.2.53",
        53,
        protocol=UDP,
        reason=Reason(code=ReasonCode.QUESTION),
        hook=Hook.EGRESS,
        question=Question(name=name, type=kind),
    )


def seen(records, watch=None, *, ends=False):
    """Return what a watch says of *records*, in order."""
    watch = watch or Watch()
    found = [detection for record in records for detection in watch.see(record)]
    return found + list(watch.end_all()) if ends else found


def signatures(found):
    """Return the ids of what was found."""
    return [detection.finding.signature for detection in found]


def test_internal_probing():
    """An agent that probes the internal network, all of it refused, is one detection."""
    records = [tried(n, f"10.20.{n % 4}.{n}", (22, 80, 443, 3306)[n % 4]) for n in range(40)]
    found = seen(records)

    assert signatures(found) == ["behaviour/scan-horizontal"]
    detection = found[0]
    assert detection.sandbox == records[11].sandbox
    assert (detection.time_ns, detection.process) == (records[11].time_ns, records[11].process)
    assert (detection.verdict, detection.response) == (Verdict.ALLOW, "alert")
    assert detection.direction is Direction.OUT
    assert (detection.remote, detection.name, detection.bytes_left) == (None, None, None)
    assert detection.finding.evidence["refused"] == 12


def test_what_came_after():
    """What a scan went on to try is told of when the sandbox ends, or the file."""
    records = [tried(n, f"10.20.0.{n}") for n in range(40)]
    found = seen(records, ends=True)

    assert signatures(found) == ["behaviour/scan-horizontal"] * 2
    assert found[1].finding.evidence["addresses"] == 40
    assert found[1].time_ns == records[-1].time_ns


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.WOULD_DENY])
def test_event_file(tmp_path, verdict):
    """An event file of a day that went astray shows the probing, and nothing that was not there."""
    path = write_log(tmp_path / "events.jsonl", rome_day(verdict))
    with path.open("rb") as stream:
        events = [event for event in read_log(stream, "day") if isinstance(event, LoggedEvent)]
    records = [event.record for event in events if isinstance(event.record, FlowRecord)]
    found = seen(records, ends=True)

    assert signatures(found) == ["behaviour/scan-horizontal"] * 2
    assert found[0].finding.evidence["networks"][0] == "10.20.0.0/24 (12)"
    assert found[1].finding.evidence["private"] == 31


def test_audit_mode():
    """What would be refused counts as refused."""
    records = [tried(n, f"10.20.0.{n}", verdict=Verdict.WOULD_DENY) for n in range(12)]

    assert signatures(seen(records)) == ["behaviour/scan-horizontal"]


def test_ports_of_the_gateway():
    """Ports of one address are a vertical scan."""
    records = [tried(n / 10, "10.20.0.1", 1 + n) for n in range(100)]

    assert signatures(seen(records)) == ["behaviour/scan-vertical"]


def test_permitted_and_dead():
    """Inside what a rule permits a scan shows by those who do not answer, as totals tell."""
    first = [tried(n / 10, f"10.20.0.{n}", 22, **PERMITTED) for n in range(50)]
    dead = [totals(6 + n / 10, f"10.20.0.{n}", 22, back=40) for n in range(50)]
    alive = [totals(6 + n / 10, f"10.20.0.{n}", 22, back=100) for n in range(50)]

    assert seen(first) == []
    assert seen(first + alive) == []
    assert signatures(seen(first + dead)) == ["behaviour/scan-horizontal"]


def test_training_job():
    """64 workers on one permitted port, with totals every thirty seconds, are nothing at all."""
    records = []
    for n in range(64):
        records.append(tried(n / 100, f"10.20.0.{n}", 29500, **PERMITTED))
    for drained in range(1, 20):
        for n in range(64):
            at_s = 30 * drained - n / 100
            numbers = {"out": 10**8, "back": 10**8, "count": int(drained == 1)}
            records.append(totals(at_s, f"10.20.0.{n}", 29500, **numbers))

    assert seen(records, ends=True) == []


def test_package_mirrors():
    """Thirty mirrors over 443, each with several addresses, are no scan."""
    records = [
        tried(n / 5, f"203.0.113.{n}", 443, **PERMITTED, name=f"m{n // 4}.example.org")
        for n in range(120)
    ]

    assert seen(records) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": Direction.IN},
        {"remote": None, "hook": Hook.SOCK_CREATE},
        {"reason": Reason(code=ReasonCode.NOT_A_QUESTION)},
        {"reason": Reason(code=ReasonCode.SERVER_NAME)},
    ],
    ids=["inward", "no-destination", "dns", "content"],
)
def test_no_attempts(changes):
    """What others try, and what was said where the sandbox may go, is no attempt to get there."""
    records = [replace(tried(n / 10, f"10.20.0.{n}"), **changes) for n in range(60)]

    assert seen(records, ends=True) == []


def test_dns_tunnel():
    """Refused questions that carry data are told of, with the server that was asked."""
    chance = random.Random(1)
    records = [asked(n, f"{chance.randbytes(24).hex()}.t.example.com") for n in range(30)]
    found = seen(records)

    assert signatures(found) == ["behaviour/dns-tunnel"] * 2
    assert found[0].remote == endpoint("192.0.2.53", 53, TCP)
    assert found[0].finding.evidence["zone"] == "example.com"


def test_names_that_were_said():
    """Names in TLS are no questions."""
    records = [
        replace(asked(n, f"{n:060x}.example.com"), question=Question(name=f"{n:060x}.x", type=None))
        for n in range(60)
    ]

    assert seen(records) == []


def test_beacon():
    """Refused calls by the clock to the outside are a beacon; to the inside they are not."""
    outside = [tried(60 * n, "203.0.113.9", 8443) for n in range(15)]
    inside = [tried(60 * n, "10.20.0.9", 8443) for n in range(15)]
    found = seen(outside)

    assert signatures(found) == ["behaviour/beacon-calls"]
    assert found[0].remote == endpoint("203.0.113.9", 8443)
    assert seen(inside) == []


def test_totals_are_read_by_the_clock():
    """That the totals of a busy flow come every thirty seconds makes no beacon of it."""
    chance = random.Random(1)
    records = [
        totals(30 * n - chance.uniform(0, 3), "203.0.113.9", 443, out=900, back=900, count=count)
        for n, count in enumerate([1, *[0] * 20, *[5] * 40], 1)
    ]

    assert seen(records) == []


def test_long_lead():
    """A long flow through which more left than came is a suspicion."""
    records = [
        totals(30 * n, "203.0.113.9", 443, out=6000, back=900, count=int(n == 1))
        for n in range(1, 60)
    ]
    found = seen(records)

    assert signatures(found) == ["behaviour/long-lead"]
    assert found[0].remote == endpoint("203.0.113.9", 443)


def test_sandboxes_apart():
    """What several sandboxes do is not added up."""
    records = [
        replace(tried(n, f"10.20.0.{n}"), sandbox=Sandbox(id=f"s{n % 4}", cgroup="/"))
        for n in range(40)
    ]

    assert seen(records) == []


def test_policy():
    """A policy's limits and its classes hold, also once something is known already."""
    records = [tried(n, f"10.20.0.{n}") for n in range(12)]
    responses = {**Detect().responses, DetectionClass.SCAN: Response.OFF}
    watch = Watch()
    assert seen(records[:6], watch) == []
    watch.apply(records[0].sandbox.id, Detect(scan=ScanLimits(targets=8)))

    assert signatures(seen(records[6:], watch)) == ["behaviour/scan-horizontal"]
    assert seen(records, Watch(Detect(responses=responses)), ends=True) == []
    strict = Watch(Detect(dns=DnsLimits(questions_per_minute=3)))
    assert signatures(seen([asked(n, "x.example.com", 1) for n in range(4)], strict)) == [
        "behaviour/dns-rate"
    ]


def test_end():
    """A sandbox that has ended is forgotten; one that nothing is known of has nothing to say."""
    watch = Watch()
    records = [tried(n, f"10.20.0.{n}") for n in range(11)]
    assert seen(records, watch) == []

    assert list(watch.end(records[0].sandbox.id)) == []
    assert list(watch.end("nobody")) == []
    assert seen([tried(11, "10.20.0.11")], watch) == []


def test_memory_is_bounded():
    """Sandboxes are capped as well, and what was forgotten is counted."""
    watch = Watch()
    for n in range(MAX_SANDBOXES + 10):
        record = replace(tried(n / 1000), sandbox=Sandbox(id=f"s{n}", cgroup="/"))
        assert list(watch.see(record)) == []

    assert len(watch._sandboxes) == MAX_SANDBOXES
    assert watch.dropped == 10


def test_every_kind():
    """A record of each kind, all at once, is taken without an error."""
    kinds = [tried(0), totals(1, "203.0.113.9", 443), asked(2, "x.example.com")]
    kinds.append(flow(remote=None, reason=NO_RULE, hook=Hook.SOCK_CREATE))

    assert seen(kinds, ends=True) == []
