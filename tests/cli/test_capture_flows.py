# SPDX-License-Identifier: Apache-2.0
"""A policy over the flows of one capture."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from capture.signatures import SIGNATURES
from rig.records import MINING, SCAN

from agentwall.cli import capture_flows
from agentwall.cli.capture_flows import FlowJudge, slim
from agentwall.detect.conversation import Conversation, Datagram
from agentwall.flow.finding import DetectionClass, Stage
from agentwall.flow.record import Question
from agentwall.flow.verdict import ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint
from agentwall.policy.load import load_policy

RULES = """\
version: 1
name: lab
dns: {servers: [10.0.0.2]}
allow:
  - {host: good.example.org, except: [tunnel/greeting]}
  - {cidr: 203.0.113.7, ports: [22]}
detect: {p2p: off}
"""


@pytest.fixture
def judge(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(RULES)
    return FlowJudge(load_policy(path), SIGNATURES)


def talk(server="203.0.113.7", port=22, protocol=6, **more):
    found = {"begin_ns": 5, "end_ns": 9, "packets": 4, "client_bytes": 10, "server_bytes": 20}
    return Conversation(
        client=Endpoint(ip_address("10.0.0.5"), 40000, protocol),
        server=Endpoint(ip_address(server), port, protocol),
        **{**found, **more},
    )


def dns(name=b"\4good\7example\3org\0", address="198.51.100.9"):
    head = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0)
    asked = head + name + b"\0\1\0\1"
    answer = struct.pack(">6H", 7, 0x8180, 1, 1, 0, 0) + name + b"\0\1\0\1"
    answer += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + ip_address(address).packed
    parts = tuple(
        Datagram(data=data, size=len(data), from_client=data is asked) for data in (asked, answer)
    )
    return talk("10.0.0.2", 53, 17, datagrams=parts)


def verdicts(judge, *conversations):
    for conversation in conversations:
        assert judge.take(conversation) is None
    return list(judge.records())


def test_equal_flows_add_up(judge):
    """One record stands for flows of one client to one destination."""
    (record,) = verdicts(judge, talk(), replace(talk(), begin_ns=3))

    assert (record.verdict, record.reason.rule) == (Verdict.ALLOW, "lab:allow[1]")
    assert (record.reason.line, record.count, record.bytes_out) == (6, 2, 20)
    assert (record.time_ns, record.duration_ns) == (3, 10)
    assert (record.sandbox.id, record.sandbox.cgroup, record.process) == ("10.0.0.5", "", None)


def test_denied_flows_only_would_have_been(judge):
    """A capture shows what went through."""
    (record,) = verdicts(judge, talk(port=23))

    assert (record.verdict, record.reason.code) == (Verdict.WOULD_DENY, ReasonCode.NO_RULE)


def test_a_name_may_be_learned_later(judge):
    """Where the answer stands in the capture does not matter."""
    records = verdicts(judge, talk("198.51.100.9", 443), dns())

    assert [record.verdict for record in records] == [Verdict.ALLOW, Verdict.ALLOW]
    assert records[0].name == "good.example.org"


def test_a_refused_question(judge):
    """It is told with its name and type."""
    (record,) = verdicts(judge, dns(b"\4evil\7example\3net\0"))

    assert record.reason.code is ReasonCode.QUESTION
    assert record.question == Question(name="evil.example.net", type=1)


def test_a_server_that_names_itself_otherwise(judge):
    """An address that is permitted by name opens nothing that says another one."""
    said = talk("198.51.100.9", 443, name="evil.example.net")
    records = verdicts(judge, dns(), said)

    assert records[1].reason.code is ReasonCode.SERVER_NAME
    assert records[1].question == Question(name="evil.example.net", type=None)


@pytest.mark.parametrize(
    ("conversation", "finding", "outcome"),
    [
        (talk(), MINING, (Verdict.WOULD_DENY, "block", False)),
        (talk(port=23), MINING, (Verdict.WOULD_DENY, "block", True)),
        (talk(), replace(MINING, stage=Stage.BEHAVIOUR), (Verdict.ALLOW, "alert", False)),
        (talk(), replace(MINING, cls=DetectionClass.P2P), None),
        (None, SCAN, (Verdict.ALLOW, "alert", False)),
    ],
)
def test_findings(judge, conversation, finding, outcome):
    """Detect and what a finding is worth decide what follows."""
    found = judge.judge(conversation, finding)

    assert (found and (found.verdict, found.response, found.is_denied)) == outcome


def test_an_exception_goes_by_what_the_kernel_knows(judge):
    """Whatever dialect decoders make of a match, it is the signature that is excepted."""
    judge.take(dns())
    finding = replace(
        MINING, cls=DetectionClass.TUNNEL, signature="tunnel/greeting", dialect="refined"
    )

    assert judge.judge(talk("198.51.100.9", 443), finding) is None
    assert judge.judge(talk(), finding) is not None


@pytest.mark.parametrize(
    ("stage", "outcome"),
    [
        (Stage.SIGNATURE, None),
        (Stage.DECODER, None),
        (Stage.BEHAVIOUR, (Verdict.ALLOW, "alert")),
        (Stage.INDICATOR, (Verdict.ALLOW, "alert")),
    ],
)
def test_a_rule_that_has_nothing_read(tmp_path, stage, outcome):
    """What is said behind it is no finding, as it is not live; names and behaviour are."""
    path = tmp_path / "lab.yaml"
    path.write_text(RULES.replace("ports: [22]", "ports: [22], inspect: none"))
    judge = FlowJudge(load_policy(path), SIGNATURES)
    found = judge.judge(talk(), replace(MINING, stage=stage))

    assert (found and (found.verdict, found.response)) == outcome


def test_room_is_bounded(judge, monkeypatch):
    """What finds no room is judged at once."""
    monkeypatch.setattr(capture_flows, "MAX_KEPT", 1)
    first, second = talk(), talk(port=80)

    assert judge.take(first) is None
    record = judge.take(second)
    assert record is not None
    assert record.verdict is Verdict.WOULD_DENY
    assert len(list(judge.records())) == 1


def test_slim():
    """Heads are kept of DNS alone, which is judged by what is asked."""
    full = talk(client_head=b"x", server_head=b"y", client_cuts=(0,))

    assert slim(full) == talk()
    assert slim(dns()) == dns()
