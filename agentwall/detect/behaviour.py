# SPDX-License-Identifier: Apache-2.0
"""Behaviour in captures: conversations in, findings out. Pure.

The rules themselves are in :mod:`~agentwall.detect.rhythm`, :mod:`~agentwall.detect.reverse`,
:mod:`~agentwall.detect.beacon`, :mod:`~agentwall.detect.scanning` and
:mod:`~agentwall.detect.dns_budget`. Live, :mod:`agentwall.engine.watch` feeds the last three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentwall.detect.beacon import BeaconWatch, beacon_within
from agentwall.detect.conversation import Conversation
from agentwall.detect.dns_budget import Asked, DnsWatch, read_asked
from agentwall.detect.pauses import NS_PER_S
from agentwall.detect.reverse import reverse_tunnel
from agentwall.detect.rhythm import mining_rhythm
from agentwall.detect.scanning import Outcome, ScanWatch, Trial
from agentwall.flow.finding import DetectionClass, Finding
from agentwall.net.endpoint import IPAddress, L4Protocol
from agentwall.policy.model import Detect, Response

Found = list[tuple[Conversation | None, Finding]]

_DNS = 53
_EPHEMERAL = 32768
"""Ports from here on are what clients get by default (Linux, ip_local_port_range)."""
_MAX_CLIENTS = 4096
"""Addresses that are watched in one capture; what further ones do together is not looked for."""


def behaviours_of(conversations: Iterable[Conversation], limits: Detect) -> Found:
    """Return what *conversations* do, whatever they say.

    Args:
        conversations: Of one capture, in any order; they are read once.
        limits: Thresholds, and which classes are looked for at all.

    Returns:
        Findings with the conversation they are about; None where they are about several, and then
        ``client`` in the evidence says whose. In order of the conversations' beginnings.
    """
    wanted = {cls for cls in DetectionClass if limits.responses.get(cls) is not Response.OFF}
    found: Found = []
    clients: dict[IPAddress, _Client] = {}
    for conversation in sorted(conversations, key=lambda one: one.begin_ns):
        found += [(conversation, finding) for finding in _alone(conversation)]
        address = conversation.client.address
        client = clients.get(address)
        if client is None and len(clients) < _MAX_CLIENTS:
            client = clients[address] = _Client(address, limits)
        if client is not None:
            found += client.see(conversation)
    for client in clients.values():
        found += client.end()
    return [(conversation, finding) for conversation, finding in found if finding.cls in wanted]


def _alone(conversation: Conversation) -> Iterator[Finding]:
    mining = mining_rhythm(conversation)
    reverse = reverse_tunnel(conversation)
    for finding in (mining, reverse):
        if finding is not None:
            yield finding
    if mining is None and reverse is None:
        beacon = beacon_within(conversation)
        if beacon is not None:
            yield beacon


class _Client:
    """What one address does over its conversations."""

    def __init__(self, address: IPAddress, limits: Detect) -> None:
        self._address = address
        self._scan = ScanWatch(limits.scan)
        self._beacon = BeaconWatch()
        self._dns = DnsWatch(limits.dns)

    def see(self, conversation: Conversation) -> Found:
        """Return what *conversation*, the next by its beginning, completes."""
        found: Found = []
        trial = _trial(conversation)
        if trial is not None:
            found += [(None, self._of_client(finding)) for finding in self._scan.see(trial)]
        size = conversation.client_bytes + conversation.server_bytes
        if not conversation.is_midstream:
            calls = self._beacon.see(
                conversation.begin_ns, conversation.server, size, conversation.name
            )
            found += [(conversation, finding) for finding in calls]
        for time_ns, asked in _questions(conversation):
            found += [(conversation, finding) for finding in self._dns.see(time_ns, asked)]
        return found

    def end(self) -> Found:
        """Return what is left to say."""
        return [(None, self._of_client(finding)) for finding in self._scan.end()]

    def _of_client(self, finding: Finding) -> Finding:
        return Finding(
            cls=finding.cls,
            signature=finding.signature,
            dialect=finding.dialect,
            severity=finding.severity,
            confidence=finding.confidence,
            stage=finding.stage,
            evidence={"client": str(self._address), **finding.evidence},
        )


def _trial(conversation: Conversation) -> Trial | None:
    """Return *conversation* as an attempt to reach somebody.

    Nobody answered where the server said nothing: a capture seldom shows why. Of UDP that is usual
    (logs, metrics), and so it counts only where the client gave up after a datagram or two.
    """
    server = conversation.server
    if conversation.is_midstream or server.protocol not in (L4Protocol.TCP, L4Protocol.UDP):
        return None
    if server.protocol == L4Protocol.UDP and conversation.client.port < _EPHEMERAL <= server.port:
        return None  # what was asked of many at once (SSDP, WS-Discovery) is answered like this
    is_short = conversation.packets <= 2 or server.protocol == L4Protocol.TCP
    is_missed = not conversation.server_bytes and is_short
    if server.protocol == L4Protocol.TCP and conversation.client_bytes:
        is_missed = False
    outcome = Outcome.UNANSWERED if is_missed else Outcome.PERMITTED
    return Trial(conversation.begin_ns, server, outcome, conversation.name)


def _questions(conversation: Conversation) -> Iterator[tuple[int, Asked]]:
    """Yield the DNS questions of *conversation* and when they were asked (UTC, ns)."""
    if conversation.server.port != _DNS:
        return
    if conversation.server.protocol == L4Protocol.TCP:
        for message in _prefixed(conversation.client_head):
            asked = read_asked(message)
            if asked is not None:
                yield conversation.begin_ns, asked
        return
    # Datagrams do not say when they came. Messages do, and leave only empty datagrams out.
    times = iter(conversation.messages)
    last_ns = conversation.begin_ns
    for datagram in conversation.datagrams:
        if datagram.size:
            message_seen = next(times, None)
            last_ns = message_seen.time_ns if message_seen else last_ns + NS_PER_S // 1000
        asked = read_asked(datagram.data) if datagram.from_client else None
        if asked is not None:
            yield last_ns, asked


def _prefixed(stream: bytes) -> Iterator[bytes]:
    """Yield the messages of a DNS *stream* (RFC 1035 section 4.2.2), as far as they came."""
    at = 0
    while at + 2 < len(stream):
        size = int.from_bytes(stream[at : at + 2], "big")
        yield stream[at + 2 : at + 2 + size]
        at += 2 + size
