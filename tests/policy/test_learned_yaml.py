# SPDX-License-Identifier: Apache-2.0
"""The text of a learned policy."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rig.records import DENIED, UDP, endpoint, flow, permitted, process

from agentwall.flow.verdict import Direction, Reason, ReasonCode
from agentwall.net.domain import parse_pattern
from agentwall.net.ports import parse_ports
from agentwall.policy.learn import Learned, Learner, LearnOptions
from agentwall.policy.learned_evidence import Sighting
from agentwall.policy.learned_yaml import format_policy, port_entries
from agentwall.policy.load import load_policy

OBSERVED = Reason(code=ReasonCode.OBSERVED)
EVIL = process("p\x1b\n- {cidr: any}\u202e", 5300)
DAY = [
    permitted(reason=OBSERVED, remote=endpoint("10.20.0.2", 53, UDP), protocol=UDP),
    permitted(reason=OBSERVED, name="hub.example.com"),
    permitted(reason=OBSERVED, name="a.cdn.example.com", remote=endpoint("192.0.2.1", 443)),
    permitted(reason=OBSERVED, name="b.cdn.example.com", remote=endpoint("192.0.2.1", 443)),
    permitted(reason=OBSERVED, remote=endpoint("2001:db8::7", 22), process=EVIL),
    permitted(
        reason=OBSERVED,
        direction=Direction.IN,
        remote=endpoint("10.20.0.1", 50000),
        local=endpoint("10.20.0.50", 8000),
    ),
    flow(reason=DENIED, process=EVIL),
]


def learn(records=DAY, **options: object) -> Learned:
    learner = Learner(LearnOptions(**options))
    for number, record in enumerate(records, 1):
        learner.add(Sighting(record=record, event=f"run-{number}", source="e.jsonl"))
    return learner.learned()


def test_document():
    """Names, addresses, servers and tests stand where the language has them, and nothing else."""
    text = format_policy(learn(wildcards=2))

    assert yaml.safe_load(text) == {
        "version": 1,
        "dns": {"servers": ["10.20.0.2"]},
        "allow": [
            {"host": "*.cdn.example.com"},
            {"host": "hub.example.com"},
            {"cidr": "2001:db8::7", "ports": [22]},
        ],
        "inbound": [{"cidr": "10.20.0.1", "ports": [8000]}],
        "tests": [
            {"to": "udp/10.20.0.2:53", "expect": "allow"},
            {"to": "tcp/a.cdn.example.com:443", "expect": "allow"},
            {"to": "tcp/hub.example.com:443", "expect": "allow"},
            {"to": "tcp/[2001:db8::7]:22", "expect": "allow"},
            {"to": "tcp/192.0.2.1:9", "expect": "deny"},
        ],
    }


def test_loads(tmp_path):
    """agentwall's own loader takes it."""
    path = tmp_path / "learned.yaml"
    path.write_text(format_policy(learn()), encoding="ascii")

    policy = load_policy(path)

    patterns = [str(p.pattern) for rule in policy.allow for p in rule.patterns]
    assert patterns == ["a.cdn.example.com", "b.cdn.example.com", "hub.example.com"]
    assert policy.name == "learned"


def test_provenance():
    """Each line says where it comes from; what was left out follows, with the reason."""
    lines = format_policy(learn(), ["1 event lost\x1b"]).splitlines()

    at = lines.index("  - {host: hub.example.com}")
    assert lines[at - 3 : at] == [
        "  # 1 flow by curl; 0 bytes out, 0 in",
        "  # 2026-09-21T14:13:20Z to 2026-09-21T14:13:20Z; first event run-2; run-7f3a in e.jsonl",
        "  # at 198.51.100.10",
    ]
    assert "# note: 1 event lost\\x1b" in lines
    end = lines.index("# Seen, and not above:")
    assert lines[end + 1] == "# deny: rl-rollout:deny[0]"
    assert lines[end + 2].startswith("#   tcp/203.0.113.7:443: 1 flow by p\\x1b\\n- {cidr")


def test_long_lists_are_cut():
    """A sandbox cannot make the list of what was left out endless."""
    many = [
        flow(reason=DENIED, remote=endpoint(f"198.51.{n // 256}.{n % 256}", 443))
        for n in range(300)
    ]

    lines = format_policy(learn(many)).splitlines()

    assert lines[-1] == "#   and 100 more"
    assert len(lines) < 220


def test_the_stranger_is_one(tmp_path):
    """The row that must be denied names an address that no rule has."""
    taken = [permitted(remote=endpoint("192.0.2.1", 9)), permitted(remote=endpoint("192.0.2.2", 1))]

    document = yaml.safe_load(format_policy(learn(taken)))

    assert document["tests"][-1] == {"to": "tcp/192.0.2.3:9", "expect": "deny"}


@pytest.mark.parametrize(
    ("services", "entries"),
    [
        ([(6, 443)], ["443"]),
        ([(6, 81), (6, 80), (6, 80), (6, 83)], ["80-81", "83"]),
        ([(6, 65534), (6, 65535), (17, 1)], ["65534-65535", "udp/1"]),
        ([(17, 5353), (17, 5354), (6, 22)], ["22", "udp/5353-5354"]),
        ([(58, 0), (1, 0), (132, 0)], ["icmp", "ip/132"]),
        ([(58, 0)], ["icmp"]),
    ],
)
def test_port_entries(services, entries):
    """Ports that follow each other are ranges; every protocol is named as the language does."""
    assert port_entries(services) == entries


@given(st.sets(st.tuples(st.sampled_from([6, 17]), st.integers(1, 40) | st.integers(65500, 65535))))
def test_port_entries_hold_no_more(services):
    """What the entries cover is what was given."""
    covered = {
        (r.first >> 16, place & 0xFFFF)
        for entry in port_entries(services)
        for r in parse_ports(entry)
        for place in range(r.first, r.last + 1)
    }

    assert covered == services


LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,6}[a-z0-9_])?", fullmatch=True)


@given(st.lists(LABELS, min_size=1, max_size=4).map(".".join))
def test_names_stay_text(name):
    """No name turns into a number, a date or a word of YAML's own."""
    try:
        parse_pattern(name)
    except ValueError:
        return
    target = permitted(reason=OBSERVED, name=name)
    document = yaml.safe_load(format_policy(learn([DAY[0], target])))

    assert [rule.get("host", name) for rule in document.get("allow", [])] in ([name], [])


def test_words_of_yaml():
    """Names such as `on` and `1e3.x` are quoted."""
    names = ["on", "yes", "1e3.example.com", "0x1f.example.com", "null"]
    records = [DAY[0], *(permitted(reason=OBSERVED, name=name) for name in names)]

    document = yaml.safe_load(format_policy(learn(records)))

    hosts = [rule["host"] for rule in document["allow"]]
    assert set(hosts) == set(names)
    assert ip_address(document["dns"]["servers"][0]) == ip_address("10.20.0.2")
