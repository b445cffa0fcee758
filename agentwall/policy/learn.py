# SPDX-License-Identifier: Apache-2.0
"""Flow records of runs in, the least policy that permits them out. Pure.

What a sandbox did is evidence and not permission. Flows that were refused for more than the lack of
a rule, scans, metadata services and names that are not one owner's are never learned; each is kept
with the reason, for a reader. :mod:`agentwall.policy.learned_yaml` writes the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentwall.flow.record import FlowRecord
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import describe_destination
from agentwall.net.domain import NameDepth, NamePattern, parse_name
from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, canonical, destination
from agentwall.net.ports import protocol_name
from agentwall.net.reserved import METADATA_SERVICES, innermost_block
from agentwall.policy.learned_evidence import Evidence, Sighting, Target, joined, visible
from agentwall.policy.learned_rules import LearnedRule, LearnedServer, allow_rules, inbound_rules
from agentwall.policy.learned_scans import Trial, find_scans
from agentwall.policy.load import MAX_EXTRA_PROTOCOLS
from agentwall.policy.resolver import DNS_PORT
from agentwall.policy.suffixes import check_reach

MAX_TARGETS = 100_000
"""More than that is no policy that anybody reviews; what is beyond is counted only."""
FEWEST_OF_A_SCAN = 16

_PERMITS = frozenset(
    (ReasonCode.RULE, ReasonCode.OBSERVED, ReasonCode.LOOPBACK, ReasonCode.RESOLVER)
)
"""Why a flow can have been permitted."""
_WITH_PORTS = (L4Protocol.TCP, L4Protocol.UDP)
_ECHO = (L4Protocol.ICMP, L4Protocol.ICMPV6)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions:
    """What to learn from."""

    include_denied: bool = False
    """Also what was refused, or would have been, only because no rule allows it."""
    wildcards: int | None = None
    """From how many names of one parent on ``*.parent`` stands for them; None for never."""
    scan: int = FEWEST_OF_A_SCAN
    """See :func:`~agentwall.policy.learned_scans.find_scans`."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was seen and is not permitted, or needs no rule."""

    reason: str
    what: str
    """In printable ASCII, as :attr:`reason` is."""
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A proposed policy."""

    servers: tuple[LearnedServer, ...]
    allow: tuple[LearnedRule, ...]
    inbound: tuple[LearnedRule, ...]
    left_out: tuple[LeftOut, ...]
    """Sorted by reason."""
    evidence: Evidence
    """Of everything that is permitted."""
    untaken: int
    """Records beyond :data:`MAX_TARGETS`; the policy lacks what they told."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen that needs a rule."""
        return not (self.servers or self.allow or self.inbound)


