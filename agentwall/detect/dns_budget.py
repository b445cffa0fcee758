# SPDX-License-Identifier: Apache-2.0
"""What one sandbox asks below one registrable domain, and when that is more than asking. Pure.

A question carries data in names that were never asked before. So names are measured by what is new
in them: the octets by which a name differs from those asked just before. The names of 64 workers
differ in two, a tunnel's in fifty. docs/behaviour.md has the figures.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentwall.detect.pauses import NS_PER_S
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity
from agentwall.policy.model import DnsLimits
from agentwall.policy.suffixes import registrable

MAX_ZONES = 256
"""Zones of one sandbox that are watched; of more the one asked longest ago goes."""
_RATE_NS = 60 * NS_PER_S
_NAMES_NS = 600 * NS_PER_S
_LEAST_NAMES = 1024
"""Names of one zone that are kept, if the limit is not larger."""
_RECENT = 8

_TUNNEL_NAMES = 12
_TUNNEL_NEW = 20.0
"""Octets new in a name, on the mean."""
_CARRIER_NEW = 8.0
_CARRIER_PART = 0.5
_CERTAIN_NAMES = 24
_IDLE_NAMES = 40
_IDLE_PART = 0.9
"""A tunnel that only polls has short names, but asks for nothing else."""
_CARRIERS = frozenset({10, 16, 25})
"""NULL, TXT, KEY: their answers hold what one likes; so does what is for private use."""
_PRIVATE_TYPES = range(65280, 65535)
"""RFC 6895 section 3.1."""
_LONGEST_ZONE = 10
_ZONE_OCTETS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_REVERSE_LABELS = {"in-addr.arpa": 4, "ip6.arpa": 10}
"""Labels of a reverse zone: of a /16, and of a /32."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. Unlike the kernel's reader this takes what no honest resolver asks."""

    labels: tuple[bytes, ...]
    """As they stand in the message, any octets, not empty."""
    type: int


@dataclass(frozen=True, slots=True)
class _Name:
    time_ns: int
    new: int
    longest: int
    entropy: float
    is_carrier: bool


@dataclass(slots=True)
class _Zone:
    """What was asked below one registrable domain."""

    names: OrderedDict[bytes, _Name] = field(default_factory=OrderedDict)
    """Distinct ones within ten minutes, the one asked first in front."""
    times: deque[int] = field(default_factory=deque)
    """Of questions within a minute; no more than one above the limit."""
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=_RECENT))
    told: dict[str, tuple[int, Confidence]] = field(default_factory=dict)
    new: int = 0
    longest: int = 0
    entropy: float = 0.0
    carriers: int = 0


def read_asked(message: bytes) -> Asked | None:
    """Read the first question of a DNS *message* (RFC 1035 section 4.1.2); None if it has none.

    Names may hold any octets, as those of iodine do; answers are passed over.
    """
    if len(message) < 17 or message[2] & 0xF8 or message[4:6] != b"\x00\x01":
        return None
    labels: list[bytes] = []
    at = 12
    while at < len(message) and message[at]:
        size = message[at]
        if size > 63 or at + 1 + size >= len(message):
            return None
        labels.append(message[at + 1 : at + 1 + size])
        at += 1 + size
    if not labels or at + 5 > len(message) or message[at + 3 : at + 5] != b"\x00\x01":
        return None
    return Asked(tuple(labels), int.from_bytes(message[at + 1 : at + 3], "big"))


def asked_of(name: str, kind: int) -> Asked:
    """Return the question for *name*, in its one form, that an event tells of."""
    return Asked(tuple(name.encode("ascii", "replace").split(b".")), kind)


