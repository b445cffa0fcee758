# SPDX-License-Identifier: Apache-2.0
"""A policy to rule tables: nested prefixes flattened, all precedence resolved.

The kernel takes the longest prefix that holds an address and looks no further, so each entry must
hold what every wider prefix says as well. Prefixes and reserved blocks are walked in sorted order
with a stack of those that enclose the current one: near-linear in rules.

Precedence needs no more than the order of :attr:`~agentwall.policy.tables.RuleTables.rules` (deny,
the declared DNS servers, allow, inbound, each in policy order): of all rules that match, the lowest
index decides. Rules on names make a table of their own: :mod:`agentwall.policy.names`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
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
from agentwall.policy.names import NameRow, flatten_names
from agentwall.policy.resolver import resolver_rule
from agentwall.policy.tables import Interval, NameEntry, RuleTables, TableEntry

_V4_BITS = int(V4_MAPPED.network_address)
_ROOT = 0
_V4_ROOT = _V4_BITS << 8 | V4_MAPPED.prefixlen


def compile_policy(policy: Policy) -> RuleTables:
    """Compile *policy*. Pure and deterministic: equal policies give equal tables."""
    resolver = resolver_rule(policy)
    outward = policy.deny + ((resolver,) if resolver else ()) + policy.allow
    rules = outward + policy.inbound
    search = policy.dns.search if policy.dns else ()
    has_names = resolver is not None or any(rule.patterns for rule in outward)
    sets = IntervalSets(rules)
    numbers = _Numbers()
    return RuleTables(
        rules=rules,
        outbound=tuple(
            numbers.entry(node)
            for node in _flatten(rules, range(len(outward)), ALL_BLOCKS, sets, has_names)
        ),
        inbound=tuple(
            numbers.entry(node)
            for node in _flatten(rules, range(len(outward), len(rules)), (), sets, False)
        ),
        names=tuple(map(numbers.name, flatten_names(outward, search, sets))),
        search=search,
        interval_sets=tuple(map(sets.intervals, numbers)),
        protocols=extra_protocols(policy.allow + policy.inbound),
    )


class _Numbers(dict[int, int]):
    """Ids of interval sets -> their places in the tables, in order of first use; empty is 0."""

    def __init__(self) -> None:
        super().__init__({IntervalSets.EMPTY: 0})

    def __missing__(self, found: int) -> int:
        self[found] = place = len(self)
        return place

    def entry(self, node: _Node) -> TableEntry:
        return TableEntry(
            address=(node.key >> 8).to_bytes(16, "big"),
            prefix_length=node.key & 0xFF,
            interval_set=self[node.both],
            closed=node.closed,
        )

    def name(self, row: NameRow) -> NameEntry:
        exact, label, below = row.sets
        return NameEntry(
            name=row.name, exact=self[exact], label=self[label], below=self[below], asks=row.asks
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

    key: int
    last: int
    """Its last address."""
    deny: int
    allow: int
    """Rules of all other sections."""
    both: int
    closed: bool
    """See :attr:`~agentwall.policy.tables.TableEntry.closed`."""


def _flatten(
    rules: Sequence[Rule],
    indexes: range,
    blocks: Sequence[IPNetwork],
    sets: IntervalSets,
    has_names: bool,
) -> Iterator[_Node]:
    """Yield each entry the table needs, sorted by key.

    Only with *has_names* does it matter, and is it said, which blocks are closed.
    """
    members: dict[int, list[int]] = {_ROOT: [], _V4_ROOT: []}
    for block in blocks:
        members.setdefault(_key(block), [])
    for index in indexes:
        for prefix in rules[index].prefixes:
            members.setdefault(_key(prefix.network), []).append(index)
    reserved = {_key(block) for block in blocks}
    stack: list[_Node] = []
    for key in sorted(members):
        while stack and stack[-1].last < key >> 8:
            stack.pop()
        # What IPv6 prefixes say ends at the IPv4 addresses, which have prefixes of their own.
        apart = key in (_ROOT, _V4_ROOT)
        deny = sets.EMPTY if apart else stack[-1].deny
        # What wider prefixes allow ends at a reserved block.
        ends = apart or key in reserved
        allow = sets.EMPTY if ends else stack[-1].allow
        closed = has_names and key in reserved if ends else stack[-1].closed
        speaking = members[key]
        deny = sets.join(
            deny, sets.join_all([sets.of_rule(i) for i in speaking if _denies(rules[i])])
        )
        allow = sets.join(
            allow, sets.join_all([sets.of_rule(i) for i in speaking if not _denies(rules[i])])
        )
        closed = closed and not any(opens_blocks(rules[i]) for i in speaking)
        last = key >> 8 | (1 << 128 - (key & 0xFF)) - 1
        node = _Node(key, last, deny, allow, sets.join(deny, allow), closed)
        if apart or (node.both, closed) != (stack[-1].both, stack[-1].closed):
            yield node
        stack.append(node)


def _denies(rule: Rule) -> bool:
    return rule.section is Section.DENY


def opens_blocks(rule: Rule) -> bool:
    """Say whether *rule* opens its prefixes in reserved blocks to names that resolve there.

    Declared DNS servers and proxies are there to be asked, not to be what a name stands for.
    """
    return rule.section is Section.ALLOW and not rule.is_proxy


def find(tables: RuleTables, direction: Direction, remote: Endpoint, port: int) -> Interval | None:
    """Look (*remote*, *port*) up as the kernel does; None if no rule matches.

    Args:
        tables: Compiled policy.
        direction: Chooses the table.
        remote: The other end; its own port is not used.
        port: What rules' ports speak of: the remote port for OUT, the sandbox's for IN.
    """
    entry = find_entry(tables, direction, remote)
    place = selector(remote.protocol, port)
    found = tables.interval_sets[entry.interval_set]
    return next((i for i in found if i.first <= place <= i.last), None)


def find_entry(tables: RuleTables, direction: Direction, remote: Endpoint) -> TableEntry:
    """Return the entry of the longest prefix that holds the address of *remote*."""
    outbound = direction is Direction.OUT
    entries = tables.outbound if outbound else tables.inbound
    found_at = destination(remote.address) if outbound else canonical(remote.address)
    address = int.from_bytes(key_bytes(found_at), "big")
    for length in range(128, -1, -1):
        wanted = ((address >> 128 - length << 128 - length).to_bytes(16, "big"), length)
        at = bisect_left(entries, wanted, key=lambda e: (e.address, e.prefix_length))
        if at < len(entries) and (entries[at].address, entries[at].prefix_length) == wanted:
            return entries[at]
    raise AssertionError("tables always hold ::/0")
