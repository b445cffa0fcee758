# SPDX-License-Identifier: Apache-2.0
"""Beacons: small, and by the clock. Pure.

Health checks, metrics and keepalives look the same, so this is never certain, and what goes to
private addresses is left out: that is where they go.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from agentwall.detect.conversation import Conversation
from agentwall.detect.pauses import NS_PER_S, beats, irregularity, pauses_s
from agentwall.detect.places import is_reserved, shown
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity
from agentwall.net.endpoint import Endpoint, L4Protocol

MAX_DESTINATIONS = 512
"""Of one sandbox; of more the one called longest ago goes."""
_MIN_BEATS = 10
_MOST_KEPT = 16
_PAUSE_S = (5.0, 3600.0)
_MOST_IRREGULARITY = 0.12
_APART_NS = 2 * NS_PER_S
"""Attempts closer than this are one beat: another address family, a retry, the totals."""
_MOST_BYTES = 4096
"""Of a flow, or of a message and its answer."""
_MOST_MESSAGE = 512
_CLOCKS = frozenset({(L4Protocol.UDP, 53), (L4Protocol.UDP, 123), (L4Protocol.TCP, 53)})
"""DNS has budgets of its own, and NTP goes by the clock."""
_AGAIN_NS = 3600 * NS_PER_S


@dataclass(slots=True)
class _Calls:
    # Most have one or two, and a deque takes 600 octets for the first.
    times: list[int] = field(default_factory=list)
    told_ns: int | None = None


@dataclass(slots=True)
class BeaconWatch:
    """When one sandbox called whom."""

    dropped: int = 0
    """Destinations that were forgotten early."""
    _calls: OrderedDict[tuple[object, int, int], _Calls] = field(default_factory=OrderedDict)

    def see(
        self, time_ns: int, remote: Endpoint, size_bytes: int, name: str | None = None
    ) -> Iterator[Finding]:
        """Yield a finding where the call is one of a beacon; at most one an hour for each.

        Args:
            time_ns: UTC; a call that is older than the last one to the same place is left out.
            remote: Whom.
            size_bytes: Of the whole call as far as it is known; 0 where it was refused.
            name: Under which the address was learned; then it stands for the address.
        """
        if not _counts(remote) or size_bytes > _MOST_BYTES:
            return
        key = (name or int(remote.address), remote.protocol, remote.port)
        calls = self._calls.get(key)
        if calls is None:
            if len(self._calls) >= MAX_DESTINATIONS:
                self._calls.popitem(last=False)
                self.dropped += 1
            calls = self._calls[key] = _Calls()
        self._calls.move_to_end(key)
        if calls.times and time_ns - calls.times[-1] <= _APART_NS:
            return
        calls.times.append(time_ns)
        del calls.times[:-_MOST_KEPT]
        evidence = _beat(calls.times)
        if evidence is None or (calls.told_ns is not None and time_ns - calls.told_ns < _AGAIN_NS):
            return
        calls.told_ns = time_ns
        yield _finding("beacon-calls", {**evidence, "remote": shown(remote), "name": name})


def beacon_within(conversation: Conversation) -> Finding | None:
    """Return a finding where *conversation* consists of small messages sent by the clock."""
    if len(conversation.messages) < _MIN_BEATS or not _counts(conversation.server):
        return None
    client = [m for m in conversation.messages if m.from_client]
    small = [m for m in client if m.size <= _MOST_MESSAGE]
    times = beats((m.time_ns for m in small), NS_PER_S)
    # The opening is not of the rhythm; what else is large makes it something else than a beacon.
    evidence = _beat(times[1:])
    if evidence is None or len(client) - len(small) > len(times) // 4:
        return None
    size, count = Counter(m.size for m in small).most_common(1)[0]
    total = conversation.client_bytes + conversation.server_bytes
    if count < len(times) // 2 or total > _MOST_BYTES + _MOST_MESSAGE * len(times):
        return None
    return _finding("beacon-messages", {**evidence, "message_bytes": size, "bytes": total})


def _counts(remote: Endpoint) -> bool:
    return (remote.protocol, remote.port) not in _CLOCKS and not is_reserved(remote.address)


def _beat(times_ns: list[int]) -> dict[str, object] | None:
    """Return the numbers of a series by the clock, or None."""
    pauses = pauses_s(times_ns)
    if len(times_ns) < _MIN_BEATS or not _PAUSE_S[0] <= median(pauses) <= _PAUSE_S[1]:
        return None
    irregular = irregularity(pauses)
    if irregular > _MOST_IRREGULARITY:
        return None
    return {
        "beats": len(times_ns),
        "pause_seconds": round(median(pauses), 1),
        "irregularity": round(irregular, 3),
        "seconds": round((times_ns[-1] - times_ns[0]) / NS_PER_S),
    }


def _finding(name: str, evidence: dict[str, object]) -> Finding:
    return Finding(
        cls=DetectionClass.BEACON,
        signature=f"behaviour/{name}",
        dialect=name,
        severity=Severity.LOW,
        confidence=Confidence.LOW,
        stage=Stage.BEHAVIOUR,
        evidence=evidence,
    )
