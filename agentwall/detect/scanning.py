# SPDX-License-Identifier: Apache-2.0
"""Scans: many addresses, or many ports of one address, tried within a minute. Pure.

Trials in, one finding a burst out, and while the burst goes on one more each window. What was
refused or met nobody counts. What was permitted and answered counts only beside it, one for one: a
program that reaches everything it tries knows where to go, and a training job may well talk to 64
workers in one second. docs/behaviour.md argues it.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from agentwall.detect.pauses import NS_PER_S
from agentwall.detect.places import is_reserved, shown
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity
from agentwall.net.endpoint import Endpoint, IPAddress, canonical
from agentwall.net.ports import protocol_name
from agentwall.policy.model import ScanLimits

MAX_TRIALS = 4096
"""Distinct destinations of one sandbox that are kept within a window; of more the oldest go."""
_MOST_SHOWN = 8
_MOST_EXAMPLES = 5
_WEB_PORTS = frozenset({80, 443})
_PRIVATE_WEIGHT, _PUBLIC_WEIGHT, _WEB_WEIGHT = 4, 2, 1
"""A limit of 12 addresses is 12 private ones, or 24 public, or 48 public at the web's ports."""
_CERTAIN = 2
"""So many times the limit leave no doubt."""


class Outcome(enum.Enum):
    """What became of a trial, from the worst."""

    REFUSED = "refused"
    """Denied, or would be."""
    UNANSWERED = "unanswered"
    """Permitted, and nobody was there."""
    PERMITTED = "permitted"
    """Permitted; answered, or nothing is known of that yet."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt to reach something."""

    time_ns: int
    """UTC, or any other clock that all trials share."""
    remote: Endpoint
    outcome: Outcome
    name: str | None = None
    """Under which the address was learned: addresses of one name are one target."""


_Where = str | int
"""A name, or the number of an address that has none: those of IPv6 with 2**128 added."""
_Target = tuple[_Where, int, int]
"""Name or address, protocol, port."""


@dataclass(slots=True)
class _Known:
    """A target within the window."""

    time_ns: int
    outcome: Outcome
    remote: Endpoint


@dataclass(slots=True)
class _Place:
    """The targets of one name or address."""

    is_named: bool
    weight: int = 0
    targets: dict[_Target, None] = field(default_factory=dict)
    """In the order they came."""
    missed: int = 0


@dataclass(slots=True)
class _Burst:
    """A scan that goes on."""

    begin_ns: int
    over_ns: int
    """When the limit was last exceeded."""
    told_ns: int
    targets: int = 0
    """New ones since the burst was told of first."""
    told_targets: int = 0
    updates: int = 0


