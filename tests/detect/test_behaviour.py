# SPDX-License-Identifier: Apache-2.0
"""Behaviour over the conversations of a capture."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from rig.series import BEGIN_NS, SECOND, by_clock, conversation, miner, reverse_shell

from agentwall.detect.behaviour import behaviours_of
from agentwall.detect.conversation import Conversation, Datagram, Message
from agentwall.flow.finding import DetectionClass
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.model import Detect, Response, ScanLimits

DETECT = Detect()
ASKING = {"port": 53, "protocol": L4Protocol.UDP, "head": b""}


def judged(conversations, detect=DETECT):
    """Return the ids of what is found."""
    return [finding.signature for _, finding in behaviours_of(conversations, detect)]


def tried(number, server, port=22, *, packets=1, at_s=None, up=0, down=0, client="192.0.2.2"):
    """Return a conversation in which *up* and *down* bytes were said, which may be none."""
    begin_ns = BEGIN_NS + int((number if at_s is None else at_s) * SECOND)
    made = conversation([], server=server, port=port, client=client, begin_ns=begin_ns, head=b"")
    return replace(made, packets=packets, client_bytes=up, server_bytes=down)


def asked(names, *, client="192.0.2.2", kind=16, every_s=0.5):
    """Return the conversation of somebody who asks a DNS server for *names*."""
    datagrams, messages = [], []
    for number, name in enumerate(names):
        labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
        question = labels + b"\0" + kind.to_bytes(2, "big") + b"\x00\x01"
        message = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + question
        answer = message[:2] + b"\x81\x80" + message[4:]
        for data, up in ((message, True), (answer, False)):
            datagrams.append(Datagram(data, len(data), up))
            time_ns = BEGIN_NS + int(number * every_s * SECOND)
            messages.append(Message(time_ns, len(data), up))
    made = conversation([], client=client, **ASKING)
    return replace(made, datagrams=tuple(datagrams), messages=tuple(messages))


def hidden(count, seed=1):
    """Return names that carry data."""
    chance = random.Random(seed)
    return [f"{chance.randbytes(24).hex()}.t.example.com" for _ in range(count)]


def test_what_one_conversation_does():
    """Mining and a reverse tunnel are found each in its own conversation, by time."""
    later = conversation(miner(1, 900), begin_ns=BEGIN_NS + 5 * SECOND)
    tunnel = conversation(reverse_shell(1, 1800), server="203.0.113.11")
    found = behaviours_of([later, tunnel], DETECT)

    assert [finding.signature for _, finding in found] == [
        "behaviour/reverse-tunnel",
        "behaviour/mining-rhythm",
    ]
    assert [conversation_found for conversation_found, _ in found] == [tunnel, later]


def test_beacon_within():
    """Small messages by the clock are a beacon."""
    made = conversation(by_clock(1800, 60, [(0.0, 117, True), (0.1, 64, False)]))

    assert judged([made]) == ["behaviour/beacon-messages"]


def test_beacon_over_conversations():
    """Short conversations by the clock are a beacon, told of with the one that completes it."""
    made = [tried(n, "203.0.113.9", 8443, at_s=60 * n, up=90, down=40) for n in range(12)]
    found = behaviours_of(made, DETECT)

    assert [finding.signature for _, finding in found] == ["behaviour/beacon-calls"]
    assert found[0][0] == made[9]


def test_sweep():
    """Unanswered attempts at many addresses are a scan of the client's, of no one conversation."""
    found = behaviours_of([tried(n, f"10.0.0.{n}") for n in range(20)], DETECT)

    assert [(about, finding.signature) for about, finding in found] == [
        (None, "behaviour/scan-horizontal"),
        (None, "behaviour/scan-horizontal"),
    ]
    assert found[0][1].evidence["client"] == "192.0.2.2"
    assert found[0][1].evidence["unanswered"] == 12
    assert found[1][1].evidence["addresses"] == 20


