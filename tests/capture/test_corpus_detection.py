# SPDX-License-Identifier: Apache-2.0
"""What is found in the corpus of captures, held against its labels (docs/detection.md)."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from rig.tree import ROOT

from agentwall.capture.audit import Audit, may_say_more
from agentwall.capture.reader import read_captures
from agentwall.detect.conversation import Conversation
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.host.signature_files import automaton_of, load_signature_files, shipped_signatures
from agentwall.net.endpoint import Endpoint, L4Protocol

CORPUS = ROOT.parent / "shared" / "corpus"
DIALECTS = {
    "stratum-v1": {"stratum-v1", "zcash"},
    "cryptonote": {"cryptonote", "coinhive"},
    "eth": {"eth-proxy", "eth-getwork"},
    "gbt/getwork": {"getblocktemplate", "getwork"},
    "bitcoin-p2p": {"bitcoin"},
    "monero-p2p": {"monero"},
}
"""What the families of the labels are called here."""
SAID = (Stage.SIGNATURE, Stage.DECODER)
UNREADABLE = ("tls-", "stratum-v2")
ALWAYS_FOUND = ("ssh", "socks", "openvpn", "wireguard", "dns-tunnel", "websocket-tunnel")
MOST_NOT_THERE = 2
MOST_ALERTS_IN_1000 = 5

pytestmark = pytest.mark.skipif(
    not CORPUS.exists(), reason="the corpus of captures is not beside the tree"
)


@dataclass(slots=True)
class Judged:
    """One capture."""

    conversations: list[Conversation] = field(default_factory=list)
    findings: list[tuple[Conversation | None, Finding]] = field(default_factory=list)

    def of(self, cls: DetectionClass, *stages: Stage) -> list[Finding]:
        """Findings of one class, at these stages, or at any."""
        return [f for _, f in self.findings if f.cls is cls and (not stages or f.stage in stages)]


@cache
def _shipped():
    signatures = load_signature_files([str(shipped_signatures())]).signatures
    return signatures, automaton_of(signatures)


@cache
def _judged(folder: str) -> dict[str, Judged]:
    audit = Audit(*_shipped())
    found: dict[str, Judged] = {}
    for result in read_captures([str(CORPUS / folder)], is_alive=may_say_more):
        judged = found[str(Path(result.path).relative_to(CORPUS / folder))] = Judged()

        def seen(conversations: Iterator[Conversation], judged: Judged) -> Iterator[Conversation]:
            for conversation in conversations:
                judged.conversations.append(conversation)
                yield conversation

        for audited in audit.audit(seen(result.conversations, judged)):
            judged.findings += [(audited.conversation, f) for f in audited.findings]
    return found


def _rows(name: str) -> list[dict[str, str]]:
    with (CORPUS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _captures(folder: str) -> Iterator[tuple[dict[str, str], Judged]]:
    judged = _judged(folder)
    for row in _rows("labels.csv"):
        if row["dir"] == folder:
            yield row, judged[row["file"]]


def _ends(*ends: tuple[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(ends)


def _end(endpoint: Endpoint) -> tuple[str, str]:
    return str(endpoint.address), str(endpoint.port)


def _flows() -> Iterator[tuple[dict[str, str], Conversation, list[Finding]]]:
    """Each labelled flow of mining and its conversation: the one that began next to it."""
    by_ends: dict[object, list[Conversation]] = defaultdict(list)
    said: dict[object, list[Finding]] = defaultdict(list)
    for name, judged in _judged("positive").items():
        for one in judged.conversations:
            by_ends[name, _ends(_end(one.client), _end(one.server))].append(one)
        for conversation, finding in judged.findings:
            if conversation is not None and finding.stage in SAID:
                said[name, conversation.client, conversation.begin_ns].append(finding)
    for row in _rows("flows.csv"):
        if row["family"]:
            key = row["file"], _ends((row["src"], row["sport"]), (row["dst"], row["dport"]))
            begin_ns = float(row["t0"]) * 1e9
            conversation = min(by_ends[key], key=lambda one: abs(one.begin_ns - begin_ns))
            found = said[row["file"], conversation.client, conversation.begin_ns]
            yield row, conversation, found


def test_every_flow_of_mining():
    """Each is found by a signature, for sure, and by its name."""
    missed = [
        (row, found)
        for row, _, found in _flows()
        if not any(
            f.dialect in DIALECTS[row["family"]]
            and f.confidence is Confidence.HIGH
            and f.stage is Stage.SIGNATURE
            for f in found
        )
    ]

    assert missed == []


def test_kernel_alone():
    """Signatures that block suffice, from the first byte, before one message has left whole."""
    signatures, automaton = _shipped()
    late = []
    for row, conversation, _ in _flows():
        ends = []
        for side, head in (
            (Side.CLIENT, conversation.client_head),
            (Side.SERVER, conversation.server_head),
        ):
            ends += [
                (hit.end, side)
                for hit in scan(automaton, Transport.TCP, side, head)
                if any(signatures.signatures[i].blocks for i in automaton.accepts[hit.accept])
            ]
        first = min((end for end, side in ends if side is Side.CLIENT), default=None)
        if not ends or (first is not None and first > _message_end(conversation.client_head)):
            late.append((row["file"], row["family"], first))

    assert late == []


def _message_end(head: bytes) -> int:
    """Where the first message ends, or that of an HTTP request's head."""
    end = head.find(b"\r\n\r\n" if head.startswith((b"POST ", b"GET ")) else b"\n")
    return end + 1 if end >= 0 else len(head)


