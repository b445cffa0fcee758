# SPDX-License-Identifier: Apache-2.0
"""A policy to rule tables: nested prefixes flattened, all precedence resolved.

The kernel takes the longest prefix that holds an address and looks no further, so each entry must
hold what every wider prefix says as well. Prefixes and reserved blocks are walked in sorted order
with a stack of those that enclose the current one: near-linear in rules.

Precedence needs no more than the order of :attr:`~agentwall.policy.tables.RuleTables.rules` (deny,
allow, inbound, each in policy order): of all rules that match, the lowest index decides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentwall.flow.verdict import Direction
from agentwall.net.endpoint import (
    V4_MAPPED,
    Endpoint,
    IPNetwork,
    L4Protocol,
    canonical,
    destination,
    key_bytes,
)
from agentwall.net.ports import selector
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.intervals import IntervalSets
from agentwall.policy.model import Policy, Rule, Section
from agentwall.policy.tables import Interval, RuleTables, TableEntry

_V4_BITS = int(V4_MAPPED.network_address)
_ROOT = 0
_V4_ROOT = _V4_BITS << 8 | V4_MAPPED.prefixlen


def compile_policy(policy: Policy) -> RuleTables:
    """Compile *policy*. Pure and deterministic: equal policies give equal tables."""
    rules = policy.deny + policy.allow + policy.inbound
    outbound = len(policy.deny) + len(policy.allow)
    sets = IntervalSets(rules)
    numbers: dict[int, int] = {sets.EMPTY: 0}
    tables = [
        tuple(
            TableEntry(
                address=(key >> 8).to_bytes(16, "big"),
                prefix_length=key & 0xFF,
                interval_set=numbers.setdefault(found, len(numbers)),
            )
            for key, found in _flatten(rules, indexes, blocks, sets)
        )
        for indexes, blocks in (
            (range(outbound), ALL_BLOCKS),
            (range(outbound, len(rules)), ()),
        )
    ]
    return RuleTables(
        rules=rules,
        outbound=tables[0],
        inbound=tables[1],
        interval_sets=tuple(sets.intervals(found) for found in numbers),
        protocols=extra_protocols(policy.allow + policy.inbound),
    )


def extra_protocols(rules: Iterable[Rule]) -> tuple[int, ...]:
    """Return the protocols beyond TCP and UDP that *rules* name, sorted."""
    named = {r.first >> 16 for rule in rules for r in rule.ports}
    return tuple(sorted(named - {L4Protocol.TCP, L4Protocol.UDP}))


def _key(network: IPNetwork) -> int:
    """Return a number that sorts by address, then length, IPv4 as its mapped prefix."""
    address = int(network.network_address)
    if network.version == 4:
        return (_V4_BITS | address) << 8 | 96 + network.prefixlen
    return address << 8 | network.prefixlen


@dataclass(frozen=True, slots=True)
class _Node:
    """A prefix on the stack: what holds for its addresses, as ids of interval sets."""

    last: int
    """Its last address."""
    deny: int
    allow: int
    """Allow and inbound rules."""
    both: int


def _flatten(
    rules: Sequence[Rule], indexes: range, blocks: Sequence[IPNetwork], sets: IntervalSets
) -> Iterable[tuple[int, int]]:
    """Yield (key, interval set id) for each entry the table needs, sorted by key."""
    members: dict[int, list[int]] = {_ROOT: [], _V4_ROOT: []}
    for block in blocks:
        members.setdefault(_key(block), [])
    for index in indexes:
        for prefix in rules[index].prefixes:
            members.setdefault(_key(prefix.network), []).append(index)
    closed = {_key(block) for block in blocks}
    stack: list[_Node] = []
    for key in sorted(members):
        address, length = key >> 8, key & 0xFF
        while stack and stack[-1].last < address:
            stack.pop()
        # What IPv6 prefixes say ends at the IPv4 addresses, which have prefixes of their own.
        apart = key in (_ROOT, _V4_ROOT)
        deny = sets.EMPTY if apart else stack[-1].deny
        # What wider prefixes allow ends at a reserved block.
        allow = sets.EMPTY if apart or key in closed else stack[-1].allow
        denying = [i for i in members[key] if rules[i].section is Section.DENY]
        allowing = [i for i in members[key] if rules[i].section is not Section.DENY]
        deny = sets.join(deny, sets.join_all([sets.of_rule(i) for i in denying]))
        allow = sets.join(allow, sets.join_all([sets.of_rule(i) for i in allowing]))
        both = sets.join(deny, allow)
        if apart or both != stack[-1].both:
            yield key, both
        last = address | (1 << 128 - length) - 1
        stack.append(_Node(last, deny, allow, both))


def find(tables: RuleTables, direction: Direction, remote: Endpoint, port: int) -> Interval | None:
    """Look (*remote*, *port*) up as the kernel does; None if no rule matches.

    Args:
        tables: Compiled policy.
        direction: Chooses the table.
        remote: The other end; its own port is not used.
        port: What rules' ports speak of: the remote port for OUT, the sandbox's for IN.
    """
    outbound = direction is Direction.OUT
    entries = tables.outbound if outbound else tables.inbound
    found_at = destination(remote.address) if outbound else canonical(remote.address)
    address = int.from_bytes(key_bytes(found_at), "big")
    place = selector(remote.protocol, port)
    for length in range(128, -1, -1):
        masked = (address >> 128 - length << 128 - length).to_bytes(16, "big")
        at = bisect_left(entries, (masked, length), key=lambda e: (e.address, e.prefix_length))
        if at < len(entries) and (entries[at].address, entries[at].prefix_length) == (
            masked,
            length,
        ):
            found = tables.interval_sets[entries[at].interval_set]
            return next((i for i in found if i.first <= place <= i.last), None)
    return None
