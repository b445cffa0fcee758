# SPDX-License-Identifier: Apache-2.0
"""Scans among what a sandbox tried: many addresses at one port, or many ports of one host. Pure.

By sandbox and not by program: a sandbox gives its programs what names it likes. What was tried and
refused counts as well, since of a scan only the hits are permitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agentwall.flow.verdict import Direction
from agentwall.net.endpoint import L4Protocol
from agentwall.net.ports import protocol_name
from agentwall.policy.learned_evidence import Target, visible

Trial = tuple[str, Target]
"""A sandbox's id, and what it tried."""

ANYWHERE = 8
_V4_BITS, _V6_BITS = 16, 48
"""Of a network: what one site has at most, as a rule."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Trials that nobody makes who knows where to go."""

    trials: tuple[Trial, ...]
    """In the order of :attr:`Target.order`, never empty."""
    what: str
    """``tcp/22 of 30 addresses, 10.20.0.1 to 10.20.0.30``."""


def find_scans(trials: Iterable[Trial], limit: int) -> list[Scan]:
    """Return the scans among *trials*, which differ from each other.

    Args:
        trials: Everything that was tried, permitted or not.
        limit: So many addresses without a name of one network at one port, or ports of one host,
            are a scan; and :data:`ANYWHERE` times as many addresses of whatever networks.
    """
    rest = sorted(trials, key=lambda trial: (trial[0], trial[1].order))
    scans: list[Scan] = []
    for find in (_of_network, _of_everywhere, _of_ports):
        scans += find(rest, limit)
        known = {trial for scan in scans for trial in scan.trials}
        rest = [trial for trial in rest if trial not in known]
    return scans


def _of_network(trials: list[Trial], limit: int) -> Iterator[Scan]:
    return _of_addresses(trials, limit, _network)


def _of_everywhere(trials: list[Trial], limit: int) -> Iterator[Scan]:
    return _of_addresses(trials, limit * ANYWHERE, lambda target: target.address.version)


def _network(target: Target) -> tuple[int, int]:
    address = target.address
    kept = _V4_BITS if address.version == 4 else _V6_BITS
    return address.version, int(address) >> address.max_prefixlen - kept


def _of_addresses(
    trials: list[Trial], limit: int, network: Callable[[Target], object]
) -> Iterator[Scan]:
    unnamed = [t for t in trials if t[1].name is None and t[1].direction is Direction.OUT]
    for group in _grouped(unnamed, lambda t: (network(t), t.protocol, t.port)):
        if len(group) >= limit:
            target, last = group[0][1], group[-1][1]
            span = f"{target.address} to {last.address}"
            yield Scan(tuple(group), f"{_service(target)} of {len(group)} addresses, {span}")


def _of_ports(trials: list[Trial], limit: int) -> Iterator[Scan]:
    for group in _grouped(trials, lambda t: (t.direction, t.name or t.address, t.protocol)):
        target = group[0][1]
        ports = sorted({trial[1].port for trial in group})
        if len(ports) >= limit and target.protocol in (L4Protocol.TCP, L4Protocol.UDP):
            span = f"{len(ports)} {protocol_name(target.protocol)} ports, {ports[0]} to {ports[-1]}"
            towards = "of" if target.direction is Direction.OUT else "of the sandbox, by"
            yield Scan(
                tuple(group), f"{span}, {towards} {visible(target.name or str(target.address))}"
            )


def _grouped(
    trials: list[Trial], kind: Callable[[Target], tuple[object, ...]]
) -> Iterator[list[Trial]]:
    found: dict[tuple[object, ...], list[Trial]] = {}
    for sandbox, target in trials:
        found.setdefault((sandbox, *kind(target)), []).append((sandbox, target))
    yield from found.values()


def _service(target: Target) -> str:
    name = protocol_name(target.protocol)
    return f"{name}/{target.port}" if target.port else name
