# SPDX-License-Identifier: Apache-2.0
"""Matches are confirmed, refined, contradicted or left alone by what decoders read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.dialogues import BENIGN, DIALOGUES, conversation, http

from agentwall.detect.confirm import confirm, merge
from agentwall.detect.decode import decode
from agentwall.detect.signature import Maturity, Side, Signature, Transport
from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity

SUBSCRIBE = Signature(
    id="mining/stratum-v1-subscribe",
    cls=DetectionClass.MINING,
    dialect="stratum-v1",
    transport=Transport.TCP,
    sides=(Side.CLIENT,),
    pattern="x",
    severity=Severity.HIGH,
    confidence=Confidence.MEDIUM,
    maturity=Maturity.STABLE,
    hand_over=False,
    description="",
    references=(),
    examples=(b"x",),
    counterexamples=(b"y",),
    where=SourceLocation("x.yaml", 1, 1),
)
SSH = replace(SUBSCRIBE, id="tunnel/ssh-client", cls=DetectionClass.TUNNEL, dialect="ssh")


def found(name: str, signature: Signature = SUBSCRIBE) -> Finding:
    """The finding of a match in a dialogue."""
    dialogue = DIALOGUES[name]
    return confirm(signature, dialogue.client, conversation(dialogue.client, dialogue.server))


def test_alone():
    """Without the conversation a finding is what its signature says, with the bytes redacted."""
    finding = confirm(SUBSCRIBE, b'{"pass":"hunter2","method":"mining.subscribe"', None)

    assert (finding.signature, finding.dialect) == (SUBSCRIBE.id, "stratum-v1")
    assert (finding.confidence, finding.stage) == (Confidence.MEDIUM, Stage.SIGNATURE)
    assert finding.evidence == {"excerpt": '{"pass":"***","method":"mining.subscribe"'}


def test_confirmed():
    """Decoders make it surer, richer and narrower; it stays the signature's finding."""
    finding = found("zcash")

    assert (finding.signature, finding.dialect) == (SUBSCRIBE.id, "zcash")
    assert (finding.confidence, finding.stage) == (Confidence.HIGH, Stage.SIGNATURE)
    assert finding.evidence["pool"] == "zec.pool.example:2142"


def test_another_family():
    """Mining that decoders read otherwise is mining: the signature's dialect stays."""
    finding = found("xmrig")

    assert (finding.dialect, finding.confidence) == ("stratum-v1", Confidence.HIGH)
    assert finding.evidence["shares"] == 1


def test_never_less_sure_by_agreement():
    """A decoder that is less sure than the signature does not lower it."""
    work = b'{"id":1,"method":"eth_getWork","params":[]}\n'
    signature = replace(SUBSCRIBE, dialect="eth-proxy", confidence=Confidence.HIGH)

    assert confirm(signature, work, conversation(work)).confidence is Confidence.HIGH


@pytest.mark.parametrize(
    "client",
    [
        BENIGN["a tool call that quotes stratum"],
        BENIGN["logs being shipped"],
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"text":"{\\"method\\":\\"mining.subscribe',
    ],
)
def test_contradicted(client):
    """What decoders read to the end and found quoted becomes low, and says why."""
    finding = confirm(SUBSCRIBE, client, conversation(client))

    assert finding.confidence is Confidence.LOW
    assert finding.severity is Severity.MEDIUM
    assert "own method" in str(finding.evidence["contradicted"])


def test_contradicted_by_http():
    """A document that is about mining is a document."""
    document = http(b"<pre>mining.subscribe</pre>", first="HTTP/1.1 200 OK")
    finding = confirm(SUBSCRIBE, document, conversation(b"GET / HTTP/1.1\r\n\r\n", document))

    assert finding.confidence is Confidence.LOW


@pytest.mark.parametrize(
    ("signature", "client"),
    [
        (SUBSCRIBE, b'{"id":1,"params":["x"],"meth'),
        (SUBSCRIBE, b"\x00\x01 not to be read"),
        (SUBSCRIBE, b""),
        (replace(SUBSCRIBE, dialect="duino-coin"), BENIGN["electrum"]),
        (replace(SUBSCRIBE, cls=DetectionClass.P2P), BENIGN["electrum"]),
        (SSH, BENIGN["electrum"]),
    ],
)
def test_decoders_cannot_tell(signature, client):
    """What they do not read, or know nothing of, stays as sure as the signature."""
    finding = confirm(signature, client, conversation(client))

    assert finding.confidence is Confidence.MEDIUM
    assert "contradicted" not in finding.evidence


def test_ssh():
    """A tunnel's finding gets the software of both sides."""
    talk = conversation(b"SSH-2.0-a\r\n", b"SSH-2.0-b\r\n")
    finding = confirm(SSH, b"SSH-2.0-a", talk)

    assert (finding.confidence, finding.evidence["client"]) == (Confidence.HIGH, "a")


def test_merge():
    """One finding a class and dialect, the surest first, with the evidence of all."""
    dialogue = DIALOGUES["zcash"]
    decoded = decode(conversation(dialogue.client, dialogue.server))
    quoted = replace(found("zcash"), confidence=Confidence.LOW, severity=Severity.CRITICAL)
    quoted = replace(quoted, evidence={"contradicted": "x", "extra": 1})
    other = confirm(SSH, b"SSH-2.0-a", None)
    merged = merge([quoted, other, *decoded, found("zcash")])

    assert [finding.dialect for finding in merged] == ["zcash", "ssh"]
    assert merged[0].stage is Stage.SIGNATURE
    assert merged[0].severity is Severity.CRITICAL
    assert merged[0].evidence["extra"] == 1
    assert "contradicted" not in merged[0].evidence
    assert merge(merged) == merged
    assert merge(reversed(merged)) == merged
    assert merge([]) == []
