# SPDX-License-Identifier: Apache-2.0
"""Names of a conversation that are on a list of indicators, by suffix. Nothing is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentwall.capture.naming import name_of
from agentwall.detect.conversation import Conversation
from agentwall.detect.dns import read_question
from agentwall.detect.indicators import IndicatorIndex
from agentwall.detect.preamble import strip_preambles
from agentwall.detect.signature import Indicators
from agentwall.flow.finding import Finding
from agentwall.net.endpoint import L4Protocol

_DNS = 53
_PREAMBLES = (b"\x04", b"\x05", b"C", b"P")
"""What a proxy is asked with begins so: SOCKS, CONNECT, PROXY."""
_MAX_QUESTIONS = 256
"""Questions of one conversation that are looked at."""


class Listed:
    """All lists in force, by name."""

    def __init__(self, indicators: Iterable[Indicators]) -> None:
        self._index = IndicatorIndex(indicators)

    def find(self, conversation: Conversation) -> list[Finding]:
        """Return one finding for each list that a name of *conversation* is on."""
        found: dict[str, Finding] = {}
        if not self._index:
            return []
        for name, how in _names(conversation):
            for finding in self._index.find(name, how):
                found.setdefault(finding.signature, finding)
        return list(found.values())


def _names(conversation: Conversation) -> Iterator[tuple[str, str]]:
    # Each with what was done with it.
    head = conversation.client_head
    if conversation.server.port == _DNS:
        for name in _asked(conversation):
            yield name, "asked"
        return
    if conversation.name is not None:
        yield conversation.name, "said"
    if head[:1] in _PREAMBLES:
        inner = strip_preambles(head, conversation.server_head)
        for hop in inner.hops:
            yield hop.target.rpartition(":")[0].lower().rstrip("."), "through"
        said = name_of(inner.client) if inner.hops and inner.client else None
        if said is not None:
            yield said, "said"


def _asked(conversation: Conversation) -> Iterator[str]:
    if conversation.server.protocol == L4Protocol.TCP:
        messages = _prefixed(conversation.client_head)
    else:
        messages = (part.data for part in conversation.datagrams if part.from_client)
    for _, message in zip(range(_MAX_QUESTIONS), messages, strict=False):
        question = read_question(message)
        if question is not None:
            yield question.name


def _prefixed(stream: bytes) -> Iterator[bytes]:
    # RFC 1035 section 4.2.2.
    at = 0
    while at + 2 < len(stream):
        size = int.from_bytes(stream[at : at + 2], "big")
        yield stream[at + 2 : at + 2 + size]
        at += 2 + size
