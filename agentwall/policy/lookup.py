# SPDX-License-Identifier: Apache-2.0
"""Finds the most specific of many prefixes or patterns that holds an address or a name."""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.net.domain import NameDepth
from agentwall.net.endpoint import IPAddress
from agentwall.policy.model import RulePattern, RulePrefix

_BITS = {4: 32, 6: 128}


class PrefixIndex:
    """Prefixes by length, so that a look-up costs one probe per length in use."""

    def __init__(self, prefixes: Sequence[RulePrefix]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, RulePrefix]] = {}
        for prefix in prefixes:
            network = prefix.network
            table = self._by_length.setdefault((network.version, network.prefixlen), {})
            table.setdefault(int(network.network_address), prefix)
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, address: IPAddress, longest: int = 128) -> RulePrefix | None:
        """Return the longest prefix of at most *longest* bits that holds *address*, or None.

        Of equal prefixes the first one given is returned.
        """
        value, bits = int(address), _BITS[address.version]
        for version, length in self._lengths:
            if version != address.version or length > longest:
                continue
            shift = bits - length
            if found := self._by_length[version, length].get(value >> shift << shift):
                return found
        return None


class PatternIndex:
    """Patterns by depth and name, so that a look-up costs a few probes per label of the name."""

    def __init__(self, patterns: Sequence[RulePattern]) -> None:
        self._by_depth: dict[NameDepth, dict[str, RulePattern]] = {d: {} for d in NameDepth}
        for found in patterns:
            self._by_depth[found.pattern.depth].setdefault(found.pattern.name, found)

    def find(self, name: str) -> RulePattern | None:
        """Return the pattern with the longest name that holds *name*, or None.

        ``*.x`` goes before ``**.x``; of equal patterns the first one given is returned.
        """
        if found := self._by_depth[NameDepth.EXACT].get(name):
            return found
        _, _, above = name.partition(".")
        if found := self._by_depth[NameDepth.LABEL].get(above):
            return found
        while above:
            if found := self._by_depth[NameDepth.BELOW].get(above):
                return found
            _, _, above = above.partition(".")
        return None
