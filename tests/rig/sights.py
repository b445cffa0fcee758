# SPDX-License-Identifier: Apache-2.0
"""A permitted flow to a pool, what the kernel says of it, and an engine that hears it."""

from __future__ import annotations

from dataclasses import fields, replace

from agentwall.detect.signature_load import load_signatures
from agentwall.engine.commands import KillFlow
from agentwall.engine.engine import Engine
from agentwall.engine.events import Event, RulesApplied, SandboxStarted, SignaturesApplied
from agentwall.errors import SourceLocation
from agentwall.flow.record import Attempt, Excerpt, Match, SandboxKey, Task
from agentwall.flow.verdict import Direction, Hook, Mode, ReasonCode, Verdict
from agentwall.net.ports import parse_ports
from agentwall.policy.model import Loopback, OnError, Policy, Rule, Section
from agentwall.policy.tables import RuleTables
from rig.records import SANDBOX, endpoint

KEY = SandboxKey(77)
ATTEMPT = Attempt(
    mono_ns=1000,
    sandbox=KEY,
    task=Task(pid=4242, uid=1000, comm=b"miner"),
    direction=Direction.OUT,
    protocol=6,
    local=endpoint("192.0.2.2", 40000),
    remote=endpoint("203.0.113.10", 3333),
    claimed=None,
    verdict=Verdict.ALLOW,
    code=ReasonCode.RULE,
    rule=0,
    generation=3,
    hook=Hook.EGRESS,
    errno=None,
    size_bytes=100,
    socket_type=1,
    cookie=9,
)
_OF_ATTEMPT = {field.name for field in fields(Attempt)}


def excerpt(data: bytes, position: int, *, from_client: bool = True, **changes: object) -> Excerpt:
    """Return bytes of the flow, its attempt with *changes*."""
    attempt = replace(ATTEMPT, **changes)  # type: ignore[arg-type]
    return Excerpt(attempt=attempt, from_client=from_client, position=position, data=data)


def matched(accept: int, text: bytes, verdict: Verdict, **changes: object) -> Attempt:
    """Return a match of table 1 that ends with *text*; *changes* are the match's or attempt's."""
    match = Match(
        table=1, accept=accept, from_client=True, position=len(text), left_bytes=0, text=text
    )
    of_attempt = {key: changes.pop(key) for key in list(changes) if key in _OF_ATTEMPT}
    return replace(  # type: ignore[arg-type]
        ATTEMPT,
        verdict=verdict,
        code=ReasonCode.SIGNATURE,
        match=replace(match, **changes),  # type: ignore[arg-type]
        **of_attempt,
    )


_SIGNATURE = """
  - id: {id}
    class: {cls}
    dialect: {dialect}
    protocol: tcp
    direction: either
    pattern: '^x'
    severity: {severity}
    confidence: {confidence}
    description: d
    examples: [x]
    counterexamples: [y]
"""
_KINDS = (
    ("mining/a-weak", "mining", "weak", "high", "low"),
    ("mining/b-medium", "mining", "stratum-v1", "medium", "high"),
    ("mining/c-high", "mining", "stratum-v1", "high", "high"),
    ("tunnel/ssh", "tunnel", "ssh", "high", "high"),
)
_LISTS = """
indicators:
  - {id: mining/pools, class: mining, dialect: pool, severity: high, confidence: medium,
     dated: 2026-01-02, names: [pool.example]}
"""
SIGNATURES = load_signatures(
    [
        (
            "test.yaml",
            "version: 1\nsignatures:"
            + "".join(
                _SIGNATURE.format(
                    id=id_, cls=cls, dialect=dialect, severity=severity, confidence=confidence
                )
                for id_, cls, dialect, severity, confidence in _KINDS
            )
            + "  - {id: mining/d-look, class: mining, dialect: look, protocol: tcp,"
            " direction: client, pattern: '^y', hand_over: true, description: d, examples: [y],"
            " counterexamples: [x]}\n" + _LISTS,
        )
    ]
)
# Weak alone; all of mining; SSH; what only hands over, beside the weak.
ACCEPTS = ((), (0,), (0, 1, 2), (4,), (0, 3), (3,))
WEAK, ALL, SSH, WEAK_LOOK, LOOK = 1, 2, 3, 4, 5
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["x/1"]}\n'
ESCAPED = SUBSCRIBE.replace(b"mining.s", b"mining.\\u0073")


def rule(index: int, *excepts: str) -> Rule:
    """Return the rule that permits the flow."""
    return Rule(
        policy="p",
        section=Section.ALLOW,
        index=index,
        ports=parse_ports("3333"),
        where=SourceLocation("p.yaml", 4 + index, 5),
        excepts=excepts,
    )


RULES = (rule(0), rule(1, "mining"), rule(2, "tunnel/ssh"))
POLICY = Policy(
    name="p",
    mode=Mode.ENFORCE,
    on_error=OnError.FAIL_CLOSED,
    refuse_with="EPERM",
    loopback=Loopback.AUTO,
    allow=RULES,
    deny=(),
    inbound=(),
    tests=(),
    files=("p.yaml",),
    digest="ab" * 32,
)
TABLES = RuleTables(rules=RULES, outbound=(), inbound=(), interval_sets=((),), protocols=())
KILL = KillFlow(
    sandbox=KEY,
    cookie=9,
    protocol=6,
    local=endpoint("192.0.2.2", 40000),
    remote=endpoint("203.0.113.10", 3333),
    pid=4242,
)


def beginning(policy: Policy = POLICY) -> tuple[Event, ...]:
    """Return what makes an engine watch one sandbox."""
    return (
        SandboxStarted(
            key=KEY,
            sandbox=SANDBOX,
            mono_ns=5,
            clock_offset_ns=10**18,
            mode=policy.mode,
            coverage="full",
        ),
        RulesApplied(key=KEY, mono_ns=6, generation=3, policy=policy, tables=TABLES),
        SignaturesApplied(key=KEY, signatures=SIGNATURES, table=1, accepts=ACCEPTS),
    )


def engine_of(**changes: object) -> Engine:
    """Return an engine that watches one sandbox, under the policy with *changes*."""
    engine = Engine()
    for event in beginning(replace(POLICY, **changes)):
        list(engine.handle(event))
    return engine
