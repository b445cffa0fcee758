# SPDX-License-Identifier: Apache-2.0
"""What follows on a detection, by class, dialect and the rule that allows the flow."""

from __future__ import annotations

import pytest

from agentwall.flow.finding import DetectionClass
from agentwall.policy.detection import describe_looked_for, looked_for, response_to
from agentwall.policy.load import load_policy
from agentwall.policy.model import Response

MINING, TUNNEL, BEACON = DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.BEACON
TEXT = """\
version: 1
detect: {mining: block, tunnel: alert, p2p: off}
allow:
  - {cidr: 1.1.1.1, ports: [1], except: [tunnel/ssh, mining, beacon]}
  - {cidr: 2.2.2.2, ports: [1]}
"""


@pytest.fixture
def policy(tmp_path):
    """A policy with exceptions on its first rule."""
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return load_policy(path)


@pytest.mark.parametrize(
    ("cls", "dialect", "excepting", "plain"),
    [
        (MINING, "stratum-v1", "off", "block"),
        (TUNNEL, "ssh", "off", "alert"),
        (TUNNEL, "sshd", "alert", "alert"),
        (TUNNEL, "tunnel", "alert", "alert"),
        (DetectionClass.P2P, "bitcoin", "off", "off"),
        (BEACON, "beacon", "off", "alert"),
        (DetectionClass.SCAN, "scan-vertical", "alert", "alert"),
    ],
)
def test_response(policy, cls, dialect, excepting, plain):
    """A rule's exceptions hold for its own flows: a class with all of it, or one dialect."""
    one, other = policy.allow

    assert response_to(policy, cls, dialect, one) is Response(excepting)
    assert response_to(policy, cls, dialect, other) is Response(plain)
    assert response_to(policy, cls, dialect) is Response(plain)


def test_what_is_looked_for(policy):
    """What is off or excepted as a whole class is left out; of dialects it is said."""
    one, other = policy.allow

    assert MINING not in looked_for(policy, one)
    assert looked_for(policy, one)[TUNNEL] is Response.ALERT
    assert list(looked_for(policy, other)) == [c for c in DetectionClass if c.value != "p2p"]
    assert describe_looked_for(policy, one) == (
        "tunnel: alert, scan: alert, dns_exfil: alert; except tunnel/ssh, mining, beacon"
    )
    assert describe_looked_for(policy, None).endswith("dns_exfil: alert, beacon: alert")


@pytest.mark.parametrize(
    ("inspect", "said"),
    [
        ("all", "mining: block, tunnel: kill, p2p: alert, scan: alert"),
        ("wire", "mining: block, tunnel: kill, p2p: alert, scan: alert"),
        ("none", "mining: alert, tunnel: alert, p2p: alert, scan: alert"),
    ],
)
def test_what_is_left_where_nothing_is_read(tmp_path, inspect, said):
    """Names and behaviour only alert, and are all there is behind a rule that has nothing read."""
    path = tmp_path / "p.yaml"
    rule = f"{{cidr: 1.1.1.1, ports: [1], inspect: {inspect}}}"
    path.write_text(f"version: 1\ndetect: {{tunnel: kill, dns_exfil: kill}}\nallow: [{rule}]\n")
    policy = load_policy(path)

    assert describe_looked_for(policy, policy.allow[0]) == f"{said}, dns_exfil: kill, beacon: alert"


def test_nothing_is_looked_for(tmp_path):
    """Where every class is off, that is said."""
    path = tmp_path / "p.yaml"
    classes = ", ".join(f"{cls.value}: off" for cls in DetectionClass)
    path.write_text(f"version: 1\ndetect: {{{classes}}}\n")

    assert describe_looked_for(load_policy(path), None) == "nothing is looked for"
