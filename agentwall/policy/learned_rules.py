# SPDX-License-Identifier: Apache-2.0
"""What may be learned, as rules: one for each name and for each address without one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agentwall.flow.verdict import Direction
from agentwall.net.domain import NameDepth, NamePattern
from agentwall.net.endpoint import Endpoint, IPAddress, NamedEndpoint
from agentwall.net.reserved import innermost_block
from agentwall.policy.learned_evidence import Evidence, Target, joined, listed
from agentwall.policy.suffixes import check_reach

Service = tuple[int, int]
"""Protocol and port; port 0 for protocols without ports."""


@dataclass(frozen=True, slots=True)
class LearnedServer:
    """One DNS server."""

    address: IPAddress
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRule:
    """One line under ``allow`` or ``inbound``."""

    subject: NamePattern | IPAddress
    services: tuple[Service, ...]
    """Sorted, never empty."""
    remarks: tuple[str, ...]
    """For a comment, in printable ASCII."""
    evidence: Evidence
    sample: Endpoint | NamedEndpoint
    """Something that the rule permits."""


def allow_rules(
    found: Mapping[Target, Evidence], *, has_servers: bool, wildcards: int | None
) -> tuple[LearnedRule, ...]:
    """Return the rules for what *found* holds of outward flows: names first, then addresses.

    Args:
        found: What may be learned, without DNS.
        has_servers: Whether the policy can name hosts; otherwise their addresses are learned.
        wildcards: See :class:`~agentwall.policy.learn.LearnOptions`.
    """
    outward = {t: e for t, e in found.items() if t.direction is Direction.OUT}
    named = {t: e for t, e in outward.items() if t.name is not None} if has_servers else {}
    rules = [_of_hosts(pattern, part) for pattern, part in _by_pattern(named, wildcards)]
    # A name opens nothing in a reserved block unless a rule opens the address as well.
    by_address = {
        target: evidence
        for target, evidence in outward.items()
        if target not in named or innermost_block(target.address) is not None
    }
    return (*rules, *_of_addresses(by_address))


def inbound_rules(found: Mapping[Target, Evidence]) -> tuple[LearnedRule, ...]:
    """Return the rules for what *found* holds of inward flows."""
    return tuple(_of_addresses({t: e for t, e in found.items() if t.direction is Direction.IN}))


def _by_pattern(
    named: Mapping[Target, Evidence], wildcards: int | None
) -> Iterator[tuple[NamePattern, dict[Target, Evidence]]]:
    """Yield each pattern that is to stand for part of *named*, and that part."""
    parts: dict[NamePattern, dict[Target, Evidence]] = {}
    wide = _wide_services(named, wildcards) if wildcards is not None else frozenset()
    for target, evidence in named.items():
        assert target.name is not None
        above = target.name.partition(".")[2]
        is_wide = (above, _service(target)) in wide
        depth = NameDepth.LABEL if is_wide else NameDepth.EXACT
        pattern = NamePattern(above if is_wide else target.name, depth)
        parts.setdefault(pattern, {})[target] = evidence
    yield from sorted(parts.items(), key=lambda item: (item[0].name, item[0].depth.value))


def _wide_services(named: Iterable[Target], fewest: int) -> frozenset[tuple[str, Service]]:
    """Return the parents of at least *fewest* names that were reached at a service, with it."""
    names: dict[tuple[str, Service], set[str]] = {}
    for target in named:
        assert target.name is not None
        above = target.name.partition(".")[2]
        names.setdefault((above, _service(target)), set()).add(target.name)
    return frozenset(
        key for key, below in names.items() if len(below) >= fewest and _has_one_owner(key[0])
    )


def _has_one_owner(parent: str) -> bool:
    if not parent:
        return False
    try:
        check_reach(NamePattern(parent, NameDepth.LABEL), shared=False)
    except ValueError:
        return False
    return True


def _of_hosts(pattern: NamePattern, part: Mapping[Target, Evidence]) -> LearnedRule:
    targets = sorted(part, key=lambda target: target.order)
    first = targets[0]
    assert first.name is not None
    addresses = sorted({t.address for t in targets}, key=lambda a: (a.version, int(a)))
    remarks = [f"at {_some(addresses)}"]
    if pattern.depth is not NameDepth.EXACT:
        remarks.insert(0, f"seen: {', '.join(sorted({t.name for t in targets if t.name}))}")
    return LearnedRule(
        subject=pattern,
        services=tuple(sorted({_service(target) for target in targets})),
        remarks=tuple(remarks),
        evidence=joined(part.values()),
        sample=NamedEndpoint(first.name, first.port, first.protocol),
    )


def _of_addresses(found: Mapping[Target, Evidence]) -> Iterator[LearnedRule]:
    parts: dict[IPAddress, dict[Target, Evidence]] = {}
    for target, evidence in found.items():
        parts.setdefault(target.address, {})[target] = evidence
    for address in sorted(parts, key=lambda a: (a.version, int(a))):
        part = parts[address]
        first = min(part, key=lambda target: target.order)
        names = {target.name for target in part if target.name is not None}
        yield LearnedRule(
            subject=address,
            services=tuple(sorted({_service(target) for target in part})),
            remarks=(f"{listed(names)} led here: reserved, so its name alone opens nothing",)
            if names
            else (),
            evidence=joined(part.values()),
            sample=Endpoint(address, first.port, first.protocol),
        )


def _service(target: Target) -> Service:
    return target.protocol, target.port


def _some(addresses: list[IPAddress]) -> str:
    shown = ", ".join(str(address) for address in addresses[:4])
    return f"{shown} and {len(addresses) - 4} more" if len(addresses) > 4 else shown