class Learner:
    """Takes flow records in any order and makes a :class:`Learned` of them."""

    def __init__(self, options: LearnOptions | None = None) -> None:
        self._options = options or LearnOptions()
        self._permitted: dict[Trial, Evidence] = {}
        self._refused: dict[Trial, Evidence] = {}
        self._left: dict[tuple[str, str], Evidence] = {}
        self._untaken = 0

    def add(self, sighting: Sighting) -> None:
        """Take one flow record."""
        record = sighting.record
        targets = list(targets_of(record))
        if not targets:
            what = f"a socket of {protocol_name(record.protocol)}"
            self._leave(_refusal_of(record) or "no destination is known", what, sighting)
        for target in targets:
            if reason := flaw_of(record, target):
                self._leave(reason, _subject(record, target), sighting)
            elif _needs_no_rule(record, target):
                self._leave("loopback, which needs no rule", describe(target), sighting)
            else:
                is_permitted = record.verdict is Verdict.ALLOW
                self._count(self._permitted if is_permitted else self._refused, target, sighting)

    def _count(self, found: dict[Trial, Evidence], target: Target, sighting: Sighting) -> None:
        trial = (sighting.record.sandbox.id, target)
        if trial not in found and self._is_full():
            self._untaken += 1
        else:
            found.setdefault(trial, Evidence()).add(sighting)

    def _leave(self, reason: str, what: str, sighting: Sighting) -> None:
        if (reason, what) not in self._left and self._is_full():
            self._untaken += 1
        else:
            self._left.setdefault((reason, what), Evidence()).add(sighting)

    def _is_full(self) -> bool:
        return len(self._permitted) + len(self._refused) + len(self._left) >= MAX_TARGETS

    def learned(self) -> Learned:
        """Return the policy that everything taken so far makes."""
        left = [LeftOut(reason, what, found) for (reason, what), found in self._left.items()]
        taken = self._without_scans(left)
        targets: dict[Target, list[Evidence]] = {}
        for (_, target), evidence in taken:
            targets.setdefault(target, []).append(evidence)
        kept = _without_rare_protocols({t: joined(found) for t, found in targets.items()}, left)
        asked = {target: found for target, found in kept.items() if _is_question(target)}
        others = {target: found for target, found in kept.items() if target not in asked}
        servers = _servers(asked)
        return Learned(
            servers=servers,
            allow=allow_rules(others, has_servers=bool(servers), wildcards=self._options.wildcards),
            inbound=inbound_rules(others),
            left_out=tuple(sorted(left, key=lambda item: (item.reason, item.what))),
            evidence=joined(kept.values()),
            untaken=self._untaken,
        )

    def _without_scans(self, left: list[LeftOut]) -> list[tuple[Trial, Evidence]]:
        """Return what to learn from; what not goes to *left*."""
        tried = [*self._permitted.items(), *self._refused.items()]
        scanned: set[Trial] = set()
        for scan in find_scans(dict(tried), self._options.scan):
            scanned.update(scan.trials)
            trials = set(scan.trials)
            evidence = joined(found for trial, found in tried if trial in trials)
            left.append(LeftOut("a scan", scan.what, evidence))
        if self._options.include_denied:
            return [(trial, found) for trial, found in tried if trial not in scanned]
        refused: dict[Target, list[Evidence]] = {}
        for (sandbox, target), found in self._refused.items():
            if (sandbox, target) not in scanned:
                refused.setdefault(target, []).append(found)
        left.extend(
            LeftOut("refused, as no rule allowed it", describe(target), joined(found))
            for target, found in refused.items()
        )
        return [(trial, found) for trial, found in self._permitted.items() if trial not in scanned]


def targets_of(record: FlowRecord) -> Iterator[Target]:
    """Yield what must be permitted for *record* to be: where packets went, and what was asked for.

    Both count where something rewrote the destination after connect.
    """
    if record.remote is None:
        return
    if record.direction is Direction.IN:
        port = record.local.port if record.local is not None else 0
        address = canonical(record.remote.address)
        yield _target(Direction.IN, None, address, record.protocol, port)
        return
    asked_at = {_endpoint_key(record.remote): record.remote}
    if record.claimed is not None:
        asked_at.setdefault(_endpoint_key(record.claimed), record.claimed)
    for endpoint in asked_at.values():
        name, address, port = record.name, destination(endpoint.address), endpoint.port
        if record.reason.code is ReasonCode.RESOLVER and address.is_loopback:
            # The host may have moved its resolver to another port, as Docker does.
            port = DNS_PORT
        if port == DNS_PORT and record.protocol in _WITH_PORTS:
            name = None
        yield _target(Direction.OUT, name, address, record.protocol, port)


def _endpoint_key(endpoint: Endpoint) -> tuple[IPAddress, int]:
    return destination(endpoint.address), endpoint.port


def _target(
    direction: Direction, name: str | None, address: IPAddress, protocol: int, port: int
) -> Target:
    return Target(direction, name, address, protocol, port if protocol in _WITH_PORTS else 0)


