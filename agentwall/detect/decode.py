# SPDX-License-Identifier: Apache-2.0
"""The decoders on a whole conversation: confirm, explain, reach where the automaton does not.

A :class:`Conversation` in, findings out. Total and linear: any bytes are decoded, none raise.
:mod:`agentwall.detect.confirm` puts what they say together with what signatures say.
"""

from __future__ import annotations

from agentwall.detect.conversation import Conversation
from agentwall.detect.reading import Reading, read_conversation
from agentwall.detect.redact import printable
from agentwall.detect.ssh import read_identification
from agentwall.detect.stratum import score
from agentwall.detect.stratum_v2 import find_stratum_v2
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity


def decode(conversation: Conversation, *, reveal: bool = False) -> list[Finding]:
    """Find mining and SSH in *conversation*, whatever wraps them.

    Args:
        conversation: As much as was seen. More of it never gives less: a finding stays, is as sure
            or surer, and may come to name a narrower dialect.
        reveal: Show wallets and workers whole. Passwords and keys are never shown.

    Returns:
        At most one finding a class, the surest first.
    """
    return findings_of(read_conversation(conversation), conversation, reveal=reveal)


def findings_of(
    reading: Reading, conversation: Conversation, *, reveal: bool = False
) -> list[Finding]:
    """As :func:`decode`, for a conversation that was read already."""
    mining = score(reading.messages, reading.heads, reading.known, reveal=reveal)
    found = (mining or find_stratum_v2(conversation), _find_ssh(reading))
    return [finding for finding in found if finding is not None]


# Either side may say it first, and a server may say text before it: text alone that has such a line
# may be a document, so then the other side has to speak SSH too.
def _find_ssh(reading: Reading) -> Finding | None:
    client, server = read_identification(reading.client), read_identification(reading.server)
    said = [side for side in (client, server) if side is not None]
    if not any(side.is_first for side in said):
        return None
    evidence: dict[str, object] = {}
    if client:
        evidence["client"] = printable(client.software)
    if server:
        evidence["server"] = printable(server.software)
    if reading.known.hops:
        evidence["via"] = list(reading.known.hops)
    if reading.hops:
        evidence["target"] = printable(reading.hops[-1].target)
    return Finding(
        cls=DetectionClass.TUNNEL,
        signature="tunnel/ssh",
        dialect="ssh",
        severity=Severity.HIGH,
        confidence=Confidence.HIGH,
        stage=Stage.DECODER,
        evidence=evidence,
    )
