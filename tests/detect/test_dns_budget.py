# SPDX-License-Identifier: Apache-2.0
"""DNS budgets: what is asking, and what is more than that. Real tunnels: test_dns_tunnels.py."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.detect.dns_budget import MAX_ZONES, Asked, DnsWatch, asked_of, read_asked
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.policy.model import DnsLimits

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
A, NULL, TXT = 1, 10, 16


def message(*labels: bytes, kind=A, flags=0x0100, count=1):
    """Return a DNS message that asks for the name of *labels*."""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    header = bytes(2) + flags.to_bytes(2, "big") + count.to_bytes(2, "big") + bytes(6)
    return header + name + kind.to_bytes(2, "big") + b"\x00\x01"


def seen(names, *, every_s=1.0, kind=A, limits=None):
    """Return what a watch of its own says of *names*, asked one after the other."""
    watch = DnsWatch(limits or DnsLimits())
    return [
        finding
        for number, name in enumerate(names)
        for finding in watch.see(START + int(number * every_s * SECOND), asked_of(name, kind))
    ]


def hidden(seed, size):
    """Return a label that carries *size* bytes."""
    data = random.Random(seed).randbytes(size)
    return base64.b32encode(data).decode().lower().rstrip("=")


def signatures(found):
    """Return the ids of findings."""
    return [finding.signature for finding in found]


def test_data_in_names():
    """Names that are new each time are a tunnel: suspected at twelve, certain at twenty-four."""
    found = seen([f"{hidden(n, 30)}.t.example.co.uk" for n in range(60)])

    assert signatures(found) == ["behaviour/dns-tunnel"] * 2
    assert [f.confidence for f in found] == [Confidence.MEDIUM, Confidence.HIGH]
    evidence = found[0].evidence
    assert found[0].cls is DetectionClass.DNS_EXFIL
    assert evidence["zone"] == "example.co.uk"
    assert evidence["names_in_ten_minutes"] == evidence["questions_in_a_minute"] == 12
    assert 40 <= evidence["new_octets_a_name"] <= 50
    assert evidence["longest_label"] == 48.0
    assert evidence["carrier_types"] == 0.0
    assert evidence["example"].endswith(".t")


def test_short_names_of_a_carrier_type():
    """Shorter names are a tunnel where their type is one whose answers carry anything."""
    names = [f"{hidden(n, 7)}.t.example.com" for n in range(30)]

    assert seen(names) == []
    assert signatures(seen(names, kind=NULL)) == ["behaviour/dns-tunnel"]
    assert signatures(seen(names, kind=65399)) == ["behaviour/dns-tunnel"]


def test_idle_tunnel():
    """A tunnel that only polls has short names, and asks for nothing but its own type."""
    names = [f"p{n:04x}.t.example.com" for n in range(60)]

    assert signatures(seen(names, kind=TXT)) == ["behaviour/dns-tunnel"]
    assert seen(names) == []


def test_workers_of_a_job():
    """Long names that differ in a number only carry nothing: 64 workers, asked for at once."""
    names = [
        f"llm-post-training-run-7f3a-worker-{n}.llm-post-training-run-7f3a.rl.svc.cluster.local"
        for n in range(64)
    ]

    assert seen(names, every_s=0.01) == []


def test_two_jobs_in_turns():
    """Two such series in turns are compared each with its own."""
    names = [
        f"{('first-training-job-of-the-day', 'evaluation-in-the-background')[n % 2]}-{n}.rl.example"
        for n in range(90)
    ]

    assert seen(names, every_s=0.01) == []


def test_browsing():
    """Hosts as the web has them, asked for again and again, stay within the budget."""
    hosts = ["www", "api", "cdn-a", "cdn-b", "static", "img1", "img2", "login", "accounts", "fonts"]
    names = [f"{host}.{site}.com" for site in ("example", "test", "sample") for host in hosts * 8]

    assert seen(names, every_s=0.3) == []


def test_search_list():
    """The names that a resolver's search list makes of one are no tunnel."""
    sites = ["hub.images.example", "files.mirror.example", "huggingface.example", "github.com"]
    suffixes = ["rl.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    names = [f"{site}.{suffix}" for site in sites * 5 for suffix in suffixes]

    assert seen(names, every_s=0.1) == []


def test_too_many_names():
    """More names below one zone than the policy permits is a finding, of low confidence."""
    names = [f"h{n}.example.com" for n in range(150)]
    found = seen(names)

    assert signatures(found) == ["behaviour/dns-names"]
    assert found[0].confidence is Confidence.LOW
    assert found[0].evidence["names_in_ten_minutes"] == 101
    assert found[0].evidence["limit"]["labels"] == 100
    assert seen(names, every_s=10) == []


def test_too_many_questions():
    """More questions a minute than the policy permits is a finding; the same at leisure is not."""
    names = ["www.example.com"] * 700

    assert signatures(seen(names, every_s=0.1)) == ["behaviour/dns-rate"]
    assert seen(names, every_s=0.25) == []
    limits = DnsLimits(questions_per_minute=5)
    assert signatures(seen(names[:6], every_s=1, limits=limits)) == ["behaviour/dns-rate"]
    assert seen(names[:5], every_s=1, limits=limits) == []


def test_told_again_after_ten_minutes():
    """What goes on is told of again every ten minutes."""
    found = seen([f"{hidden(n, 30)}.example.com" for n in range(1000)], every_s=2)

    tunnels = [f for f in found if f.signature == "behaviour/dns-tunnel"]
    assert [f.confidence for f in tunnels] == [Confidence.MEDIUM, *[Confidence.HIGH] * 4]


def test_zones_of_customers():
    """Below a suffix that strangers share each has a zone of its own."""
    names = [f"www.{hidden(n, 20)}.github.io" for n in range(60)]

    assert seen(names) == []


def test_reverse_lookups():
    """Names of a network's addresses are no tunnel."""
    names = [f"{n}.3.20.10.in-addr.arpa" for n in range(90)]

    assert seen(names, kind=12) == []


def test_memory_is_bounded():
    """Neither zones nor names grow without end, and what was forgotten is counted."""
    watch = DnsWatch(DnsLimits())
    for n in range(2 * MAX_ZONES):
        list(watch.see(START + n, asked_of(f"www.z{n}.example", A)))
    assert len(watch._zones) == MAX_ZONES
    assert watch.dropped == MAX_ZONES
    for n in range(5000):
        list(watch.see(START + n, asked_of(f"{n}.example.com", A)))
    zone = watch._zones["example.com"]

    assert len(zone.names) == 1024
    assert len(zone.times) == 301
    assert watch.dropped == MAX_ZONES + 1 + 5000 - 1024
    assert zone.new == sum(name.new for name in zone.names.values())


@pytest.mark.parametrize(
    ("given_message", "labels"),
    [
        (message(b"WWW", b"example", b"com"), (b"WWW", b"example", b"com")),
        (message(b"\xc6\x00\xff", b"x"), (b"\xc6\x00\xff", b"x")),
        (message(b"x" * 63, b"y" * 63, b"z"), (b"x" * 63, b"y" * 63, b"z")),
        (message(b"x", kind=NULL) + bytes(11), (b"x",)),
    ],
)
def test_read_asked(given_message, labels):
    """A question is read with whatever octets its name has, and whatever follows it."""
    asked = read_asked(given_message)

    assert asked is not None
    assert asked.labels == labels


@pytest.mark.parametrize(
    "given_message",
    [
        b"",
        message(b"x", flags=0x8180),
        message(b"x", count=0),
        message(b"x", count=2),
        message(),
        message(b"x")[:-1],
        message(b"x" * 64),
        message(b"x")[:14] + b"\xc0\x0c\x00\x01\x00\x01",
    ],
)
def test_read_asked_nothing(given_message):
    """Answers, broken messages and names with pointers hold no question."""
    assert read_asked(given_message) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_message(data, is_question):
    """No message is an error, to read or to judge."""
    data = message(b"x")[:12] + data if is_question else data
    asked = read_asked(data)

    if asked is not None:
        assert all(0 < len(label) <= 63 for label in asked.labels)
        assert list(DnsWatch(DnsLimits()).see(START, asked)) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=12), max_size=60))
def test_any_names(names):
    """Names of any octets are judged, and the running sums are what counting anew gives."""
    watch = DnsWatch(DnsLimits(labels=5))
    for number, labels in enumerate(names):
        list(watch.see(START + number * 30 * SECOND, Asked(tuple(labels), A)))

    for zone in watch._zones.values():
        assert zone.new == sum(name.new for name in zone.names.values())
        assert zone.longest == sum(name.longest for name in zone.names.values())
        assert zone.carriers == 0