def test_captures_of_mining():
    """Each has a sure finding of what its label says."""
    missed = []
    for row, judged in _captures("positive"):
        cls = DetectionClass.P2P if row["label"] == "mining-p2p" else DetectionClass.MINING
        if not any(f.confidence is Confidence.HIGH for f in judged.of(cls, *SAID)):
            missed.append(row["file"])

    assert missed == []


def test_benign_captures_do_not_mine():
    """No signature, decoder, name or rhythm says mining of a benign capture."""
    flagged = [
        (row["file"], f.signature)
        for row, judged in _captures("benign")
        for f in judged.of(DetectionClass.MINING)
    ]

    assert flagged == []


def test_tunnels_in_benign_captures():
    """What is called a tunnel there is one, by the labels."""
    not_there = [
        (row["file"], f.signature)
        for row, judged in _captures("benign")
        for f in judged.of(DetectionClass.TUNNEL)
        if not row["contains_tunnel"]
    ]

    assert len(not_there) <= MOST_NOT_THERE, not_there


def test_mere_alerts_in_benign_captures():
    """What only alerts is rare: in captures out of a thousand."""
    captures = list(_captures("benign"))
    alerted = sum(
        any(
            f.confidence is Confidence.LOW or f.stage in (Stage.BEHAVIOUR, Stage.INDICATOR)
            for _, f in judged.findings
        )
        for _, judged in captures
    )

    assert alerted * 1000 <= MOST_ALERTS_IN_1000 * len(captures)


def test_synthetic_captures():
    """Clear text is found for sure, what cannot be read by its shape, and negatives are let be."""
    judged = _judged("synthetic")
    wrong = []
    for row in _rows("synthetic/labels.csv"):
        of_one = judged[row["file"]]
        found = of_one.of(DetectionClass.MINING)
        if row["label"] == "negative":
            right = not of_one.findings
        elif row["subtype"].startswith(UNREADABLE):
            right = bool(found)
        else:
            said = of_one.of(DetectionClass.MINING, *SAID)
            right = any(f.confidence is Confidence.HIGH for f in said)
        if not right:
            wrong.append((row["file"], [(f.signature, f.confidence) for f in found]))

    assert wrong == []


def test_captures_of_tunnels():
    """All of the kinds that have a beginning of their own are found."""
    missed = Counter()
    for row, judged in _captures("tunnels"):
        found = judged.of(DetectionClass.TUNNEL) or judged.of(DetectionClass.DNS_EXFIL)
        tcp_or_udp = any(
            one.server.protocol in (L4Protocol.TCP, L4Protocol.UDP) for one in judged.conversations
        )
        if row["subtype"] in ALWAYS_FOUND and tcp_or_udp and not found:
            missed[row["file"]] += 1

    assert missed == Counter()
