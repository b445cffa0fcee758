# SPDX-License-Identifier: Apache-2.0
"""How much one wall can hold: the sizes of its maps."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much one wall can hold."""

    prefixes: int = 262_144
    """Over all generations and both directions."""
    intervals: int = 65_536
    """Over all generations."""
    names: int = 262_144
    """Of rules and search lists, over all generations."""
    known: int = 65_536
    """Names that sandboxes resolved."""
    bound: int = 131_072
    """Addresses that sandboxes learned."""
    sandboxes: int = 4096
    flows: int = 65_536
    """Permitted flows between two calls of :meth:`~agentwall.kernel.wall.Wall.totals`."""
    denial_ring_bytes: int = 1 << 20
    """A power of two, at least a page; 7 000 events fill 1 MiB, or 2 500 that say a name."""
    flow_ring_bytes: int = 1 << 20

    def entries(self) -> dict[str, int]:
        """Return ``max_entries`` by map."""
        return {
            "aw_rules": self.prefixes,
            "aw_intervals": self.intervals,
            "aw_names": self.names,
            "aw_known": self.known,
            "aw_bound": self.bound,
            "aw_slots": self.sandboxes,
            "aw_sandboxes": 2 * self.sandboxes,
            "aw_counters": self.sandboxes + 1,
            "aw_flow_table": self.flows,
            "aw_denials": self.denial_ring_bytes,
            "aw_flows": self.flow_ring_bytes,
        }


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as the hard limit permits; return how many.

    A sandbox takes one for each hook.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
