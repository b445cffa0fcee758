# SPDX-License-Identifier: Apache-2.0
"""Flows as records: under the sandbox of their time, at the time of their clock."""

from __future__ import annotations

from dataclasses import replace

from rig.records import CURL, SANDBOX, endpoint
from rig.sights import ATTEMPT, KEY, POLICY, TABLES

from agentwall.engine.events import AttemptSeen, RulesApplied, TotalsRead
from agentwall.engine.records import reason_of, record_of_attempt, record_of_totals
from agentwall.engine.sandboxes import KnownSandbox
from agentwall.flow.record import FlowTotals, PolicyInForce
from agentwall.flow.verdict import Direction, Hook, Mode, Reason, ReasonCode, Verdict

TOTALS = FlowTotals(
    sandbox=KEY,
    task=ATTEMPT.task,
    direction=Direction.IN,
    remote=endpoint("2001:db8::1", 0),
    local_port=8888,
    verdict=Verdict.ALLOW,
    code=ReasonCode.RULE,
    rule=1,
    generation=3,
    first_mono_ns=1000,
    last_mono_ns=9000,
    bytes_out=120,
    bytes_in=4000,
    duration_ns=8000,
    sockets=2,
)


def known_of() -> KnownSandbox:
    sandbox = replace(SANDBOX, policy=PolicyInForce(name="first"))
    known = KnownSandbox(sandbox, 10**18, Mode.ENFORCE)
    known.apply(RulesApplied(key=KEY, mono_ns=1, generation=3, policy=POLICY, tables=TABLES))
    known.label({"step": "8"}, 5000)
    return known


def test_an_attempt():
    """It carries labels and policy of its own time, and UTC made of the kernel's clock."""
    record = record_of_attempt(known_of(), AttemptSeen(attempt=ATTEMPT, process=CURL))

    assert (record.time_ns, record.mono_ns) == (10**18 + 1000, 1000)
    assert record.sandbox.labels == SANDBOX.labels
    assert record.sandbox.policy == PolicyInForce(name="p")
    assert (record.reason.rule, record.reason.line) == ("p:allow[0]", 4)
    assert (record.process.exe, record.process.comm) == (CURL.exe, "miner")


def test_totals():
    """They belong to the time of the last packet, and name the port that was visited."""
    record = record_of_totals(known_of(), TotalsRead(totals=TOTALS, process=None))

    assert record.sandbox.labels == {"step": "8"}
    assert (record.hook, record.count, record.bytes_in) == (Hook.SOCK_RELEASE, 2, 4000)
    assert record.local == endpoint("::", 8888)


def test_a_rule_that_is_not_known():
    """Of another generation, or beyond the rules there are, the code alone is told."""
    known = known_of()

    for changes in ({"generation": 9}, {"rule": 9}, {"rule": None}):
        assert reason_of(known, replace(ATTEMPT, **changes)) == Reason(code=ReasonCode.RULE)