@dataclass(slots=True)
class ScanWatch:
    """The trials of one sandbox within the window, and the bursts that go on."""

    limits: ScanLimits
    dropped: int = 0
    """Trials that were forgotten early, for there were more than :data:`MAX_TRIALS`."""
    _trials: OrderedDict[_Target, _Known] = field(default_factory=OrderedDict)
    _places: dict[_Where, _Place] = field(default_factory=dict)
    _missed: int = 0
    """Weights of the places of which something was missed, and of the others, without names."""
    _reached: int = 0
    _bursts: dict[str, _Burst] = field(default_factory=dict)
    _now_ns: int = 0

    def see(self, trial: Trial) -> Iterator[Finding]:
        """Yield what *trial* completes; trials may come out of order within a window."""
        if not _counts(trial):
            return
        self._now_ns = max(self._now_ns, trial.time_ns)
        before_ns = self._now_ns - self._window_ns
        if trial.time_ns < before_ns:
            return
        where = trial.name or _number(canonical(trial.remote.address))
        is_news = self._keep((where, trial.remote.protocol, trial.remote.port), trial)
        self._forget(before_ns)
        if not is_news or trial.outcome is Outcome.PERMITTED:
            return
        if self._missed + min(self._missed, self._reached) >= self._most:
            yield from self._judge("scan-horizontal", self._trials)
        place = self._places[where]
        counted = min(2 * place.missed, len(place.targets))
        if counted >= self.limits.ports:
            yield from self._judge("scan-vertical", place.targets)

    def end(self) -> Iterator[Finding]:
        """Yield what has come since bursts were last told of: the sandbox has ended."""
        for name, burst in self._bursts.items():
            if burst.targets > burst.told_targets and self._trials:
                targets = self._trials if name == "scan-horizontal" else self._widest()
                burst.updates += 1
                yield self._finding(name, list(targets), burst)
        self._bursts.clear()

    @property
    def _window_ns(self) -> int:
        return self.limits.seconds * NS_PER_S

    @property
    def _most(self) -> int:
        return self.limits.targets * _PRIVATE_WEIGHT

    def _widest(self) -> Iterable[_Target]:
        return max(self._places.values(), key=lambda place: len(place.targets)).targets

    def _keep(self, target: _Target, trial: Trial) -> bool:
        """Note *trial*; say whether it is a new target, or a known one that came out worse."""
        known = self._trials.get(target)
        if known is None:
            if len(self._trials) >= MAX_TRIALS:
                self._drop(next(iter(self._trials)))
                self.dropped += 1
            self._trials[target] = _Known(trial.time_ns, trial.outcome, trial.remote)
            place = self._places.setdefault(target[0], _Place(isinstance(target[0], str)))
            self._weigh(place, -1)
            place.targets[target] = None
            place.missed += trial.outcome is not Outcome.PERMITTED
            place.weight = max(place.weight, _weight(trial))
            self._weigh(place, 1)
            return True
        self._trials.move_to_end(target)
        known.time_ns = max(known.time_ns, trial.time_ns)
        if trial.outcome is Outcome.PERMITTED or known.outcome is not Outcome.PERMITTED:
            return False
        known.outcome = trial.outcome
        place = self._places[target[0]]
        self._weigh(place, -1)
        place.missed += 1
        self._weigh(place, 1)
        return True

    def _forget(self, before_ns: int) -> None:
        while self._trials:
            target, known = next(iter(self._trials.items()))
            if known.time_ns >= before_ns:
                return
            self._drop(target)

    def _drop(self, target: _Target) -> None:
        known = self._trials.pop(target)
        place = self._places[target[0]]
        self._weigh(place, -1)
        del place.targets[target]
        place.missed -= known.outcome is not Outcome.PERMITTED
        if place.targets:
            self._weigh(place, 1)
        else:
            del self._places[target[0]]

    def _weigh(self, place: _Place, sign: int) -> None:
        """Take *place* into the sums, or out of them."""
        if place.missed:
            self._missed += sign * place.weight
        elif not place.is_named:
            self._reached += sign * place.weight

    def _judge(self, name: str, targets: Iterable[_Target]) -> Iterator[Finding]:
        burst = self._bursts.get(name)
        if burst is not None and self._now_ns - burst.over_ns > self._window_ns:
            burst = None
        if burst is None:
            burst = self._bursts[name] = _Burst(self._now_ns, self._now_ns, self._now_ns)
        else:
            burst.over_ns = self._now_ns
            burst.targets += 1
            if self._now_ns - burst.told_ns < self._window_ns:
                return
            burst.told_ns = self._now_ns
            burst.updates += 1
        burst.told_targets = burst.targets
        yield self._finding(name, list(targets), burst)

    def _finding(self, name: str, targets: list[_Target], burst: _Burst) -> Finding:
        known = sorted((self._trials[t] for t in targets), key=lambda one: one.time_ns)
        outcomes = Counter(one.outcome for one in known)
        addresses = dict.fromkeys(one.remote.address for one in known)
        private = sum(is_reserved(address) for address in addresses)
        missed = len(known) - outcomes[Outcome.PERMITTED]
        limit = self.limits.targets if name == "scan-horizontal" else self.limits.ports
        certain = missed >= _CERTAIN * limit and 2 * missed > len(known)
        return Finding(
            cls=DetectionClass.SCAN,
            signature=f"behaviour/{name}",
            dialect=name,
            severity=Severity.HIGH if 2 * private >= len(addresses) else Severity.MEDIUM,
            confidence=Confidence.HIGH if certain else Confidence.MEDIUM,
            stage=Stage.BEHAVIOUR,
            evidence={
                "addresses": len(addresses),
                "private": private,
                "ports": len({(one.remote.protocol, one.remote.port) for one in known}),
                **{outcome.value: outcomes[outcome] for outcome in Outcome},
                "networks": _most(_network(address) for address in addresses),
                "services": _most(_service(one.remote) for one in known),
                "examples": [shown(one.remote) for one in known[:_MOST_EXAMPLES]],
                "seconds": round((known[-1].time_ns - known[0].time_ns) / NS_PER_S, 1),
                "burst_seconds": round((self._now_ns - burst.begin_ns) / NS_PER_S, 1),
                "targets_since_first_told": burst.targets,
                "updates": burst.updates,
                "limit": {"count": limit, "seconds": self.limits.seconds},
                "forgotten": self.dropped,
            },
        )


def _counts(trial: Trial) -> bool:
    address = canonical(trial.remote.address)
    number = int(address)
    if address.version == 4:
        is_for_many = number >> 28 == 0xE or number == 0xFFFF_FFFF
        is_loopback = number >> 24 == 127
    else:
        is_for_many, is_loopback = number >> 120 == 0xFF, number == 1
    # Programs of one sandbox talk to each other over loopback on whatever ports they like.
    return not is_for_many and (not is_loopback or trial.outcome is Outcome.REFUSED)


def _number(address: IPAddress) -> int:
    # The hash of an address object is slow, and this one is asked for again and again.
    return int(address) | (address.version == 6) << 128


def _weight(trial: Trial) -> int:
    if trial.name is None and is_reserved(trial.remote.address):
        return _PRIVATE_WEIGHT
    return _WEB_WEIGHT if trial.remote.port in _WEB_PORTS else _PUBLIC_WEIGHT


def _network(address: IPAddress) -> str:
    return str(ip_network((int(address), 24 if address.version == 4 else 64), strict=False))


def _service(remote: Endpoint) -> str:
    protocol = protocol_name(remote.protocol)
    return f"{protocol}/{remote.port}" if remote.port else protocol


def _most(values: Iterable[str]) -> list[str]:
    """Return the most frequent of *values*, each with how often where that is more than once."""
    counted = Counter(values)
    most = [f"{value} ({n})" if n > 1 else value for value, n in counted.most_common(_MOST_SHOWN)]
    left = len(counted) - len(most)
    return [*most, f"{left} more"] if left > 0 else most
