# SPDX-License-Identifier: Apache-2.0
"""What ``detect`` and ``except`` load to, under ``extends`` too, and how bad values are refused."""

from __future__ import annotations

import pytest

from agentwall.errors import PolicyError
from agentwall.flow.finding import DetectionClass
from agentwall.policy.load import load_policy
from agentwall.policy.model import (
    DETECT_DEFAULTS,
    Detect,
    DnsLimits,
    Inspect,
    Response,
    ScanLimits,
)
from agentwall.policy.phases import every_rule

MINING, TUNNEL, SCAN = DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.SCAN


def _load(directory, text, name="p"):
    path = directory / f"{name}.yaml"
    path.write_text(f"version: 1\n{text}\n")
    return load_policy(path, search_path=())


@pytest.mark.parametrize("text", ["", "detect: {}", "detect: {scan: {}, dns_exfil: {}}"])
def test_absent(tmp_path, text):
    """Whoever says nothing gets the defaults: mining and tunnels block, the rest alerts."""
    detect = _load(tmp_path, text).detect

    assert detect == Detect()
    assert detect.responses == DETECT_DEFAULTS
    assert {c for c, r in detect.responses.items() if r is Response.BLOCK} == {MINING, TUNNEL}


def test_every_key(tmp_path):
    """Every key arrives, whether a response is written alone or in a map, and knows its place."""
    text = """\
detect:
  mining: alert
  tunnel: off
  p2p: "block"
  scan: {response: off, targets: 20, ports: 30, seconds: 40}
  dns_exfil: {response: block, questions_per_minute: 50, labels: 60}
  beacon: off
  depth_bytes: 4096
"""
    policy = _load(tmp_path, text)
    detect = policy.detect

    assert [detect.responses[cls].value for cls in DetectionClass] == [
        *("alert", "off", "block", "off", "block", "off")
    ]
    assert detect.scan == ScanLimits(targets=20, ports=30, seconds=40)
    assert detect.dns == DnsLimits(questions_per_minute=50, labels=60)
    assert detect.depth_bytes == 4096
    assert {str(where).removeprefix(policy.files[0]) for where in detect.places.values()} == {
        *(":3:11", ":4:11", ":5:8", ":6:20", ":7:25", ":8:11")
    }


def test_design_example(tmp_path):
    """The line that the documentation shows loads as it reads."""
    text = "detect: {mining: block, tunnel: block, scan: alert, dns_exfil: block}"
    detect = _load(tmp_path, text).detect

    assert detect.responses[SCAN] is Response.ALERT
    assert detect.responses[DetectionClass.DNS_EXFIL] is Response.BLOCK


def test_merged_key_by_key(tmp_path):
    """Each key is that of the last file that sets it, thresholds and responses on their own."""
    _load(tmp_path, "detect: {mining: off, tunnel: alert, scan: {targets: 5, seconds: 9}}", "a")
    _load(tmp_path, "detect: {tunnel: off, scan: off, dns_exfil: {labels: 7}}", "b")
    text = "extends: [a, b]\ndetect: {mining: block, scan: {ports: 6}, dns_exfil: alert}"
    detect = _load(tmp_path, text).detect

    assert detect.responses[MINING] is Response.BLOCK
    assert detect.responses[TUNNEL] is Response.OFF
    assert detect.responses[SCAN] is Response.OFF
    assert detect.scan == ScanLimits(targets=5, ports=6, seconds=9)
    assert detect.dns == DnsLimits(labels=7)
    assert detect.places[SCAN].path == str(tmp_path / "b.yaml")


def test_exceptions_stay_with_their_rule(tmp_path):
    """A base's exception holds for the base's rule, and no other."""
    rule = "cidr: 1.1.1.1, ports: [22]"
    _load(tmp_path, f"allow: [{{{rule}, except: [tunnel/ssh, mining, tunnel/ssh]}}]", "a")
    policy = _load(tmp_path, f"extends: [a]\nallow: [{{{rule}}}]")

    assert [r.excepts for r in policy.allow] == [("tunnel/ssh", "mining"), ()]


