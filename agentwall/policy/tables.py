# SPDX-License-Identifier: Apache-2.0
"""Rule tables: a policy in the shape of the kernel's maps, still pure and host independent.

``compile`` makes them, ``kernel/maps.py`` writes them. The kernel decides on one flow by one
longest-prefix lookup (prefix -> interval set) and a binary search in that set; all precedence is
resolved here.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.policy.model import Rule


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """The verdict for a range of selectors (``protocol << 16 | port``): ``struct aw_interval``."""

    first: int
    last: int
    rule: int
    """Index into :attr:`RuleTables.rules`; its section and terms become ``AW_TERM_*``."""
    allow: bool


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One prefix of the longest-prefix table. It is complete: it holds what wider prefixes say."""

    address: bytes
    """16 bytes, network byte order, IPv4 as ``::ffff:a.b.c.d``; host bits are zero."""
    prefix_length: int
    """0-128: an IPv4 prefix of length n has 96 + n."""
    interval_set: int
    """Index into :attr:`RuleTables.interval_sets`."""
    closed: bool = False
    """A reserved block that no allow rule on addresses opens, on whatever port: a name that
    resolves to it opens nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """One name of the name table. It is complete: it holds what shorter names say."""

    name: str
    """In the one form of :mod:`agentwall.net.domain`."""
    exact: int
    """Index into :attr:`RuleTables.interval_sets`: what holds for the name itself."""
    label: int
    """What holds for names one label below it."""
    below: int
    """What holds for names further below it."""
    asks: tuple[bool, bool, bool] = (False, False, False)
    """Whether a name at each of these depths may be asked for though nothing allows it: the search
    list of a permitted short name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTables:
    """A compiled policy."""

    rules: tuple[Rule, ...]
    """Deny rules, the rule of the declared DNS servers, allow rules, inbound rules, each in policy
    order: of all that match, the lowest index decides."""
    outbound: tuple[TableEntry, ...]
    """Sorted by (address, prefix_length). Always holds ``::/0`` and ``::ffff:0:0/96``."""
    inbound: tuple[TableEntry, ...]
    interval_sets: tuple[tuple[Interval, ...], ...]
    """Each sorted, disjoint, adjacent equals merged. Shared by all tables; set 0 is empty."""
    names: tuple[NameEntry, ...] = ()
    """Sorted by :func:`~agentwall.net.domain.name_key`."""
    search: tuple[str, ...] = ()
    """``dns.search``; of a name that ends in one of them, the rest may be what is permitted."""
    protocols: tuple[int, ...]
    """IP protocols beyond TCP and UDP that allow and inbound rules name (1 and 58 for ``icmp``)."""
