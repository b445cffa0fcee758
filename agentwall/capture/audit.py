# SPDX-License-Identifier: Apache-2.0
"""Conversations judged as live traffic is: signatures, decoders, lists of names, behaviour.

The automaton that the kernel runs goes over the heads of many conversations at once; decoders see
those where it matched, and those whose bytes look like what they read. Behaviour is looked for in
windows of :data:`WINDOW` conversations, of which by then only what it needs is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agentwall.capture.listed import Listed
from agentwall.capture.matching import Match, match_conversations
from agentwall.detect.automaton import Automaton
from agentwall.detect.behaviour import behaviours_of
from agentwall.detect.confirm import confirm, merge
from agentwall.detect.conversation import Conversation
from agentwall.detect.decode import decode
from agentwall.detect.scan import Scanner
from agentwall.detect.signature import Side, SignatureSet
from agentwall.detect.stratum_v2 import find_stratum_v2
from agentwall.flow.finding import Finding
from agentwall.net.endpoint import L4Protocol
from agentwall.policy.model import Detect

BATCH = 8192
"""Conversations whose heads are scanned at once: each time costs some milliseconds ..."""
BATCH_BYTES = 64 << 20
"""... or as many as have heads of so many bytes."""
WINDOW = 65_536
"""Conversations among which behaviour is looked for at once: 256 MiB at the very most, for no more
than 4096 messages of 16 bytes are kept of one ..."""
WINDOW_MESSAGES = 8 << 20
"""... and fewer where they have so many messages together."""
_EXCERPT = 192
_KEPT_HEAD = 64
"""Bytes of a head that behaviour looks at, to see what it is not."""
_DNS = 53
_DECODABLE = re.compile(rb"[{\[]\s*[\"{\[]|HTTP/1\.[01]|SSH-|\\u00")
_DECODABLE_BYTES = 8192
_TLS = re.compile(rb"\x16\x03[\x00-\x04]..[\x01\x02]", re.DOTALL)
_PREAMBLES = (b"\x04", b"\x05", b"PROXY")


@dataclass(frozen=True, slots=True)
class Audited:
    """Findings, and what they are about."""

    conversation: Conversation | None
    """None where they are about several: ``client`` in the evidence says whose. Of behaviour, with
    heads left out."""
    findings: tuple[Finding, ...]
    """The surest first; at least one."""


def may_say_more(streams: Sequence[tuple[Side, bytes]]) -> list[bool]:
    """Tell :func:`~agentwall.capture.reader.read_captures` of which streams more is worth keeping.

    Of TLS (RFC 8446 section 5.1) the hello is all that can be read; of anything else, an object or
    a WebSocket may begin anywhere.
    """
    return [_TLS.match(beginning) is None for _, beginning in streams]


class Audit:
    """One signature set, for any number of captures."""

    def __init__(
        self, signatures: SignatureSet, automaton: Automaton, limits: Detect | None = None
    ) -> None:
        """Prepare.

        Args:
            signatures: Those that *automaton* was compiled from.
            automaton: Its accepts are indices into them.
            limits: What behaviour is measured by; the defaults of a policy where none is given.
        """
        self._signatures = signatures.signatures
        self._scanner = Scanner(automaton)
        self._listed = Listed(signatures.indicators)
        self._limits = limits or Detect()

    def audit(self, conversations: Iterable[Conversation]) -> Iterator[Audited]:
        """Yield what is found in the conversations of one capture.

        What one conversation says comes as soon as it was read, what it does at the end of a
        window; so one conversation may come twice.
        """
        window: list[Conversation] = []
        messages = 0
        for batch in _batches(conversations):
            for conversation, findings in zip(batch, self.said(batch), strict=True):
                if findings:
                    yield Audited(conversation, tuple(findings))
                window.append(_slim(conversation))
                messages += len(conversation.messages)
            if len(window) >= WINDOW or messages >= WINDOW_MESSAGES:
                yield from self._behaviour(window)
                window, messages = [], 0
        yield from self._behaviour(window)

    def said(self, batch: Sequence[Conversation]) -> list[list[Finding]]:
        """Return for each conversation what is found in its bytes and names."""
        matches = match_conversations(self._scanner, batch)
        return [
            merge(self._findings(conversation, found))
            for conversation, found in zip(batch, matches, strict=True)
        ]

    def _findings(self, conversation: Conversation, matches: Sequence[Match]) -> Iterator[Finding]:
        seen: set[int] = set()
        for match in matches:
            signature = self._signatures[match.signature]
            if match.signature in seen or signature.hand_over:
                continue
            seen.add(match.signature)
            excerpt = match.data[max(0, match.end - _EXCERPT) : match.end]
            yield confirm(signature, excerpt, conversation)
        if matches or _is_decodable(conversation):
            yield from decode(conversation)
        elif conversation.messages and (found := find_stratum_v2(conversation)) is not None:
            yield found
        yield from self._listed.find(conversation)

    def _behaviour(self, window: list[Conversation]) -> Iterator[Audited]:
        for conversation, finding in behaviours_of(window, self._limits):
            yield Audited(conversation, (finding,))


def audit_conversation(
    conversation: Conversation, signatures: SignatureSet, automaton: Automaton
) -> list[Finding]:
    """Return all that is found in one conversation. For many, :class:`Audit` is faster."""
    found = Audit(signatures, automaton).audit([conversation])
    return merge(finding for audited in found for finding in audited.findings)


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    size = 0
    for conversation in conversations:
        batch.append(conversation)
        size += len(conversation.client_head) + len(conversation.server_head)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_decodable(conversation: Conversation) -> bool:
    if conversation.server.protocol != L4Protocol.TCP:
        return False
    heads = (conversation.client_head, conversation.server_head)
    return (
        heads[0].startswith(_PREAMBLES)
        or _DECODABLE.search(heads[0], 0, _DECODABLE_BYTES) is not None
        or _DECODABLE.search(heads[1], 0, _DECODABLE_BYTES) is not None
    )


def _slim(conversation: Conversation) -> Conversation:
    if conversation.server.port == _DNS:
        return conversation
    return replace(
        conversation,
        client_head=conversation.client_head[:_KEPT_HEAD],
        server_head=conversation.server_head[:_KEPT_HEAD],
        client_cuts=(),
        server_cuts=(),
        datagrams=(),
    )
