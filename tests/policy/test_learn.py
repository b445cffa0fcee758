# SPDX-License-Identifier: Apache-2.0
"""What is learned from flow records, and what never is; held against the evaluator."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.records import DENIED, TCP, UDP, endpoint, flow, permitted
from rig.strategies_of_records import flows

from agentwall.flow.record import FlowRecord, Question, Sandbox
from agentwall.flow.verdict import Direction, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, NamedEndpoint
from agentwall.policy.evaluate import evaluate, evaluate_name
from agentwall.policy.learn import Learned, Learner, LearnOptions, flaw_of, targets_of
from agentwall.policy.learned_evidence import Sighting
from agentwall.policy.learned_yaml import format_policy
from agentwall.policy.load import load_policy
from agentwall.policy.model import LoopbackScope, Policy

OBSERVED = Reason(code=ReasonCode.OBSERVED)
NO_SCANS = LearnOptions(scan=10**6)


def seen(**changes: object) -> FlowRecord:
    """Return the first sight of an observed flow, with *changes*."""
    return permitted(**{"reason": OBSERVED, **changes})


DNS = seen(remote=endpoint("10.20.0.2", 53, UDP), protocol=UDP)


def learn(*records: FlowRecord, options: LearnOptions | None = None) -> Learned:
    learner = Learner(options)
    for number, record in enumerate(records):
        learner.add(Sighting(record=record, event=f"run-{number}", source="e.jsonl"))
    return learner.learned()


def subjects(learned: Learned) -> list[str]:
    return [str(rule.subject) for rule in learned.allow]


def reasons(learned: Learned) -> list[str]:
    return [item.reason for item in learned.left_out]


def test_by_name():
    """A name stands for all of its addresses, with every port that was seen."""
    found = learn(
        DNS,
        seen(name="hub.example.com"),
        seen(name="hub.example.com", remote=endpoint("198.51.100.11", 8443)),
    )

    assert [str(server.address) for server in found.servers] == ["10.20.0.2"]
    assert subjects(found) == ["hub.example.com"]
    assert found.allow[0].services == ((TCP, 443), (TCP, 8443))
    assert found.allow[0].evidence.count == 2


def test_by_address():
    """Where no name is known, and where no DNS server is, the address is learned."""
    assert subjects(learn(DNS, seen())) == ["198.51.100.10"]
    assert subjects(learn(seen(name="hub.example.com"))) == ["198.51.100.10"]


def test_reserved_block_by_name():
    """A name that leads into a reserved block needs both, as the evaluator says too."""
    found = learn(DNS, seen(name="hub.internal", remote=endpoint("10.20.0.9", 443)))

    assert subjects(found) == ["hub.internal", "10.20.0.9"]
    assert "hub.internal" in found.allow[1].remarks[0]


def test_inbound():
    """Who called is learned with the sandbox's port, whatever port it called from."""
    visit = seen(
        direction=Direction.IN,
        remote=endpoint("10.20.0.1", 50000),
        local=endpoint("10.20.0.50", 8000),
    )

    found = learn(visit, replace(visit, remote=endpoint("10.20.0.1", 50001)))

    assert [str(rule.subject) for rule in found.inbound] == ["10.20.0.1"]
    assert found.inbound[0].services == ((TCP, 8000),)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"remote": endpoint("169.254.169.254", 80)}, "a metadata service"),
        ({"remote": endpoint("169.254.169.254", 53, UDP), "protocol": UDP}, "a metadata service"),
        ({"name": "github.io"}, "a name that no rule of its own can have"),
        ({"name": "co.uk"}, "a name that no rule of its own can have"),
        ({"name": "bad name\x1b"}, "a name that no rule of its own can have"),
        ({"name": "Hub.example.com"}, "a name that is not in its one form"),
        ({"reason": Reason(code=ReasonCode.QUIC)}, "permitted for a reason that permits nothing"),
        ({"verdict": Verdict.DENY, "reason": DENIED}, "deny: rl-rollout:deny[0]"),
        ({"verdict": Verdict.WOULD_DENY, "reason": DENIED}, "would-deny: rl-rollout:deny[0]"),
        ({"verdict": Verdict.DENY, "reason": Reason(code=ReasonCode.ECH)}, "deny: ech"),
        ({"verdict": Verdict.DENY, "remote": None, "reason": DENIED}, "deny: rl-rollout:deny[0]"),
        ({"remote": endpoint("198.51.100.1", 0)}, "no port is known"),
        ({"remote": endpoint("198.51.100.1", 0, 0), "protocol": 0}, "no rule permits IP protocol"),
        ({"remote": endpoint("224.0.0.9", 53, UDP), "protocol": UDP}, "questions to no single"),
        ({"remote": endpoint("127.0.0.1", 6379)}, "loopback, which needs no rule"),
        ({"reason": Reason(code=ReasonCode.LOOPBACK)}, "said to be loopback"),
        ({"reason": Reason(code=ReasonCode.RESOLVER)}, "said to be a DNS server's"),
        ({"direction": Direction.IN, "local": None}, "no port is known"),
    ],
)
def test_never_learned(changes, reason):
    """What is flagged is left out even when denied flows are asked for, and the reason is kept."""
    found = learn(DNS, seen(**changes), options=LearnOptions(include_denied=True))

    assert (found.allow, found.inbound) == ((), ())
    assert [each for each in reasons(found) if each.startswith(reason)] == reasons(found) != []


