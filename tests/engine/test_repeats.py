# SPDX-License-Identifier: Apache-2.0
"""Equal records become one with a count, and no count is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import (
    CURL,
    DENIED,
    FINISHED,
    SANDBOX,
    SECOND,
    TCP,
    asked,
    detection,
    endpoint,
    flow,
    permitted,
    process,
    state,
    totals,
)

from agentwall.engine.repeats import MAX_KINDS, MAX_KINDS_EACH, Repeats
from agentwall.flow.record import DetectionRecord, FlowRecord, GapRecord, PolicyInForce, Record
from agentwall.flow.verdict import Direction, Hook, Verdict

START = flow().mono_ns


def at(record: Record, seconds: float) -> Record:
    moment = int(seconds * SECOND)
    return replace(record, time_ns=record.time_ns + moment, mono_ns=record.mono_ns + moment)


def seen(repeats: Repeats, records: Iterable[Record]) -> list[Record]:
    return [told for record in records for told in repeats.see(record)]


def tick(repeats: Repeats, seconds: float) -> list[Record]:
    return list(repeats.tick(START + int(seconds * SECOND)))


def test_a_thousand_equal_denials():
    """The first is told at once, the others as one record at the end of the window."""
    repeats = Repeats()
    records = [at(flow(), index / 1000) for index in range(1000)]
    first = seen(repeats, records)
    early = tick(repeats, 9.99)
    later = tick(repeats, 10)

    assert first == records[:1]
    assert early == []
    assert later == [replace(records[-1], count=999)]


def test_windows_grow_while_it_goes_on():
    """What keeps coming is told after 10, 20, 40 and then every 60 seconds; a pause starts anew."""
    repeats = Repeats()
    told = []
    for second in range(400):
        told += [(second, each.count) for each in tick(repeats, second)]
        told += [(second, each.count) for each in seen(repeats, [at(flow(), second)])]

    assert told[:4] == [(0, 1), (10, 9), (30, 20), (70, 40)]
    assert told[4:] == [(second, 60) for second in (130, 190, 250, 310, 370)]
    assert [each.count for each in tick(repeats, 430)] == [30]
    assert tick(repeats, 490) == []
    assert len(repeats) == 0
    assert seen(repeats, [at(flow(), 500)]) == [at(flow(), 500)]


@pytest.mark.parametrize(
    "other",
    [
        {"remote": endpoint("203.0.113.7", 444)},
        {"remote": endpoint("203.0.113.8", 443)},
        {"remote": None},
        {"protocol": 17},
        {"verdict": Verdict.WOULD_DENY},
        {"reason": DENIED},
        {"hook": Hook.EGRESS},
        {"direction": Direction.IN},
        {"process": process("wget", 4242)},
        {"process": process("curl", 4242, "/tmp/curl")},
        {"process": process("curl", 4242, "/tmp/" + 300 * "a")},
        {"process": None},
        {"sandbox": replace(SANDBOX, labels={"episode": "42", "step": "7"})},
        {"sandbox": replace(SANDBOX, id="other")},
        {"sandbox": replace(SANDBOX, policy=PolicyInForce(name="p", phase=None, commit="c0ffee"))},
        {"name": "a.example"},
    ],
)
def test_what_makes_a_kind(other):
    """Records that differ in what a reader would tell apart are all told."""
    records = [flow(), flow(**other), flow(), flow(**other)]

    assert seen(Repeats(), records) == records[:2]


@pytest.mark.parametrize(
    "other",
    [
        {"process": process("curl", 99)},
        {"hook": Hook.CONNECT6},
        {"errno": 13},
        {"local": endpoint("10.0.0.1", 40000)},
        {"sandbox": replace(SANDBOX)},
    ],
)
def test_what_makes_no_kind(other):
    """The process's number, the caller's own port and equal labels in another object do not."""
    assert seen(Repeats(), [flow(), flow(**other)]) == [flow()]


def test_questions_and_visitors():
    """A question is known by its name and type, a visitor by the port it wants."""
    visit = {"direction": Direction.IN, "local": endpoint("10.0.0.1", 22)}
    records = [
        asked("a.example", 1),
        asked("b.example", 1),
        asked("a.example", 28),
        asked("a.example", 1),
        flow(**visit, remote=endpoint("10.0.0.9", 1025)),
        flow(**visit, remote=endpoint("10.0.0.9", 1026)),
    ]

    assert seen(Repeats(), records) == [*records[:3], records[4]]


def test_detections():
    """Equal ones of many flows are one, with the most bytes that any of them got out."""
    repeats = Repeats()
    records = [detection(bytes_left=left) for left in (0, 7, None, 3)]
    told = seen(repeats, records)
    (summary,) = repeats.flush()

    assert told == records[:1]
    assert isinstance(summary, DetectionRecord)
    assert (summary.count, summary.bytes_left) == (3, 7)


def test_what_passes():
    """States, gaps and totals are told each time."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="flows", lost=2)
    records = [state("started"), gap, totals(permitted(), out=1, back=2)] * 2
    repeats = Repeats()

    assert seen(repeats, records) == records
    assert len(repeats) == 0