@pytest.mark.parametrize(
    "rule",
    [
        "allow: [{cidr: any, ports: [1]%s}]",
        "allow: [{cidr_file: l.txt, ports: [1]%s}]",
        "allow: [{host: a.example%s}]",
        "allow: [{host_file: l.txt%s}]",
        "allow: [{proxy: 10.0.0.5, ports: [1]%s}]",
        "inbound: [{cidr: any, ports: [1]%s}]",
        "phases: {setup: {allow: [{cidr: any, ports: [1]%s}]}}",
    ],
)
def test_where_reading_may_be_limited(tmp_path, rule):
    """Every kind of rule that lets something through says what is read; by default all is."""
    (tmp_path / "l.txt").write_text("# nothing\n")
    dns = "dns: {servers: [10.20.0.2]}\n"
    told = [Inspect.ALL, *Inspect]
    texts = ["", *(f", inspect: {each.value}" for each in Inspect)]
    found = [every_rule(_load(tmp_path, dns + rule % text)) for text in texts]

    assert [[each.inspect for each in rules] for rules in found] == [[each] for each in told]


def test_reading_stays_with_its_rule(tmp_path):
    """What a base's rule has read is said of the base's rule, and no other."""
    rule = "cidr: 1.1.1.1, ports: [22]"
    _load(tmp_path, f"allow: [{{{rule}, inspect: none}}]", "a")
    policy = _load(tmp_path, f"extends: [a]\nallow: [{{{rule}}}]")

    assert [r.inspect for r in policy.allow] == [Inspect.NONE, Inspect.ALL]


def test_all_responses(tmp_path):
    """What is told of one flow may stop the whole sandbox; a map may say so too."""
    text = "detect: {mining: kill, tunnel: freeze, p2p: kill, dns_exfil: {response: freeze}}"
    responses = _load(tmp_path, text).detect.responses

    assert responses[DetectionClass.MINING] is Response.KILL
    assert responses[DetectionClass.TUNNEL] is Response.FREEZE
    assert responses[DetectionClass.P2P] is Response.KILL
    assert responses[DetectionClass.DNS_EXFIL] is Response.FREEZE