def test_denied_when_asked_for():
    """What was refused for the lack of a rule is a proposal on request only."""
    refused = flow(verdict=Verdict.WOULD_DENY)

    assert learn(refused).is_empty
    assert reasons(learn(refused)) == ["refused, as no rule allowed it"]
    assert subjects(learn(refused, options=LearnOptions(include_denied=True))) == ["203.0.113.7"]


def test_refused_question():
    """A refused question names what was asked, and is no rule: which port is not known."""
    asked = flow(
        remote=endpoint("10.20.0.2", 53, UDP),
        protocol=UDP,
        reason=Reason(code=ReasonCode.QUESTION),
        question=Question(name="exfil.example.com", type=1),
    )

    found = learn(asked, options=LearnOptions(include_denied=True))

    assert found.is_empty
    assert found.left_out[0].what.startswith("exfil.example.com, said to udp/10.20.0.2:53")


@pytest.mark.parametrize(
    ("code", "servers"),
    [
        (ReasonCode.RESOLVER, ["127.0.0.53"]),
        (ReasonCode.OBSERVED, []),
        (ReasonCode.LOOPBACK, []),
    ],
)
def test_resolver_on_loopback(code, servers):
    """Only one that a policy had declared is declared again: another may be the sandbox's own."""
    asked = seen(remote=endpoint("127.0.0.53", 53, UDP), protocol=UDP, reason=Reason(code=code))

    assert [str(server.address) for server in learn(asked).servers] == servers


def test_rewritten_destination():
    """Where something rewrote the destination, both are learned."""
    found = learn(seen(claimed=endpoint("203.0.113.50", 443)))

    assert subjects(found) == ["198.51.100.10", "203.0.113.50"]


def test_scan():
    """A scan is left out as a whole, hits included; what another sandbox reached stays."""
    scan = [seen(remote=endpoint(f"10.30.0.{host}", 22)) for host in range(1, 21)]
    refused = [replace(each, verdict=Verdict.DENY, reason=flow().reason) for each in scan[1:]]
    other = replace(scan[0], sandbox=Sandbox(id="run-2", cgroup="/b"))

    assert learn(*scan).is_empty
    assert learn(scan[0], *refused).is_empty
    assert subjects(learn(*scan, other)) == ["10.30.0.1"]
    assert len(learn(*scan, options=LearnOptions(scan=21)).allow) == 20


def test_protocols():
    """No more protocols than one policy may name; the rest is left out by name."""
    numbers = [1, 58, *range(100, 112)]
    found = learn(
        *(seen(remote=endpoint(f"192.0.2.{n}", 0, n), protocol=n) for n in numbers),
    )

    assert {p for rule in found.allow for p, _ in rule.services} == {1, 58, *range(100, 106)}
    assert len(found.left_out) == 6


def test_too_much_is_counted(monkeypatch):
    """What finds no room is counted and not taken in silence."""
    monkeypatch.setattr("agentwall.policy.learn.MAX_TARGETS", 3)

    found = learn(*(seen(remote=endpoint(f"192.0.2.{n}", 443)) for n in range(1, 6)))

    assert (len(found.allow), found.untaken) == (3, 2)


NAMES = ("hub.example.com", "a.cdn.example.com", "b.cdn.example.com", "reg.internal", "x.github.io")
ADDRESSES = ("192.0.2.7", "192.0.2.8", "10.20.0.9", "2001:db8::7", "fd00::9", "127.0.0.1")
PORTS = (22, 53, 80, 81, 443)
CODES = (ReasonCode.OBSERVED, ReasonCode.RULE, ReasonCode.RESOLVER, ReasonCode.NO_RULE)


_ANY_FLOW = flows()
_LIKELY_PROTOCOLS = st.sampled_from([TCP, UDP, 1, 132])
_ENDS = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(PORTS))
_NO_OR_ENDS = st.none() | _ENDS
_NO_OR_NAMES = st.none() | st.sampled_from(NAMES)
_VERDICTS = st.sampled_from([Verdict.ALLOW, Verdict.ALLOW, Verdict.DENY])
_CODES = st.sampled_from(CODES)


