# SPDX-License-Identifier: Apache-2.0
"""What was recognised: matches, excerpts and names become detections, and flows are ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.records import CURL, endpoint
from rig.sights import (
    ACCEPTS,
    ALL,
    ATTEMPT,
    ESCAPED,
    KEY,
    KILL,
    LOOK,
    SSH,
    SUBSCRIBE,
    WEAK,
    WEAK_LOOK,
    engine_of,
    excerpt,
    matched,
)

from agentwall.engine.commands import KillFlow, Report
from agentwall.engine.detections import MAX_NAMES
from agentwall.engine.engine import Engine
from agentwall.engine.events import AttemptSeen, ExcerptsSeen, FlowLeftHanging, SandboxFinished
from agentwall.flow.finding import Confidence, DetectionClass, Stage
from agentwall.flow.record import DetectionRecord, FlowRecord, Question, SandboxKey, StateRecord
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Hook, Mode, ReasonCode, Verdict
from agentwall.net.endpoint import L4Protocol
from agentwall.policy.model import DETECT_DEFAULTS, Detect, Response


@pytest.fixture
def engine() -> Engine:
    return engine_of()


def see(engine: Engine, attempt) -> list[object]:
    return list(engine.handle(AttemptSeen(attempt=attempt, process=CURL)))


def decode(engine: Engine, *pieces) -> list[object]:
    return list(engine.handle(ExcerptsSeen(excerpts=tuple((each, CURL) for each in pieces))))


def response(cls: DetectionClass, to: Response) -> Detect:
    return Detect(responses={**DETECT_DEFAULTS, cls: to})


def test_a_match_that_blocks(engine):
    """The socket is ended first, then the log has what, where, by which rule and how much left."""
    attempt = matched(ALL, SUBSCRIBE[:37] + b'"', Verdict.DENY, left_bytes=7)
    kill, report = see(engine, attempt)

    assert kill == KILL
    record = report.record
    assert isinstance(record, DetectionRecord)
    assert (record.verdict, record.response, record.bytes_left) == (Verdict.DENY, "block", 7)
    assert (record.time_ns, record.mono_ns) == (10**18 + 1000, 1000)
    assert (record.local, record.remote) == (ATTEMPT.local, ATTEMPT.remote)
    assert (record.reason.code, record.reason.rule) == (ReasonCode.SIGNATURE, "p:allow[0]")
    assert record.process.exe == CURL.exe
    assert record.finding.signature == "mining/c-high"
    assert record.finding.stage is Stage.SIGNATURE
    assert record.finding.severity is Severity.HIGH
    assert record.finding.evidence["excerpt"].startswith('{"id": 1, "method": "mining.subscribe"')
    assert record.finding.evidence["also"] == ["mining/a-weak", "mining/b-medium"]


@pytest.mark.parametrize(
    ("verdict", "left"), [(Verdict.WOULD_DENY, None), (Verdict.ALLOW, None), (Verdict.DENY, 5)]
)
def test_verdicts(engine, verdict, left):
    """The verdict is the kernel's; where nothing was cut nothing is ended, or said to have left."""
    commands = see(engine, matched(SSH, b"SSH-2.0-", verdict, left_bytes=5))

    assert [isinstance(each, KillFlow) for each in commands] == [True, False][-len(commands) :]
    assert len(commands) == 1 + (verdict is Verdict.DENY)
    assert commands[-1].record.verdict is verdict
    assert commands[-1].record.bytes_left == left


@pytest.mark.parametrize("accept", [WEAK, WEAK_LOOK])
def test_low_confidence(engine, accept):
    """What is not sure is an alert, and what only hands over is not told of."""
    [report] = see(engine, matched(accept, b"x", Verdict.ALLOW))

    assert report.record.response == "alert"
    assert report.record.finding.confidence is Confidence.LOW
    assert "also" not in report.record.finding.evidence


@pytest.mark.parametrize(
    ("accept", "changes"),
    [
        (LOOK, {}),
        (ALL, {"rule": 1}),
        (SSH, {"rule": 2}),
        (len(ACCEPTS), {}),
        (SSH, {"table": 2}),
    ],
)
def test_what_does_not_count(engine, accept, changes):
    """A denial that no signature explains is told of all the same, as one."""
    kill, report = see(engine, matched(accept, b"x", Verdict.DENY, **changes))

    assert kill == KILL
    assert isinstance(report.record, FlowRecord)
    assert report.record.reason.code is ReasonCode.SIGNATURE


