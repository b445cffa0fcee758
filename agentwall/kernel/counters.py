# SPDX-License-Identifier: Apache-2.0
"""What the programs counted for a sandbox. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentwall.kernel import abi


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What was counted for one sandbox since it was bound: ``struct aw_counters``."""

    denied: int
    """Every refusal, reported or not."""
    would_denied: int
    probes: int
    """UDP connect() refused, which sends nothing; getaddrinfo does it."""
    lost_denials: int
    """Refusals and matches that found no room, or were more than a sandbox may report at a time."""
    lost_flows: int
    lost_totals: int
    lost_names: int
    """Addresses in answers that found no room, or were more than one name may have."""
    lost_excerpts: int
    """Packets of flows for the decoders that found no room on their way to them."""
    matches: int
    """Of signatures, reported or not."""
    lost_hellos: int = 0
    """TLS sessions of which nobody was told: they were too many at a time."""


def unpack_counters(raw: bytes) -> Counters:
    """Return *raw*, a ``struct aw_counters``, as counters."""
    counted = abi.Counters.from_buffer_copy(raw)
    return Counters(**{field.name: getattr(counted, field.name) for field in fields(Counters)})