@st.composite
def likely(draw: st.DrawFn) -> FlowRecord:
    """Draw a record of the few destinations above, so that records meet."""
    protocol = draw(_LIKELY_PROTOCOLS)
    remote, local, claimed = draw(_ENDS), draw(_ENDS), draw(_NO_OR_ENDS)
    return replace(
        draw(_ANY_FLOW),
        protocol=protocol,
        remote=endpoint(*remote, protocol),
        local=endpoint(*local, protocol),
        claimed=claimed and endpoint(*claimed, protocol),
        name=draw(_NO_OR_NAMES),
        verdict=draw(_VERDICTS),
        reason=Reason(code=draw(_CODES)),
    )


RECORDS = st.builds(
    lambda records, has_dns: [*records, DNS] if has_dns else records,
    st.lists(likely() | flows(), max_size=12),
    st.booleans(),
)
thorough = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that loads policy text by agentwall's own loader."""
    path = tmp_path_factory.mktemp("learned") / "learned.yaml"

    def load_text(text: str) -> Policy:
        path.write_text(text, encoding="ascii")
        return load_policy(path)

    return load_text


def verdict_of(policy: Policy, record: FlowRecord, target) -> Verdict:
    return evaluate(
        policy,
        direction=target.direction,
        remote=Endpoint(target.address, target.port, target.protocol),
        local_port=target.port,
        loopback=LoopbackScope.FREE,
        names=() if record.name is None else (record.name,),
    ).verdict


@thorough
@given(RECORDS, st.booleans(), st.none() | st.integers(2, 3))
def test_permits_what_it_was_learned_from(load, records, include_denied, wildcards):
    """The output loads, its tests pass, and whatever was permitted and not flagged is permitted."""
    options = replace(NO_SCANS, include_denied=include_denied, wildcards=wildcards)
    found = learn(*records, options=options)
    policy = load(format_policy(found))

    rare = [item for item in found.left_out if item.reason.startswith("one policy names")]
    for record in records:
        wanted = record.verdict is Verdict.ALLOW or include_denied
        for target in targets_of(record):
            if wanted and not rare and flaw_of(record, target) is None:
                assert verdict_of(policy, record, target) is Verdict.ALLOW
    for row in policy.tests:
        to = row.remote
        decision = (
            evaluate_name(policy, to.name, to.protocol, to.port)
            if isinstance(to, NamedEndpoint)
            else evaluate(policy, direction=Direction.OUT, remote=to, loopback=LoopbackScope.CLOSED)
        )
        assert decision.verdict is row.expect


@thorough
@given(RECORDS)
def test_permits_nothing_else(load, records):
    """What the policy permits was seen: that very name or address, protocol and port."""
    policy = load(format_policy(learn(*records, options=NO_SCANS)))

    fine = [
        target
        for record in records
        for target in targets_of(record)
        if record.verdict is Verdict.ALLOW and flaw_of(record, target) is None
    ]
    servers = {t.address for t in fine if t.port == 53 and t.direction is Direction.OUT}
    by_address = {(t.direction, t.address, t.protocol, t.port) for t in fine}
    by_name = {(t.name, t.protocol, t.port) for t in fine}
    for address in ADDRESSES:
        for port in PORTS:
            for protocol in (TCP, UDP):
                to = endpoint(address, port, protocol)
                for direction, name in [(d, n) for d in Direction for n in (None, *NAMES)]:
                    decision = evaluate(
                        policy,
                        direction=direction,
                        remote=to,
                        local_port=port,
                        loopback=LoopbackScope.CLOSED,
                        names=() if name is None else (name,),
                    )
                    assert (
                        decision.verdict is Verdict.DENY
                        or decision.code is ReasonCode.LOOPBACK
                        or (direction, to.address, protocol, port) in by_address
                        or (port == 53 and to.address in servers)
                        or (name is not None and (name, protocol, port) in by_name)
                    )


@thorough
@given(RECORDS, st.randoms(use_true_random=False))
def test_order_of_records_does_not_matter(records, source: random.Random):
    """Equal events give equal text, in whatever order the files are named."""
    sightings = [
        Sighting(record=record, event=f"run-{number}", source=f"{number % 3}.jsonl")
        for number, record in enumerate(records)
    ]
    texts = []
    for _ in range(2):
        learner = Learner()
        for sighting in sightings:
            learner.add(sighting)
        texts.append(format_policy(learner.learned()))
        source.shuffle(sightings)

    assert texts[0] == texts[1]