def flaw_of(record: FlowRecord, target: Target) -> str | None:
    """Return why *target* of *record* is never learned, or None if it may be."""
    if refusal := _refusal_of(record):
        return refusal
    if contradiction := _contradiction(record, target):
        return contradiction
    if _is_metadata(target.address) and record.reason.code is not ReasonCode.RESOLVER:
        return "a metadata service, which hands out keys"
    if target.address.is_unspecified or int(target.address) == 0xFFFFFFFF:
        return "not the address of one host"
    if _is_question(target) and target.address.is_multicast:
        return "questions to no single DNS server"
    if target.protocol in (0, 255):
        return f"no rule permits IP protocol {target.protocol}"
    if target.protocol in _WITH_PORTS and target.port == 0:
        return "no port is known"
    return None if target.name is None else _name_flaw(target.name)


def _refusal_of(record: FlowRecord) -> str | None:
    """Return why the wall refused *record*, unless it was only that no rule allowed it."""
    code, verdict = record.reason.code, record.verdict
    if verdict is Verdict.ALLOW:
        if code in _PERMITS:
            return None
        return f"permitted for a reason that permits nothing: {code.value}"
    if code is ReasonCode.NO_RULE:
        return None
    if code is ReasonCode.QUESTION:
        return "asked for and refused: no connection shows which port"
    said = visible(record.reason.rule) if record.reason.rule else code.value
    return f"{verdict.value}: {said}"


def _contradiction(record: FlowRecord, target: Target) -> str | None:
    code = record.reason.code
    if code is ReasonCode.LOOPBACK and not target.address.is_loopback:
        return "said to be loopback, and is not"
    if code is ReasonCode.RESOLVER and not _is_question(target):
        return "said to be a DNS server's, and is not"
    return None


def _name_flaw(name: str) -> str | None:
    try:
        if parse_name(name) != name:
            return "a name that is not in its one form"
        check_reach(NamePattern(name, NameDepth.EXACT), shared=False)
    except ValueError as err:
        return f"a name that no rule of its own can have: {ascii(str(err))[1:-1]}"
    return None


def _is_metadata(address: IPAddress) -> bool:
    return innermost_block(address) in METADATA_SERVICES


def _is_question(target: Target) -> bool:
    is_out = target.direction is Direction.OUT
    return is_out and target.port == DNS_PORT and target.protocol in _WITH_PORTS


def _needs_no_rule(record: FlowRecord, target: Target) -> bool:
    if not target.address.is_loopback:
        return False
    code = record.reason.code
    return target.direction is Direction.IN or code in (ReasonCode.LOOPBACK, ReasonCode.OBSERVED)


def _without_rare_protocols(
    found: Mapping[Target, Evidence], left: list[LeftOut]
) -> dict[Target, Evidence]:
    """Return *found* with no more protocols than one policy may name; the rest goes to *left*."""
    seen = {target.protocol for target in found}
    room = MAX_EXTRA_PROTOCOLS - (2 if seen.intersection(_ECHO) else 0)
    named = sorted(seen.difference(_WITH_PORTS, _ECHO))[:room]
    known = {*_WITH_PORTS, *_ECHO, *named}
    reason = f"one policy names at most {MAX_EXTRA_PROTOCOLS} protocols beside TCP and UDP"
    left.extend(
        LeftOut(reason, describe(target), evidence)
        for target, evidence in found.items()
        if target.protocol not in known
    )
    return {target: evidence for target, evidence in found.items() if target.protocol in known}


def _servers(asked: Mapping[Target, Evidence]) -> tuple[LearnedServer, ...]:
    addresses = {target.address for target in asked}
    return tuple(
        LearnedServer(address, joined(e for t, e in asked.items() if t.address == address))
        for address in sorted(addresses, key=lambda a: (a.version, int(a)))
    )


def describe(target: Target) -> str:
    """Return *target* for a reader, in printable ASCII."""
    where = describe_destination(Endpoint(target.address, target.port, target.protocol))
    if target.direction is Direction.IN:
        port = f" port {target.port}" if target.protocol in _WITH_PORTS else ""
        return f"{target.address} to the sandbox's {protocol_name(target.protocol)}{port}"
    return where if target.name is None else f"{where} as {visible(target.name)}"


def _subject(record: FlowRecord, target: Target) -> str:
    if record.question is None:
        return describe(target)
    return f"{visible(record.question.name)}, said to {describe(target)}"
