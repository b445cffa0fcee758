# SPDX-License-Identifier: Apache-2.0
"""Where an address lies, as behaviour rules ask of every record: quickly. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from agentwall.net.endpoint import Endpoint, IPAddress, IPNetwork, canonical
from agentwall.net.reserved import ALL_BLOCKS


def _joined(blocks: Iterable[IPNetwork]) -> tuple[list[int], list[int]]:
    """Return the first and the last numbers of *blocks*, overlapping ones as one, rising."""
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted((int(b.network_address), int(b.broadcast_address)) for b in blocks):
        if lasts and first <= lasts[-1]:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


_RANGES = {
    version: _joined(block for block in ALL_BLOCKS if block.version == version)
    for version in (4, 6)
}


def is_reserved(address: IPAddress) -> bool:
    """Say whether *address* lies in one of :data:`agentwall.net.reserved.ALL_BLOCKS`."""
    address = canonical(address)
    firsts, lasts = _RANGES[address.version]
    number = int(address)
    at = bisect_right(firsts, number) - 1
    return at >= 0 and number <= lasts[at]


def shown(remote: Endpoint) -> str:
    """Return *remote* as people write it: ``10.0.0.1:22``, ``[fd00::1]:22``, ``10.0.0.1``."""
    address = str(remote.address)
    if not remote.port:
        return address
    return f"[{address}]:{remote.port}" if ":" in address else f"{address}:{remote.port}"
