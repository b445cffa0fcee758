# SPDX-License-Identifier: Apache-2.0
"""What a signature's match is worth, once the decoders have looked at the conversation.

A match is evidence. The rules, in order:

1. Without the conversation, the finding is as sure as the signature.
2. Decoders find mining too, or the same tunnel: the finding is as sure as the surer of the two, has
   the evidence of both, and the decoders' dialect where that is of the signature's family.
3. The signature is about mining messages that decoders can read, they read every message that was
   exchanged, and none is one: what matched was quoted. The finding becomes ``low``, and says why.
   A message that is cut off counts as read if its method is known: a flow that was stopped at a
   match always ends in one.
4. Otherwise the decoders cannot tell, and the finding stays as sure as the signature.

The stage stays SIGNATURE: the automaton is what stopped the flow, or would have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentwall.detect.conversation import Conversation
from agentwall.detect.decode import findings_of
from agentwall.detect.reading import Reading, read_conversation
from agentwall.detect.redact import redact_excerpt
from agentwall.detect.signature import Signature
from agentwall.detect.stratum_verbs import FAMILIES
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity

_SUREST = (Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW)
_QUOTED = "no message of the conversation has it as its own method"


def confirm(signature: Signature, excerpt: bytes, conversation: Conversation | None) -> Finding:
    """Make the finding of a match.

    Args:
        signature: What matched.
        excerpt: Bytes of the flow that end at the match.
        conversation: The flow, where it is at hand.
    """
    finding = Finding(
        cls=signature.cls,
        signature=signature.id,
        dialect=signature.dialect,
        severity=signature.severity,
        confidence=signature.confidence,
        stage=Stage.SIGNATURE,
        evidence={"excerpt": redact_excerpt(excerpt)},
    )
    if conversation is None:
        return finding
    reading = read_conversation(conversation)
    for decoded in findings_of(reading, conversation):
        if decoded.cls is signature.cls and (
            decoded.cls is DetectionClass.MINING or decoded.dialect == signature.dialect
        ):
            return _joined(finding, decoded)
    if _is_contradicted(signature, reading):
        evidence = {**finding.evidence, "contradicted": _QUOTED}
        severity = min(finding.severity, Severity.MEDIUM)
        return replace(finding, confidence=Confidence.LOW, severity=severity, evidence=evidence)
    return finding


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Put together findings of one conversation: one for each class and dialect, the surest first.

    The surest keeps its signature and stage; it takes the evidence that it lacks from the others,
    and the highest severity. A contradiction does not survive a surer finding of its kind.
    """
    merged: dict[tuple[DetectionClass, str], Finding] = {}
    for finding in sorted(findings, key=_order):
        key = (finding.cls, finding.dialect)
        best = merged.setdefault(key, finding)
        if best is not finding:
            evidence = {**finding.evidence, **best.evidence}
            if "contradicted" not in best.evidence:
                evidence.pop("contradicted", None)
            severity = max(best.severity, finding.severity)
            merged[key] = replace(best, evidence=evidence, severity=severity)
    return sorted(merged.values(), key=_order)


def _order(finding: Finding) -> tuple[int, int, int, str, str]:
    return (
        _SUREST.index(finding.confidence),
        -finding.severity,
        list(Stage).index(finding.stage),
        finding.cls.value,
        finding.signature,
    )


# The decoders' excerpt is the whole message, and redacted by its structure.
def _joined(finding: Finding, decoded: Finding) -> Finding:
    surer = min(finding.confidence, decoded.confidence, key=_SUREST.index)
    related = FAMILIES.get(finding.dialect) == FAMILIES.get(decoded.dialect)
    return replace(
        finding,
        dialect=decoded.dialect if related else finding.dialect,
        confidence=surer,
        severity=max(finding.severity, decoded.severity),
        evidence={**finding.evidence, **decoded.evidence},
    )


def _is_contradicted(signature: Signature, reading: Reading) -> bool:
    if signature.cls is not DetectionClass.MINING or signature.dialect not in FAMILIES:
        return False
    if not reading.messages:
        return any(response.body for response in reading.responses)
    return all(
        spoken.is_whole or isinstance(spoken.value.get("method"), str)
        for spoken in reading.messages
    )
