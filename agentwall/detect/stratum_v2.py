# SPDX-License-Identifier: Apache-2.0
"""Stratum V2 by the sizes and the order of its handshake: suspicious, never certain.

Noise NX over secp256k1 with EllSwift keys (sv2-spec, ``04-Protocol-Security.md``): the initiator
sends a key of 64 random bytes and waits; the responder answers with 234 (key, encrypted static key,
signed certificate); then frames follow, whose encrypted header has 22 bytes. Nothing in it is
constant, so all of it has to fit, and even then it is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.detect.conversation import Conversation, Message
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity

_INITIATOR, _RESPONDER = 64, 234
_LEAST_FRAME = 38
"""A header of 22 and an authenticated payload of 16 and more."""
_LEAST_DISTINCT = {_INITIATOR: 44, _RESPONDER: 128}
"""Different bytes among so many: random ones have 57 and 154 on average, with a deviation of 2.5
and 5."""
_PORTS = {34254, 34255, 34265, 3336}
"""Of the reference implementation and of pools: named in the evidence, not asked for."""


def find_stratum_v2(conversation: Conversation) -> Finding | None:
    """Say whether a flow, seen from its beginning with its messages, goes like Stratum V2."""
    if conversation.is_midstream:
        return None
    # First what is cheapest to tell: most flows are text, or have no such beginning at all.
    client = conversation.client_head[:_INITIATOR]
    server = conversation.server_head[:_RESPONDER]
    if not (_is_random(client, _INITIATOR) and _is_random(server, _RESPONDER)):
        return None
    bursts = _bursts(conversation.messages)
    if [size for size, _ in bursts[:2]] != [_INITIATOR, _RESPONDER] or len(bursts) < 3:
        return None
    if not bursts[0][1] or bursts[2][0] < _LEAST_FRAME:
        return None
    return Finding(
        cls=DetectionClass.MINING,
        signature="mining/stratum-v2",
        dialect="stratum-v2",
        severity=Severity.MEDIUM,
        confidence=Confidence.LOW,
        stage=Stage.DECODER,
        evidence={
            "sizes": [size for size, _ in bursts[:3]],
            "usual_port": conversation.server.port in _PORTS,
        },
    )


# How much each side said before the other answered, at most three times.
def _bursts(messages: Sequence[Message]) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    for message in messages:
        if found and found[-1][1] is message.from_client:
            found[-1] = (found[-1][0] + message.size, message.from_client)
        elif len(found) == 3:
            break
        else:
            found.append((message.size, message.from_client))
    return found


def _is_random(data: bytes, size: int) -> bool:
    return len(data) == size and len(set(data)) >= _LEAST_DISTINCT[size]