def test_ports():
    """Ports of one address in which nothing was said are a scan, in whatever order they come."""
    made = [tried(n / 100, "203.0.113.9", 1000 + n, packets=2) for n in range(300)]
    random.Random(1).shuffle(made)

    assert set(judged(made)) == {"behaviour/scan-vertical"}


@pytest.mark.parametrize(
    "changes", [{"up": 300, "down": 900}, {"up": 300}, {"down": 25}], ids=["both", "sent", "banner"]
)
def test_conversations_that_said_something(changes):
    """Where something was said the client knew where to go."""
    assert judged([tried(n / 10, f"10.0.0.{n}", 8000, **changes) for n in range(64)]) == []


def test_each_client_for_itself():
    """What several clients do is not added up."""
    made = [tried(n, f"10.0.0.{n}", client=f"192.0.2.{n % 3}") for n in range(30)]

    assert judged(made) == []


def test_udp_without_answers():
    """Many datagrams that nobody answers are logs or metrics, and single ones a scan."""
    many, single = [], []
    for n in range(20):
        for made, packets in ((many, 40), (single, 1)):
            one = tried(n / 10, f"10.0.0.{n}", 8125, packets=packets, up=100 * packets)
            server = Endpoint(ip_address(f"10.0.0.{n}"), 8125, L4Protocol.UDP)
            made.append(replace(one, server=server))

    assert judged(many) == []
    assert "behaviour/scan-horizontal" in judged(single)


def test_replies_to_what_many_were_asked():
    """Datagrams from a service to high ports answer a search of the other's, and are no scan."""
    made = []
    for n in range(40):
        one = tried(n / 10, "10.0.0.9", 50000 + n, up=600)
        made.append(
            replace(
                one,
                client=Endpoint(ip_address("10.0.0.7"), 3702, L4Protocol.UDP),
                server=Endpoint(ip_address("10.0.0.9"), 50000 + n, L4Protocol.UDP),
            )
        )

    assert judged(made) == []


def test_dns_tunnel():
    """Data in the names of questions is found, with the conversation that asks."""
    made = asked(hidden(30))
    found = behaviours_of([made], DETECT)

    assert [finding.signature for _, finding in found] == ["behaviour/dns-tunnel"] * 2
    assert found[0][0] == made


def test_dns_tunnel_over_many_ports():
    """A client that asks each question from another port is one client."""
    made = [
        replace(asked([name]), begin_ns=BEGIN_NS + n * SECOND, end_ns=BEGIN_NS + n * SECOND)
        for n, name in enumerate(hidden(30))
    ]

    assert judged(made) == ["behaviour/dns-tunnel"] * 2
    apart = [
        replace(one, client=Endpoint(ip_address(f"192.0.2.{n}"), 5, L4Protocol.UDP))
        for n, one in enumerate(made)
    ]
    assert judged(apart) == []


def test_dns_over_tcp():
    """Questions over TCP are read as well."""
    stream = b"".join(
        len(d.data).to_bytes(2, "big") + d.data
        for d in asked(hidden(30)).datagrams
        if d.from_client
    )
    made = conversation([], port=53, head=stream)

    assert judged([made]) == ["behaviour/dns-tunnel"] * 2
    assert judged([replace(made, client_head=stream[:40] + b"\xff\xff\xff")]) == []


def test_classes_that_are_off():
    """What the policy turns off is not told of; its limits hold."""
    made = [tried(n, f"10.0.0.{n}") for n in range(20)] + [asked(hidden(30))]
    off = Detect(responses={**DETECT.responses, DetectionClass.SCAN: Response.OFF})
    wide = Detect(scan=ScanLimits(targets=30))

    assert set(judged(made, off)) == {"behaviour/dns-tunnel"}
    assert set(judged(made, wide)) == {"behaviour/dns-tunnel"}


def test_nothing():
    """No conversations, and those without messages, are no findings."""
    assert behaviours_of([], DETECT) == []
    icmp: list[Conversation] = [
        conversation([], protocol=L4Protocol.ICMP, port=0, server=f"10.0.0.{n}") for n in range(3)
    ]
    assert behaviours_of(icmp, DETECT) == []