def test_off():
    """Of a class that is off only the other signatures count."""
    engine = engine_of(detect=response(DetectionClass.MINING, Response.OFF))
    commands = see(engine, matched(ALL, b"x", Verdict.ALLOW))

    assert [type(each.record) for each in commands] == [FlowRecord]


def test_a_cut_message_is_no_contradiction(engine):
    """A flow that was stopped in the midst of its message is as sure as what stopped it."""
    text = b'{"id": 1, "method": "login", "params": {"login": "48BvWallet'
    _, report = see(engine, matched(ALL, text, Verdict.DENY))

    assert report.record.finding.confidence is Confidence.HIGH
    assert "contradicted" not in report.record.finding.evidence


def test_unreadable(engine):
    """A flow that is dead because it cannot be read is a denial, and its socket is ended too."""
    attempt = replace(ATTEMPT, verdict=Verdict.DENY, code=ReasonCode.UNREADABLE)
    kill, report = see(engine, attempt)

    assert kill == KILL
    assert isinstance(report.record, FlowRecord)


@pytest.mark.parametrize("changes", [{"protocol": 1}, {"local": None}, {"cookie": 0}])
def test_nothing_to_end(engine, changes):
    """ICMP has no flow to end, and a socket that is not known is not looked for."""
    commands = see(engine, matched(SSH, b"x", Verdict.DENY, **changes))

    assert [type(each) for each in commands] == [Report]


@pytest.mark.parametrize(
    "changes",
    [
        {"hook": Hook.CONNECT4},
        {"direction": Direction.IN},
        {"protocol": L4Protocol.UDP},
        {"code": ReasonCode.QUESTION},
        {"verdict": Verdict.WOULD_DENY},
    ],
)
def test_other_denials_end_nothing(engine, changes):
    """connect() has told the application already; a listener and a resolver go on."""
    refused = {"verdict": Verdict.DENY, "code": ReasonCode.NO_RULE, "rule": None}
    commands = see(engine, replace(ATTEMPT, **{**refused, **changes}))

    assert [type(each) for each in commands] == [Report]


def test_a_flow_that_is_refused_by_now_is_ended(engine):
    """Another policy holds: its packets are dropped, and its application is not to wait."""
    attempt = replace(ATTEMPT, verdict=Verdict.DENY, code=ReasonCode.NO_RULE, rule=None)

    assert [type(each) for each in see(engine, attempt)] == [KillFlow, Report]


def test_a_decoder_that_blocks(engine):
    """What only a decoder reads ends the flow, and it is said how much had left by then."""
    first = decode(engine, excerpt(ESCAPED[:20], 0))
    kill, report = decode(engine, excerpt(ESCAPED[20:], 20))

    assert first == []
    assert kill == KILL
    record = report.record
    assert (record.verdict, record.response) == (Verdict.DENY, "block")
    assert record.bytes_left == len(ESCAPED)
    assert record.finding.stage is Stage.DECODER
    assert record.reason.code is ReasonCode.SIGNATURE
    assert decode(engine, excerpt(ESCAPED, len(ESCAPED))) == []


def test_decoded_once_a_batch(engine):
    """Pieces that come together are looked at together."""
    pieces = [excerpt(ESCAPED[at : at + 1], at) for at in range(len(ESCAPED))]

    assert [type(each) for each in decode(engine, *pieces)] == [KillFlow, Report]


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({"mode": Mode.AUDIT}, Verdict.WOULD_DENY, "block"),
        ({"mode": Mode.OBSERVE}, Verdict.ALLOW, "block"),
        ({"detect": response(DetectionClass.MINING, Response.ALERT)}, Verdict.ALLOW, "alert"),
    ],
)
def test_a_decoder_that_only_tells(changes, verdict, said):
    """Once a flow and dialect, and nothing is ended."""
    engine = engine_of(**changes)
    [report] = decode(engine, excerpt(ESCAPED, 0))

    assert (report.record.verdict, report.record.response) == (verdict, said)
    assert report.record.bytes_left is None
    assert decode(engine, excerpt(ESCAPED, len(ESCAPED))) == []
    assert len(decode(engine, excerpt(ESCAPED, 0, cookie=10))) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_a_decoder_and_exceptions(engine, index):
    """Behind a rule that excepts the class nothing is said."""
    commands = decode(engine, excerpt(ESCAPED, 0, rule=index))

    assert bool(commands) is (index == 0)