@dataclass(slots=True)
class DnsWatch:
    """The questions of one sandbox, by zone."""

    limits: DnsLimits
    dropped: int = 0
    """Zones and names that were forgotten early."""
    _zones: OrderedDict[str, _Zone] = field(default_factory=OrderedDict)

    def see(self, time_ns: int, asked: Asked) -> Iterator[Finding]:
        """Yield what the question completes: a kind again once it is sure, or ten minutes later."""
        name, below = _split(asked.labels)
        zone = self._zone(name)
        self._note(zone, time_ns, below, asked.type)
        for kind, confidence in self._exceeded(zone):
            told = zone.told.get(kind)
            is_surer = told is not None and confidence is Confidence.HIGH is not told[1]
            if told is None or is_surer or time_ns - told[0] >= _NAMES_NS:
                zone.told[kind] = (time_ns, confidence)
                yield self._finding(kind, confidence, name, zone)

    def _zone(self, name: str) -> _Zone:
        zone = self._zones.get(name)
        if zone is None:
            if len(self._zones) >= MAX_ZONES:
                self._zones.popitem(last=False)
                self.dropped += 1
            zone = self._zones[name] = _Zone()
        self._zones.move_to_end(name)
        return zone

    def _note(self, zone: _Zone, time_ns: int, below: bytes, kind: int) -> None:
        zone.times.append(time_ns)
        while len(zone.times) > self.limits.questions_per_minute + 1 or (
            time_ns - zone.times[0] > _RATE_NS
        ):
            zone.times.popleft()
        while zone.names:
            first, known = next(iter(zone.names.items()))
            is_full = len(zone.names) >= max(self.limits.labels + 1, _LEAST_NAMES)
            if time_ns - known.time_ns <= _NAMES_NS and not is_full:
                break
            self.dropped += time_ns - known.time_ns <= _NAMES_NS
            _count(zone, zone.names.pop(first), -1)
        if below and below not in zone.names:
            zone.names[below] = _measured(time_ns, below, kind, zone.recent)
            _count(zone, zone.names[below], 1)
            zone.recent.append(below)

    def _exceeded(self, zone: _Zone) -> Iterator[tuple[str, Confidence]]:
        names = len(zone.names)
        if names >= _TUNNEL_NAMES:
            new, carriers = zone.new / names, zone.carriers / names
            is_idle = names >= _IDLE_NAMES and carriers >= _IDLE_PART
            is_carrier = new >= _CARRIER_NEW and carriers >= _CARRIER_PART
            if new >= _TUNNEL_NEW or is_carrier or is_idle:
                certain = names >= _CERTAIN_NAMES and (
                    new >= 2 * _TUNNEL_NEW or (new >= _TUNNEL_NEW and carriers >= _CARRIER_PART)
                )
                yield "dns-tunnel", Confidence.HIGH if certain else Confidence.MEDIUM
        if names > self.limits.labels:
            yield "dns-names", Confidence.LOW
        if len(zone.times) > self.limits.questions_per_minute:
            yield "dns-rate", Confidence.LOW

    def _finding(self, kind: str, confidence: Confidence, name: str, zone: _Zone) -> Finding:
        names = max(len(zone.names), 1)
        example = zone.recent[-1] if zone.recent else b""
        return Finding(
            cls=DetectionClass.DNS_EXFIL,
            signature=f"behaviour/{kind}",
            dialect=kind,
            severity=Severity.MEDIUM if confidence is Confidence.LOW else Severity.HIGH,
            confidence=confidence,
            stage=Stage.BEHAVIOUR,
            evidence={
                "zone": name,
                "questions_in_a_minute": len(zone.times),
                "names_in_ten_minutes": len(zone.names),
                "new_octets": zone.new,
                "new_octets_a_name": round(zone.new / names, 1),
                "longest_label": round(zone.longest / names, 1),
                "entropy_bits": round(zone.entropy / names, 2),
                "carrier_types": round(zone.carriers / names, 2),
                "example": example.decode("ascii", "backslashreplace")[:80],
                "limit": {
                    "questions_per_minute": self.limits.questions_per_minute,
                    "labels": self.limits.labels,
                },
                "forgotten": self.dropped,
            },
        )


def _split(labels: tuple[bytes, ...]) -> tuple[str, bytes]:
    """Return the registrable domain of *labels*, and what stands below it."""
    # Nobody can register other octets, and no suffix is longer.
    tail: list[str] = []
    for label in reversed(labels[-_LONGEST_ZONE:]):
        if not _ZONE_OCTETS.issuperset(label):
            break
        tail.insert(0, label.decode("ascii").lower())
    depth = min(_depth(".".join(tail)), len(tail)) if tail else 1
    zone = ".".join(tail[-depth:]) if tail else labels[-1].decode("ascii", "backslashreplace")
    return zone, b".".join(labels[:-depth])


def _depth(tail: str) -> int:
    for suffix, depth in _REVERSE_LABELS.items():
        if tail.endswith("." + suffix):
            return depth
    return registrable(tail).count(".") + 1


def _measured(time_ns: int, below: bytes, kind: int, recent: deque[bytes]) -> _Name:
    longest = max(below.split(b"."), key=len)
    return _Name(
        time_ns,
        min((_novel(below, other) for other in recent), default=0),
        len(longest),
        _entropy(longest.lower()),
        kind in _CARRIERS or kind in _PRIVATE_TYPES,
    )


def _novel(name: bytes, other: bytes) -> int:
    """Return how many octets of *name* are neither its beginning nor its end in *other*."""
    most = min(len(name), len(other))
    begin = next((at for at in range(most) if name[at] != other[at]), most)
    end = next((at for at in range(most - begin) if name[-1 - at] != other[-1 - at]), most - begin)
    return len(name) - begin - end


def _entropy(text: bytes) -> float:
    """Return the bits an octet of *text* holds, by its own frequencies."""
    parts = [count / len(text) for count in Counter(text).values()]
    return -sum(part * math.log2(part) for part in parts)


def _count(zone: _Zone, name: _Name, sign: int) -> None:
    zone.new += sign * name.new
    zone.longest += sign * name.longest
    zone.entropy += sign * name.entropy
    zone.carriers += sign * name.is_carrier
