# SPDX-License-Identifier: Apache-2.0
"""The engine: what the kernel reported becomes records."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from rig.records import CURL, SANDBOX, endpoint

from agentwall.engine.engine import Engine
from agentwall.engine.events import (
    AttemptSeen,
    CountersRead,
    Lost,
    RulesApplied,
    SandboxFinished,
    SandboxStarted,
    TotalsRead,
    WallDamaged,
)
from agentwall.errors import SourceLocation
from agentwall.flow.record import (
    Attempt,
    FlowTotals,
    GapRecord,
    Question,
    SandboxKey,
    StateRecord,
    Task,
)
from agentwall.flow.verdict import Direction, Hook, Mode, Reason, ReasonCode, Verdict
from agentwall.net.domain import NameDepth, NamePattern
from agentwall.net.ports import parse_ports
from agentwall.policy.model import (
    Loopback,
    OnError,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
)
from agentwall.policy.tables import RuleTables

KEY = SandboxKey(77)
OFFSET_NS = 1_790_000_000_000_000_000
POLICY_FILE = "policies/p.yaml"


def rule(section: Section, index: int, prefixes: dict[str, SourceLocation], line: int) -> Rule:
    found = tuple(RulePrefix(ip_network(text), where) for text, where in prefixes.items())
    where = SourceLocation(POLICY_FILE, line, 5)
    return Rule(
        policy="p",
        section=section,
        index=index,
        prefixes=found,
        ports=parse_ports("443"),
        where=where,
    )


MIRRORS = {
    "198.51.100.0/24": SourceLocation("lists/mirrors.txt", 3, 1),
    "198.51.100.10/32": SourceLocation("lists/mirrors.txt", 8, 1),
}
DENY = rule(Section.DENY, 0, {"10.0.0.0/8": SourceLocation(POLICY_FILE, 9, 9)}, 9)
ALLOW = rule(Section.ALLOW, 0, MIRRORS, 4)
POLICY = Policy(
    name="p",
    mode=Mode.ENFORCE,
    on_error=OnError.FAIL_CLOSED,
    refuse_with="EPERM",
    loopback=Loopback.AUTO,
    allow=(ALLOW,),
    deny=(DENY,),
    inbound=(),
    tests=(),
    files=(POLICY_FILE,),
    digest="ab" * 32,
)
TABLES = RuleTables(rules=(DENY, ALLOW), outbound=(), inbound=(), interval_sets=((),), protocols=())
STARTED = SandboxStarted(
    key=KEY,
    sandbox=SANDBOX,
    mono_ns=5,
    clock_offset_ns=OFFSET_NS,
    mode=Mode.ENFORCE,
    coverage="full",
    command=("true",),
)
APPLIED = RulesApplied(key=KEY, mono_ns=6, generation=3, policy=POLICY, tables=TABLES)
ATTEMPT = Attempt(
    mono_ns=1000,
    sandbox=KEY,
    task=Task(pid=4242, uid=1000, comm=b"curl"),
    direction=Direction.OUT,
    protocol=6,
    local=None,
    remote=endpoint("10.1.2.3", 443),
    claimed=None,
    verdict=Verdict.DENY,
    code=ReasonCode.RULE,
    rule=0,
    generation=3,
    hook=Hook.CONNECT4,
    errno=1,
    size_bytes=0,
    socket_type=1,
    cookie=9,
)
TOTALS = FlowTotals(
    sandbox=KEY,
    task=Task(pid=4242, uid=1000, comm=b"curl"),
    direction=Direction.OUT,
    remote=endpoint("198.51.100.10", 443),
    local_port=0,
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


@pytest.fixture
def engine():
    engine = Engine()
    for event in (STARTED, APPLIED):
        list(engine.handle(event))
    return engine


def records(engine, event):
    return [command.record for command in engine.handle(event)]


def test_start_and_rules_become_state_records():
    """The log opens with mode, coverage and command, then the policy in force."""
    engine = Engine()

    (started,) = records(engine, STARTED)
    (applied,) = records(engine, APPLIED)

    assert (started.state, started.time_ns, started.mono_ns) == ("started", OFFSET_NS + 5, 5)
    assert started.detail["coverage"] == "full"
    assert started.detail["command"] == ["true"]
    assert applied.state == "rules-applied"
    assert applied.detail["digest"] == POLICY.digest


def test_a_denial_names_rule_file_and_line(engine):
    """A rule's index becomes its id and place; kernel time becomes UTC."""
    (record,) = records(engine, AttemptSeen(attempt=ATTEMPT, process=CURL))

    assert record.sandbox == SANDBOX
    assert record.time_ns == OFFSET_NS + 1000
    assert record.reason == Reason(code=ReasonCode.RULE, rule="p:deny[0]", file=POLICY_FILE, line=9)
    assert (record.bytes_out, record.bytes_in, record.count) == (0, 0, 1)
    assert record.process == CURL