@pytest.mark.parametrize(
    "rule",
    [
        "allow: [{cidr: any, ports: [1], except: [tunnel]}]",
        "allow: [{cidr_file: l.txt, ports: [1], except: [tunnel]}]",
        "allow: [{host: a.example, except: [tunnel]}]",
        "allow: [{host_file: l.txt, except: [tunnel]}]",
        "allow: [{proxy: 10.0.0.5, ports: [1], except: [tunnel]}]",
        "inbound: [{cidr: any, ports: [1], except: [tunnel]}]",
    ],
)
def test_where_exceptions_may_stand(tmp_path, rule):
    """Every kind of rule that lets something through may have exceptions."""
    (tmp_path / "l.txt").write_text("# nothing\n")
    policy = _load(tmp_path, f"dns: {{servers: [10.20.0.2]}}\n{rule}")

    assert [r.excepts for r in policy.allow + policy.inbound] == [("tunnel",)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("detect: []", "2:9: detect: expected a map, got a list"),
        (
            "detect: {mining: bloc}",
            "2:18: detect.mining: expected off, alert, block, freeze or kill, got 'bloc'",
        ),
        (
            "detect: {mining: on}",
            "2:18: detect.mining: expected off, alert, block, freeze or kill, got true",
        ),
        (
            "detect: {mining: }",
            "2:18: detect.mining: expected off, alert, block, freeze or kill, got nothing",
        ),
        (
            "detect: {p2p: {}}",
            "2:15: detect.p2p: expected off, alert, block, freeze or kill, got a map",
        ),
        (
            "detect: {tunnel: freze}",
            "2:18: detect.tunnel: expected off, alert, block, freeze or kill, got 'freze'",
        ),
        (
            "detect: {scan: kill}",
            "2:16: detect.scan: expected off or alert, got 'kill': it is told ",
        ),
        (
            "detect: {beacon: freeze}",
            "2:18: detect.beacon: expected off or alert, got 'freeze': it",
        ),
        ("detect: {scan: block}", "2:16: detect.scan: expected off or alert, got 'block': it is t"),
        ("detect: {beacon: block}", "2:18: detect.beacon: expected off or alert, got 'block': it "),
        ("detect: {scan: {response: block}}", "2:27: detect.scan.response: expected off or alert"),
        ("detect: {scna: alert}", "2:10: detect.scna: unknown key; did you mean scan?"),
        ("detect: {qqq: 1}", "2:10: detect.qqq: unknown key; expected one of mining, tunnel, p2p,"),
        ("detect: {scan: {target: 3}}", "2:17: detect.scan.target: unknown key; did you mean targ"),
        (
            "detect: {dns_exfil: {qqq: 3}}",
            "2:22: detect.dns_exfil.qqq: unknown key; expected one of response, questions_per_min",
        ),
        ("detect: {scan: {targets: 1}}", "2:26: detect.scan.targets: expected 2-1024 addresses, g"),
        ("detect: {scan: {ports: 2000}}", "2:24: detect.scan.ports: expected 2-1024 ports, got 20"),
        ("detect: {scan: {seconds: 1m}}", "2:26: detect.scan.seconds: expected 1-3600 seconds, go"),
        (
            "detect: {dns_exfil: {labels: 0}}",
            "2:30: detect.dns_exfil.labels: expected 1-10000 names, got 0",
        ),
        (
            "detect: {depth_bytes: 64KiB}",
            "2:23: detect.depth_bytes: expected 256-1048576 bytes, got '64KiB'",
        ),
        ("detect: {depth_bytes: 255}", "2:23: detect.depth_bytes: expected 256-1048576 bytes, got"),
        (
            "allow: [{cidr: any, ports: [1], except: tunnel}]",
            "2:41: allow[0].except: expected a list, got 'tunnel'",
        ),
        (
            "allow: [{cidr: any, ports: [1], except: [tunel]}]",
            "2:42: allow[0].except[0]: expected mining, tunnel, p2p or beacon, got 'tunel'",
        ),
        (
            "inbound: [{cidr: any, ports: [1], except: [scan]}]",
            "2:44: inbound[0].except[0]: expected mining, tunnel, p2p or beacon, got 'scan'",
        ),
        (
            "allow: [{cidr: any, ports: [1], except: [beacon/x]}]",
            "2:42: allow[0].except[0]: expected beacon alone, which has no dialects, got 'beac",
        ),
        (
            "allow: [{cidr: any, ports: [1], except: [tunnel/]}]",
            "2:42: allow[0].except[0]: expected a dialect in lower case, as in tunnel/ssh, got 't",
        ),
        (
            "allow: [{cidr: any, ports: [1], except: [5]}]",
            "2:42: allow[0].except[0]: expected what to except, such as tunnel/ssh, got 5",
        ),
        (
            "allow: [{cidr: any, ports: [1], exept: [tunnel]}]",
            "2:33: allow[0].exept: unknown key; did you mean except?",
        ),
        (
            "allow: [{cidr: any, ports: [1], excepts: [tunnel]}]",
            "2:33: allow[0].excepts: unknown key; did you mean except?",
        ),
        (
            "allow: [{cidr: any, ports: [1], inspect: tls}]",
            "2:42: allow[0].inspect: expected 'all', 'wire' or 'none', got 'tls'",
        ),
        (
            "inbound: [{cidr: any, ports: [1], inspect: off}]",
            "2:44: inbound[0].inspect: expected 'all', 'wire' or 'none', got false",
        ),
        (
            "allow: [{cidr: any, ports: [1], inspect: }]",
            "2:42: allow[0].inspect: expected 'all', 'wire' or 'none', got nothing",
        ),
        (
            "allow: [{cidr: any, ports: [1], inspct: none}]",
            "2:33: allow[0].inspct: unknown key; did you mean inspect?",
        ),
        (
            "deny: [{cidr: any, inspect: none}]",
            "2:20: deny[0].inspect: expected it beside an allow or inbound rule: what is denied sa",
        ),
        (
            "phases: {setup: {deny: [{cidr: any, inspect: wire}]}}",
            "2:37: phases.setup.deny[0].inspect: expected it beside an allow or inbound rule: what",
        ),
        ("detect: {inspect: none}", "2:10: detect.inspect: unknown key; expected one of mining,"),
        (
            "deny: [{cidr: any, except: [tunnel]}]",
            "2:20: deny[0].except: expected it beside an allow or inbound rule: what is denied say",
        ),
    ],
)
def test_bad_input(tmp_path, text, problem):
    """A wrong value is one error, with its line and column and what was expected."""
    with pytest.raises(PolicyError) as caught:
        _load(tmp_path, text)
    (found,) = caught.value.errors

    assert str(found).removeprefix(f"{tmp_path}/p.yaml:").startswith(problem)
