# SPDX-License-Identifier: Apache-2.0
"""An automaton as the bytes that the kernel's table holds: what a process without numpy can write.

:func:`agentwall.detect.packing.pack_table` makes one, in a process that may be another than the one
that writes it into the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.detect.judging import MAX_GROUPS
from agentwall.detect.signature import Side, Transport

HAND_OVER = 1 << MAX_GROUPS
"""``AW_GROUP_HAND_OVER`` in ``bpf/signatures.h``: decoders are to see the flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTable:
    """``struct aw_signatures`` in parts. Numbers in the parts are in host byte order."""

    states: int
    first_accepting: int
    """States from here on have matched."""
    starts: Mapping[tuple[Transport, Side], int]
    """Where each kind of stream begins."""
    accepts: tuple[tuple[int, ...], ...]
    """Sets of indices into ``SignatureSet.signatures``; what ``Match.accept`` leads to."""
    masks: tuple[tuple[int, int], ...]
    """For each of :attr:`accepts` the bits of its groups, and of those that are certain;
    :data:`HAND_OVER` among the first."""
    accept_of: bytes
    """By state, 16 bits each: index into :attr:`accepts`."""
    end_of: bytes
    """By state, 16 bits each: index into :attr:`accepts` if a datagram ends there."""
    base: bytes
    """By state, 32 bits each: index into :attr:`next`."""
    next: bytes
    """Cells, 16 bits each."""
    group_of: bytes
    """By state, 8 bits each: index into :attr:`classes`."""
    classes: bytes
    """256 bytes for each group of states."""
