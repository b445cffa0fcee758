# SPDX-License-Identifier: Apache-2.0
"""What speaks for a learned line: sums, and text that cannot leave its comment."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rig.records import SECOND, START_NS, permitted, process, totals
from rig.strategies_of_records import TEXT, flows

from agentwall.flow.record import Sandbox
from agentwall.policy.learned_evidence import Evidence, Sighting, joined, listed, second, visible

FIRST = permitted(process=process("curl", 1))


def evidence(*records, source: str = "e.jsonl") -> Evidence:
    found = Evidence()
    for number, record in enumerate(records, 9):
        found.add(Sighting(record=record, event=f"run-{number}", source=source))
    return found


def test_sums():
    """Totals and the attempts they sum up are the same flows, counted once."""
    later = replace(FIRST, time_ns=START_NS + 60 * SECOND, process=process("git", 2))
    found = evidence(FIRST, later, totals(FIRST, out=500, back=900, sockets=2))

    assert found.lines() == [
        "2 flows by curl, git; 500 bytes out, 900 in",
        "2026-09-21T14:13:20Z to 2026-09-21T14:14:20Z; first event run-9; run-7f3a in e.jsonl",
    ]
    assert found.brief() == "2 flows by curl, git; first event run-9"


def test_joined():
    """Sums of several targets add up, whatever their order."""
    one = evidence(FIRST, totals(FIRST, out=1, back=2, sockets=3))
    other = evidence(replace(FIRST, sandbox=Sandbox(id="run-2", cgroup="/b")), source="f.jsonl")

    whole = joined([one, other])

    assert whole.count == 4
    assert whole.lines()[1].endswith("run-2, run-7f3a in e.jsonl, f.jsonl")
    assert whole == joined([other, one])


def test_few_are_listed():
    """A long list is cut, and says by how much; what has no name says so."""
    assert listed("fbaedc") == "a, b, c, d and 2 more"
    assert listed({""}) == "(no name)"


def test_second():
    """Times are RFC 3339 to the second, up to the last that an event can say."""
    assert second(0) == "1970-01-01T00:00:00Z"
    assert second(253_402_300_799_999_999_999) == "9999-12-31T23:59:59Z"


@given(TEXT | st.text(), st.lists(flows(), min_size=1, max_size=4), TEXT)
def test_everything_is_visible(text, records, source):
    """Whatever a sandbox chose is printable ASCII on one line, and bounded."""
    lines = [visible(text), *evidence(*records, source=source).lines()]

    assert all(line.isascii() and line.isprintable() for line in lines)
    assert all(len(line) < 2000 for line in lines)


def test_names_without_end():
    """A sandbox that makes up a name for each flow does not make the evidence grow for ever."""
    found = evidence(*(replace(FIRST, process=process(str(n), n)) for n in range(1000)))

    assert found.count == 1000
    assert len(found.programs) == 256
