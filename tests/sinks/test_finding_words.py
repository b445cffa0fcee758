# SPDX-License-Identifier: Apache-2.0
"""The words for what was recognised."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.records import MINING, NO_RULE, detection, process, scanned
from sinks.test_finding_groups import ends, grouped

from agentwall.flow.finding import DetectionClass, Stage
from agentwall.flow.verdict import Direction, Reason, ReasonCode, Verdict
from agentwall.sinks import finding_words
from agentwall.sinks.findings import Judged

PLACE = "rl-rollout:allow[0] at policies/rl-rollout.yaml:12"


def test_a_detection_in_one_line():
    """What, where, who, what came of it, which rule permits it and what would let it pass."""
    assert finding_words.detection_line(detection()) == (
        "detected mining (stratum-v1) in tcp 203.0.113.10:3333 by python3[123]: cut off by its "
        f"signature before any of it was out; permitted by {PLACE}; to let it pass, except: "
        "[mining/stratum-v1] on rl-rollout:allow[0], or detect: {mining: alert}"
    )


def test_a_scan_in_one_line():
    """Behaviour tells the numbers, and is about no single flow."""
    assert finding_words.detection_line(scanned()) == (
        "detected scan (scan-horizontal) by python3[123]: an alert by its behaviour: nothing was "
        "cut off; 13 addresses, 12 of them private, 1 port, 13 refused, in 2.5 s; to silence it, "
        "detect: {scan: off}"
    )


def test_names_are_escaped():
    """A sandbox chooses names of programs and of hosts."""
    record = detection(
        name="a\x1b[2J.example",
        process=process("\u202e", 1),
        finding=replace(MINING, dialect="x\ny"),
    )
    line = finding_words.detection_line(record)

    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("verdict", "stage", "left", "direction", "words"),
    [
        (Verdict.DENY, Stage.SIGNATURE, 0, Direction.OUT, "its signature before any of it was out"),
        (Verdict.DENY, Stage.DECODER, 312, Direction.OUT, "a decoder after 312 B of it were out"),
        (Verdict.DENY, Stage.SIGNATURE, 4, Direction.IN, "signature after 4 B of it were through"),
        (Verdict.DENY, Stage.SIGNATURE, None, Direction.OUT, "cut off by its signature"),
        (Verdict.WOULD_DENY, Stage.DECODER, None, Direction.OUT, "would be cut off by a decoder"),
        (Verdict.ALLOW, Stage.INDICATOR, None, Direction.OUT, "an alert by a listed name: nothing"),
        (None, Stage.BEHAVIOUR, None, Direction.OUT, "found by its behaviour"),
    ],
)
def test_outcomes(verdict, stage, left, direction, words):
    """It says what found it, and how much had left by then."""
    assert words in finding_words.describe_outcome(verdict, stage, left, direction)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (detection().reason, f"permitted by {PLACE}"),
        (Reason(code=ReasonCode.SIGNATURE), ""),
        (NO_RULE, "no rule allows it"),
        (
            Reason(code=ReasonCode.RULE, rule="p:deny[0]", file="p.yaml", line=3),
            "p:deny[0] at p.yaml:3",
        ),
        (Reason(code=ReasonCode.LOOPBACK), "the policy's loopback setting"),
    ],
)
def test_permits(reason, words):
    """Which rule permits the flow, or why it is denied as well."""
    assert finding_words.describe_permit(reason) == words


def test_kinds():
    """Classes in words, with the dialect where there is one."""
    assert finding_words.describe_kind("dns_exfil", None) == "dns exfil"
    assert finding_words.describe_kind("tunnel", "ssh") == "tunnel (ssh)"


@pytest.mark.parametrize(
    ("flows", "words"),
    [
        ([ends()], "tcp 203.0.113.10:3333"),
        ([ends(1, service=1), ends(2, service=2)], "tcp 203.0.113.10, 2 ports"),
        (
            [ends(server=f"203.0.113.{host}") for host in range(1, 6)],
            "tcp port 3333 at 5 addresses, 203.0.113.1 to 203.0.113.5",
        ),
    ],
)
def test_flows_of_a_group(flows, words):
    """One destination, several ports of one, or many."""
    (group,) = grouped(*flows)

    assert finding_words.group_flow(group) == words
    assert finding_words.group_who(group) == ("10.0.0.5", "x.pcap")


def test_a_flow_that_is_denied_anyway():
    """Then nothing of it would have been out to be cut off."""
    (group,) = grouped(ends())
    row = replace(group.first, verdict=Verdict.WOULD_DENY, reason=NO_RULE)
    denied = replace(group, rows=(row,))

    assert finding_words.group_outcome(denied).endswith("the flow itself would be denied")
    assert finding_words.finding_remedy(row) == "no rule allows it"


def test_grounds():
    """Signature and confidence, numbers, and what was said; of scans without the client's name."""
    (group,) = grouped(ends())

    assert finding_words.finding_grounds(group.first) == [
        "mining/stratum-v1, high confidence",
        "pool pool.example",
        '"{"id": 1, "method": "mining.subscribe""',
    ]


def test_judged_is_what_a_policy_says():
    """A row without a policy has no remedy; one with it aims at the verdict."""
    judged = Judged(verdict=Verdict.ALLOW, response="alert", reason=detection().reason)
    (group,) = grouped(ends())
    row = replace(
        group.first, verdict=judged.verdict, reason=judged.reason, remedy="detect: {mining: off}"
    )

    assert finding_words.finding_remedy(group.first) == ""
    assert finding_words.finding_remedy(row) == (
        f"permitted by {PLACE}; to silence it, detect: {{mining: off}}"
    )


@pytest.mark.parametrize("cls", DetectionClass)
def test_every_class_has_a_line(cls):
    """Whatever the class, a detection reads as a sentence of one line."""
    line = finding_words.detection_line(detection(replace(MINING, cls=cls)))

    assert line.startswith("detected ")
    assert "to let it pass," in line


def test_sources():
    """A capture goes by the last part of its name."""
    assert finding_words.describe_source("/a/b\x1b/c\n.pcap") == "c\\x0a.pcap"
    assert finding_words.describe_source("stdin") == "stdin"


@pytest.mark.parametrize(("inside", "words"), [("tls", " inside TLS"), ("ssh", ""), (7, "")])
def test_inside_tls(inside, words):
    """What was said inside TLS is marked as such."""
    assert finding_words.finding_kind("p2p", None, {"inside": inside}) == f"p2p{words}"


def test_a_line_inside_tls():
    """The rule that permits the flow is told also where its flow was not known."""
    finding = replace(detection().finding, evidence={"inside": "tls"})
    line = finding_words.detection_line(detection(finding, remote=None, local=None))

    assert line.startswith("detected mining (stratum-v1) inside TLS by python3[123]: cut off by")
    assert "permitted by rl-rollout:allow[0]" in line


@pytest.mark.parametrize(
    ("response", "expected"),
    [("block", "its flow is not known, and is refused once it is"), ("alert", "an alert by")],
)
def test_a_flow_that_is_not_known_yet(response, expected):
    """What is to be cut off, and has no flow yet, is more than an alert."""
    finding = replace(detection().finding, evidence={"inside": "tls"})
    record = replace(detection(finding, remote=None, local=None), verdict=Verdict.ALLOW)

    assert expected in finding_words.detection_line(replace(record, response=response))
