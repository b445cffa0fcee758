# SPDX-License-Identifier: Apache-2.0
"""The automaton over the bytes of many conversations at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentwall.detect.automaton import DEAD
from agentwall.detect.conversation import Conversation
from agentwall.detect.scan import Scanner
from agentwall.detect.signature import Side, Transport
from agentwall.net.endpoint import L4Protocol

TRANSPORTS: Mapping[int, Transport] = {
    L4Protocol.TCP: Transport.TCP,
    L4Protocol.UDP: Transport.UDP,
    L4Protocol.ICMP: Transport.ICMP,
    L4Protocol.ICMPV6: Transport.ICMP,
}
"""What signatures of which transport are looked for in, by IP protocol."""
_MIDSTREAM_CUTS = 8
"""Packets of a stream seen from the middle that are looked at on their own ..."""
_MIDSTREAM_BYTES = 4096
"""... with so many bytes of what follows."""
_WHOLE = (False, True)
"""Whether the bytes are all of a datagram."""


@dataclass(frozen=True, slots=True)
class Match:
    """One signature, where it was first found in a stream or datagram."""

    signature: int
    """Index into ``SignatureSet.signatures``."""
    data: bytes
    """What it was found in."""
    end: int
    """How many of its bytes had been read then."""


def match_conversations(
    scanner: Scanner, conversations: Sequence[Conversation]
) -> list[list[Match]]:
    """Return for each conversation what matches in its heads and datagrams.

    TCP seen from the middle has no known first byte: there each of the first packets counts as one,
    for a peer that was silent until the capture began says its first words in some packet.
    """
    accepts = scanner.automaton.accepts
    found: list[list[Match]] = [[] for _ in conversations]
    for transport, said in _said(conversations).items():
        for (side, whole), (owners, datas) in zip(_kinds(), said, strict=True):
            if not datas or scanner.automaton.starts[transport, side] == DEAD:
                continue
            hits = scanner.scan_many(transport, side, datas, whole=whole)
            for owner, data, of_data in zip(owners, datas, hits, strict=True):
                for hit in of_data:
                    found[owner] += [Match(each, data, hit.end) for each in accepts[hit.accept]]
    return found


_Said = tuple[list[int], list[bytes]]
"""Indices of conversations, and what each said."""


def _kinds() -> list[tuple[Side, bool]]:
    return [(side, whole) for side in (Side.CLIENT, Side.SERVER) for whole in _WHOLE]


def _said(conversations: Sequence[Conversation]) -> dict[Transport, list[_Said]]:
    """Return by transport what is scanned together, one entry for each of :func:`_kinds`."""
    found: dict[Transport, list[_Said]] = {each: [([], []) for _ in _kinds()] for each in Transport}
    of_protocol = {number: found[transport] for number, transport in TRANSPORTS.items()}
    for number, conversation in enumerate(conversations):
        said = of_protocol.get(conversation.server.protocol)
        if said is None:
            continue
        if conversation.server.protocol == L4Protocol.TCP:
            _add_heads(said, number, conversation)
        for datagram in conversation.datagrams:
            if datagram.data:
                is_whole = len(datagram.data) == datagram.size
                owners, datas = said[2 * (not datagram.from_client) + is_whole]
                owners.append(number)
                datas.append(datagram.data)
    return found


def _add_heads(said: list[_Said], number: int, conversation: Conversation) -> None:
    for (owners, datas), head, cuts in (
        (said[0], conversation.client_head, conversation.client_cuts),
        (said[2], conversation.server_head, conversation.server_cuts),
    ):
        if not head:
            continue
        owners.append(number)
        datas.append(head)
        for cut in cuts[1:_MIDSTREAM_CUTS] if conversation.is_midstream else ():
            piece = head[cut : cut + _MIDSTREAM_BYTES]
            if piece:
                owners.append(number)
                datas.append(piece)