def test_a_match_ends_decoding(engine):
    """Of a flow that the kernel has cut decoders say nothing more."""
    see(engine, matched(ALL, b"x", Verdict.DENY))

    assert decode(engine, excerpt(ESCAPED, 0)) == []


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"question": Question(name="eu.pool.example", type=1)}, "asked"),
        ({"question": Question(name="eu.pool.example", type=None)}, "said"),
        ({"name": "eu.pool.example"}, "resolved"),
    ],
)
def test_listed_names(engine, changes, how):
    """A name on a list is an alert, whatever became of the flow, once a sandbox and name."""
    denied = {"verdict": Verdict.DENY, "code": ReasonCode.QUESTION, "rule": None}
    flow, alert = see(engine, replace(ATTEMPT, **denied, **changes))

    assert isinstance(flow.record, FlowRecord)
    record = alert.record
    assert record.finding.stage is Stage.INDICATOR
    assert record.finding.evidence[how] == "eu.pool.example"
    assert (record.verdict, record.response) == (Verdict.ALLOW, "alert")
    assert record.name == "eu.pool.example"
    assert len(see(engine, replace(ATTEMPT, **changes))) == 1


def test_listed_names_behind_an_exception(engine):
    """What the rule excepts is no news; behind another rule it is."""
    named = replace(ATTEMPT, name="pool.example")

    assert len(see(engine, replace(named, rule=1))) == 1
    assert len(see(engine, named)) == 2


def test_listed_names_are_bounded(engine):
    """Of very many names the first told of is told of again."""
    for number in range(MAX_NAMES + 1):
        assert len(see(engine, replace(ATTEMPT, name=f"n{number}.pool.example"))) == 2

    assert len(see(engine, replace(ATTEMPT, name=f"n{MAX_NAMES}.pool.example"))) == 1
    assert len(see(engine, replace(ATTEMPT, name="n0.pool.example"))) == 2


def test_behaviour(engine):
    """A scan is told of when it is one, within the records it was seen in."""
    found = []
    for host in range(1, 60):
        attempt = replace(
            ATTEMPT,
            mono_ns=1000 + host * 10**8,
            remote=endpoint(f"10.9.8.{host}", 22),
            hook=Hook.CONNECT4,
            verdict=Verdict.DENY,
            code=ReasonCode.NO_RULE,
            rule=None,
        )
        found += see(engine, attempt)
    found += engine.handle(SandboxFinished(key=KEY, mono_ns=10**10))

    scans = [each.record for each in found if isinstance(each.record, DetectionRecord)]
    assert {each.finding.cls for each in scans} == {DetectionClass.SCAN}
    assert isinstance(found[-1].record, StateRecord)


def test_behaviour_that_is_off():
    """Nothing is told of a class that is off."""
    engine = engine_of(detect=response(DetectionClass.SCAN, Response.OFF))
    found = []
    for host in range(1, 60):
        remote = endpoint(f"10.9.8.{host}", 22)
        denied = {"hook": Hook.CONNECT4, "verdict": Verdict.DENY, "rule": None}
        found += see(engine, replace(ATTEMPT, remote=remote, **denied))
    found += engine.handle(SandboxFinished(key=KEY, mono_ns=10**10))

    assert not any(isinstance(each.record, DetectionRecord) for each in found)


def test_a_sandbox_nobody_started(engine):
    """Of an unknown sandbox nothing is recognised, and nothing is lost."""
    stranger = SandboxKey(5)

    assert decode(engine, excerpt(ESCAPED, 0, sandbox=stranger)) == []
    _, report = see(engine, matched(SSH, b"x", Verdict.DENY, sandbox=stranger))
    assert isinstance(report.record, FlowRecord)


def test_left_hanging(engine):
    """A socket that could not be ended is told of, with the reason."""
    event = FlowLeftHanging(
        key=KEY, mono_ns=7, protocol=6, local=None, remote=KILL.remote, why="because"
    )
    [report] = engine.handle(event)

    assert report.record.state == "flow-left-hanging"
    assert report.record.detail == {
        "protocol": 6,
        "why": "because",
        "remote": "203.0.113.10 port 3333",
    }