@pytest.mark.parametrize(
    ("address", "line"),
    [("198.51.100.10", 8), ("198.51.100.11", 3), ("::ffff:198.51.100.10", 8)],
)
def test_a_list_is_cited_by_its_own_line(engine, address, line):
    """A rule over a list of prefixes is cited by the line of the most specific one."""
    attempt = replace(
        ATTEMPT, rule=1, verdict=Verdict.ALLOW, errno=None, remote=endpoint(address, 443)
    )

    (record,) = records(engine, AttemptSeen(attempt=attempt, process=None))

    assert (record.reason.file, record.reason.line) == ("lists/mirrors.txt", line)


@pytest.mark.parametrize("verdict", [Verdict.ALLOW, Verdict.WOULD_DENY])
def test_what_passes_has_no_bytes_yet(engine, verdict):
    """At first sight nothing is known of a flow that goes on."""
    attempt = replace(ATTEMPT, verdict=verdict, errno=None)

    (record,) = records(engine, AttemptSeen(attempt=attempt, process=None))

    assert (record.bytes_out, record.bytes_in, record.duration_ns) == (None, None, None)


def test_totals_carry_bytes_duration_and_count(engine):
    """The counters of a permitted flow become one record at its last packet."""
    (record,) = records(engine, TotalsRead(totals=TOTALS, process=CURL))

    assert record.hook is Hook.SOCK_RELEASE
    assert (record.bytes_out, record.bytes_in) == (120, 4000)
    assert (record.duration_ns, record.count) == (8000, 2)
    assert record.time_ns == OFFSET_NS + 9000
    assert record.reason.rule == "p:allow[0]"


@pytest.mark.parametrize(
    "changes",
    [{"generation": 2}, {"rule": 5}, {"rule": None, "code": ReasonCode.NO_RULE}],
)
def test_a_rule_nobody_knows_is_left_out(engine, changes):
    """An event of another generation, or without a rule, is reported without one."""
    attempt = replace(ATTEMPT, **changes)

    (record,) = records(engine, AttemptSeen(attempt=attempt, process=None))

    assert record.reason == Reason(code=attempt.code)


def test_events_on_their_way_keep_their_rules(engine):
    """After a policy is replaced, events of the generation before still find their rule."""
    after = replace(APPLIED, generation=4, tables=replace(TABLES, rules=(ALLOW, DENY)))
    records(engine, after)

    (record,) = records(engine, AttemptSeen(attempt=ATTEMPT, process=None))

    assert record.reason.rule == "p:deny[0]"


def test_generations_do_not_pile_up(engine):
    """Only the last few policies are remembered, however often one is replaced."""
    for generation in range(4, 50):
        records(engine, replace(APPLIED, generation=generation))

    (record,) = records(engine, AttemptSeen(attempt=ATTEMPT, process=None))

    assert record.reason.rule is None


def test_a_sandbox_nobody_started_is_still_reported(engine):
    """Events of an unknown sandbox are told under its key, never dropped."""
    attempt = replace(ATTEMPT, sandbox=SandboxKey(0), code=ReasonCode.NO_SANDBOX, rule=None)

    (record,) = records(engine, AttemptSeen(attempt=attempt, process=None))

    assert record.sandbox.id == "key:0"
    assert record.time_ns == OFFSET_NS + 1000


def counters(**changes):
    values = dict.fromkeys(
        ("denied", "would_denied", "probes", "lost_denials", "lost_flows", "lost_totals"), 0
    )
    values |= dict.fromkeys(("lost_names", "lost_excerpts", "matches"), 0)
    return CountersRead(key=KEY, mono_ns=50, **{**values, **changes})


def test_growing_losses_become_gaps(engine):
    """Kernel counters only grow; each growth of a loss is told once."""
    first = records(engine, counters(lost_denials=2))
    again = records(engine, counters(lost_denials=2))
    more = records(engine, counters(lost_denials=5, lost_flows=1, lost_totals=4))

    assert [(gap.where, gap.lost) for gap in first] == [("denials", 2)]
    assert again == []
    assert [(gap.where, gap.lost) for gap in more] == [
        *(("denials", 3), ("flows", 1), ("flow-table", 4))
    ]


