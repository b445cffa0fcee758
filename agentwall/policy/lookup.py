# SPDX-License-Identifier: Apache-2.0
"""Finds the most specific of many prefixes that holds an address."""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.net.endpoint import IPAddress
from agentwall.policy.model import RulePrefix

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
