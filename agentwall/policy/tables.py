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
    """Index into :attr:`RuleTables.rules`."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTables:
    """A compiled policy."""

    rules: tuple[Rule, ...]
    """Deny rules, then allow rules, then inbound rules, each in policy order."""
    outbound: tuple[TableEntry, ...]
    """Sorted by (address, prefix_length). Always holds ``::/0`` and ``::ffff:0:0/96``."""
    inbound: tuple[TableEntry, ...]
    interval_sets: tuple[tuple[Interval, ...], ...]
    """Each sorted, disjoint, adjacent equals merged. Shared by both tables; set 0 is empty."""
    protocols: tuple[int, ...]
    """IP protocols beyond TCP and UDP that allow and inbound rules name (1 and 58 for ``icmp``)."""