@pytest.mark.parametrize("what", ["names", "excerpts"])
def test_what_was_not_taken_in(engine, what):
    """Addresses not learned and bytes not decoded are gaps of their own, and no lost events."""
    records(engine, counters(**{f"lost_{what}": 2}))
    (gap,) = records(engine, counters(**{f"lost_{what}": 5}))
    (end,) = records(engine, SandboxFinished(key=KEY, mono_ns=90))

    assert (gap.where, gap.lost) == (what, 3)
    assert (end.detail["lost"], end.detail[f"lost_{what}"]) == (0, 5)


def test_other_losses_become_gaps(engine):
    """What is lost outside the kernel is told as it comes."""
    (gap,) = records(engine, Lost(key=KEY, mono_ns=60, where="decode", lost=7))

    assert isinstance(gap, GapRecord)
    assert (gap.where, gap.lost, gap.time_ns) == ("decode", 7, OFFSET_NS + 60)


def test_the_end_sums_up(engine):
    """The finish record carries the kernel's counters, what was lost, and the caller's detail."""
    records(engine, counters(denied=9, probes=2, lost_flows=1, matches=4))

    (record,) = records(
        engine, SandboxFinished(key=KEY, mono_ns=90, detail={"exit_code": 3, "coverage": "full"})
    )

    assert isinstance(record, StateRecord)
    assert record.state == "finished"
    assert record.detail == {
        **{"mode": "enforce", "lost": 1, "denied": 9, "would_denied": 0, "probes": 2},
        **{"lost_names": 0, "lost_excerpts": 0, "matches": 4, "forgotten": 0},
        **{"exit_code": 3, "coverage": "full"},
    }


def test_a_finished_sandbox_is_forgotten(engine):
    """Nothing is kept of a sandbox that has ended."""
    records(engine, SandboxFinished(key=KEY, mono_ns=90))

    (record,) = records(engine, AttemptSeen(attempt=ATTEMPT, process=None))

    assert record.sandbox.id == "key:77"


def test_a_damaged_wall_is_a_state(engine):
    """A hook that was detached is told as damage, with its name."""
    (record,) = records(engine, WallDamaged(key=KEY, mono_ns=70, what="egress is detached"))

    assert record.state == "damaged"
    assert record.detail == {"what": "egress is detached"}


def test_totals_of_visits_name_the_port_that_was_visited(engine):
    """Inward totals stand for all visits to one port: it is the local one, with no address."""
    visits = replace(
        TOTALS, direction=Direction.IN, remote=endpoint("10.0.0.1", 0), local_port=8000
    )

    (record,) = records(engine, TotalsRead(totals=visits, process=None))

    assert record.local == endpoint("0.0.0.0", 8000)
    assert record.remote == endpoint("10.0.0.1", 0)


HOSTS = Rule(
    policy="p",
    section=Section.ALLOW,
    index=1,
    patterns=(
        RulePattern(
            NamePattern("example.com", NameDepth.BELOW), SourceLocation("lists/hosts.txt", 2, 1)
        ),
        RulePattern(
            NamePattern("hub.example.com", NameDepth.EXACT), SourceLocation("lists/hosts.txt", 7, 1)
        ),
    ),
    ports=parse_ports("443"),
    where=SourceLocation(POLICY_FILE, 5, 5),
)


def test_names(engine):
    """A flow's name comes along, and the line is that of the pattern that holds it."""
    records(engine, replace(APPLIED, generation=4, tables=replace(TABLES, rules=(HOSTS,))))
    given = {"rule": 0, "generation": 4, "name": "hub.example.com"}
    attempt = replace(ATTEMPT, remote=endpoint("203.0.113.7", 443), **given)
    (seen,) = records(engine, AttemptSeen(attempt=attempt, process=None))
    (summed,) = records(engine, TotalsRead(totals=replace(TOTALS, **given), process=None))

    assert (seen.name, summed.name) == ("hub.example.com", "hub.example.com")
    assert (seen.reason.file, seen.reason.line) == ("lists/hosts.txt", 7)
    assert seen.reason == summed.reason


@pytest.mark.parametrize("name", ["a.b.example.com", "", ".", "..", "a..\x1b", "x" * 253])
def test_questions(engine, name):
    """A question comes along whatever it asks; the line is that of the pattern, if one holds it."""
    records(engine, replace(APPLIED, generation=4, tables=replace(TABLES, rules=(HOSTS,))))
    question = Question(name=name, type=1)
    attempt = replace(
        ATTEMPT, code=ReasonCode.QUESTION, rule=0, generation=4, name="other", question=question
    )
    (seen,) = records(engine, AttemptSeen(attempt=attempt, process=None))

    assert seen.question == question
    assert seen.reason.line == (2 if name.endswith(".example.com") else 5)