def test_the_end_of_a_sandbox():
    """What was held back of a sandbox comes before its last record, and it alone."""
    repeats = Repeats()
    other = replace(SANDBOX, id="other")
    seen(repeats, [flow(), flow(), flow(sandbox=other), flow(sandbox=other)])
    told = seen(repeats, [FINISHED])

    assert told == [flow(), FINISHED]
    assert list(repeats.flush()) == [flow(sandbox=other)]
    assert list(repeats.flush()) == list(repeats.end("other")) == []


def test_one_sandbox_leaves_the_others_room():
    """A sandbox that makes up kinds forgets its own, the one heard of longest ago first."""
    repeats = Repeats()
    mine = flow(sandbox=replace(SANDBOX, id="mine"))
    seen(repeats, [mine, mine, flow(), flow()])
    told = seen(repeats, _scan(MAX_KINDS_EACH))

    assert told[MAX_KINDS_EACH - 1 :] == [flow(), list(_scan(MAX_KINDS_EACH))[-1]]
    assert len(repeats) == MAX_KINDS_EACH + 1
    assert list(repeats.end("mine")) == [mine]


def _scan(number: int, sandbox: str = SANDBOX.id) -> Iterator[FlowRecord]:
    for index in range(number):
        remote = endpoint(f"10.1.{index >> 8}.{index & 255}", 22)
        yield flow(remote=remote, sandbox=replace(SANDBOX, id=sandbox))


def test_bounded_in_all():
    """However many sandboxes make up kinds, so many are kept and no more."""
    repeats = Repeats()
    for number in range(MAX_KINDS // MAX_KINDS_EACH + 2):
        seen(repeats, _scan(MAX_KINDS_EACH, f"s{number}"))

    assert len(repeats) == MAX_KINDS


def test_long_texts_are_not_kept():
    """Arguments that would fill memory are in the first record of a kind, not in the sum."""
    long = replace(CURL, argv=("curl", 300 * "x"))
    repeats = Repeats()
    told = seen(repeats, [flow(process=long), flow(process=long)])
    (summary,) = repeats.flush()

    assert told[0].process.argv == long.argv
    assert summary.process == replace(long, argv=None)


KINDS = st.builds(
    lambda host, sandbox, step, count: flow(
        remote=endpoint(f"10.0.0.{host}", 22, TCP),
        sandbox=replace(SANDBOX, id=sandbox, labels={"step": step}),
        count=count,
    ),
    st.integers(1, 8),
    st.sampled_from("abc"),
    st.sampled_from("12"),
    st.integers(0, 5),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["see", "see", "see", "detect", "tick", "end"]), KINDS, st.floats(0, 30)
    ),
    max_size=60,
)


@given(STEPS)
def test_no_count_is_lost(steps):
    """Whatever comes in whatever order: for each kind, what goes in comes out; bounds hold."""
    repeats = Repeats(each=3, most=5)
    given_, told, now_s = Counter(), [], 0.0
    for what, record, wait_s in steps:
        now_s += wait_s
        match what:
            case "see" | "detect":
                if what == "detect":
                    record = detection(sandbox=record.sandbox, remote=record.remote)
                given_[_kind(record)] += record.count
                told += repeats.see(at(record, now_s))
            case "tick":
                told += tick(repeats, now_s)
            case "end":
                told += repeats.end(record.sandbox.id)
        assert len(repeats) <= 5
    told += repeats.flush()

    counted: Counter[object] = Counter()
    for record in told:
        counted[_kind(record)] += record.count
    assert +counted == +given_
    assert len(repeats) == 0


def _kind(record):
    return type(record), record.sandbox.id, record.sandbox.labels["step"], record.remote


def test_inside_tls_is_a_kind_of_its_own():
    """What is found in clear does not stand for what is found inside TLS."""
    inside = replace(detection().finding, evidence={"inside": "tls"})
    records = [detection(), detection(inside), detection(inside)]

    assert seen(Repeats(), records) == records[:2]
