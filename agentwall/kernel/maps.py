# SPDX-License-Identifier: Apache-2.0
"""Rule tables and sandbox settings -> the kernel's maps, in an order that fails closed.

``policy/tables.py`` is what goes in, ``bpf/decide.bpf.h`` reads what comes out. Intervals are
written before the prefixes that point at them, and a sandbox may be bound only to a generation
that is complete; until then its entry is absent, which denies.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from dataclasses import dataclass

from agentwall.errors import KernelError
from agentwall.flow.verdict import Mode
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.slices import SliceAllocator
from agentwall.policy.model import LoopbackScope
from agentwall.policy.tables import Interval, RuleTables, TableEntry

MAX_GENERATION = 0x7FFF_FFFF
"""``aw_rule_key.table`` is the generation shifted by the direction's bit."""
MAX_SET = 1 << 17
"""AW_SEARCH_STEPS in bpf/decide.bpf.h searches sets of at most this many intervals."""

_RULE_KEY = struct.Struct("=II16s")
_INTERVAL_SET = struct.Struct("=II")
_INTERVAL = struct.Struct("=IIII")
_INDEX = struct.Struct("=I")
_SANDBOX = struct.Struct("=IHBB8s")
_VERDICT_OF = {True: abi.Verdict.ALLOW.value, False: abi.Verdict.DENY.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """The one entry that decides how a sandbox is judged: ``struct aw_sandbox``."""

    generation: int
    """Which rules; never reused, so that no socket's old verdict can match."""
    mode: Mode
    loopback: LoopbackScope
    refuse_errno: int
    """Positive errno that a refused system call returns; kernels before 5.18 return EPERM."""
    protocols: tuple[int, ...] = ()
    """IP protocols beyond TCP and UDP: ``RuleTables.protocols``; at most 8."""


@dataclass(frozen=True, slots=True)
class _Written:
    start: int
    intervals: int
    keys: bytes


class RuleMaps:
    """``aw_rules`` and ``aw_intervals``: which generations they hold, and where."""

    def __init__(self, rules: BpfMap, intervals: BpfMap) -> None:
        self._rules = rules
        self._intervals = intervals
        self._slices = SliceAllocator(intervals.shape.max_entries)
        self._written: dict[int, _Written] = {}

    def holds(self, generation: int) -> bool:
        """Say whether *generation* is complete."""
        return generation in self._written

    def apply(self, generation: int, tables: RuleTables) -> None:
        """Write a generation. Nothing points at it yet; a failure leaves nothing of it behind.

        Raises:
            KernelError: ENOSPC: more entries than there is room for; EEXIST: the generation is
                there already, and generations are never reused.
        """
        self._expect_new(generation)
        total = sum(len(intervals) for intervals in tables.interval_sets)
        prefixes = len(tables.outbound) + len(tables.inbound)
        self._expect_room(prefixes, total, tables)
        start = self._slices.allocate(total)
        if start is None:
            raise _no_room("intervals in one piece", total, self._slices.available)
        keys, values = pack_rules(generation, tables, start)
        self._written[generation] = _Written(start, total, keys)
        try:
            indexes = b"".join(map(_INDEX.pack, range(start, start + total)))
            self._intervals.update_batch(indexes, pack_intervals(tables))
            self._rules.update_batch(keys, values)
        except KernelError:
            # Should that fail too, the slice stays taken: entries may still point at it.
            with contextlib.suppress(KernelError):
                self.forget(generation)
            raise

    def forget(self, generation: int) -> None:
        """Remove a generation to which no sandbox is bound; unknown ones are passed over."""
        written = self._written.pop(generation, None)
        if written:
            self._rules.delete_batch(written.keys)
            self._slices.release(written.start, written.intervals)

    def _expect_new(self, generation: int) -> None:
        if not 0 < generation <= MAX_GENERATION:
            raise KernelError(
                errno.EINVAL, f"generation: expected 1-{MAX_GENERATION}, got {generation}"
            )
        if self.holds(generation):
            raise KernelError(errno.EEXIST, f"generation {generation}: already in use")

    def _expect_room(self, prefixes: int, intervals: int, tables: RuleTables) -> None:
        size = self._rules.shape.key_size
        used = sum(len(written.keys) // size for written in self._written.values())
        free = self._rules.shape.max_entries - used
        if prefixes > free:
            raise _no_room("prefixes", prefixes, free)
        if intervals > self._slices.available:
            raise _no_room("intervals", intervals, self._slices.available)
        longest = max((len(found) for found in tables.interval_sets), default=0)
        if longest > MAX_SET:
            raise _no_room("intervals for one prefix", longest, MAX_SET)


def _no_room(what: str, needed: int, free: int) -> KernelError:
    return KernelError(
        errno.ENOSPC, f"rule tables: the policy needs {needed} {what}, and {free} are free"
    )


def pack_intervals(tables: RuleTables) -> bytes:
    """Return every interval as ``struct aw_interval``, set after set."""
    return b"".join(
        _INTERVAL.pack(found.first, found.last, found.rule, _VERDICT_OF[found.allow])
        for intervals in tables.interval_sets
        for found in intervals
    )


def pack_rules(generation: int, tables: RuleTables, start: int) -> tuple[bytes, bytes]:
    """Return the keys and values of ``aw_rules`` for both directions.

    Args:
        generation: 1 to :data:`MAX_GENERATION`.
        tables: What :func:`pack_intervals` was given.
        start: Where in ``aw_intervals`` the first set begins.
    """
    sets: list[bytes] = []
    for intervals in tables.interval_sets:
        sets.append(_pack_set(start, intervals))
        start += len(intervals)
    keys = _pack_keys(generation << 1 | abi.Direction.OUT, tables.outbound)
    keys += _pack_keys(generation << 1 | abi.Direction.IN, tables.inbound)
    values = [sets[entry.interval_set] for entry in (*tables.outbound, *tables.inbound)]
    return keys, b"".join(values)


def _pack_set(start: int, intervals: tuple[Interval, ...]) -> bytes:
    permits = abi.SET_PERMITS if any(found.allow for found in intervals) else 0
    return _INTERVAL_SET.pack(start, len(intervals) | permits)


def _pack_keys(table: int, entries: tuple[TableEntry, ...]) -> bytes:
    # prefixlen counts the 32 bits of the table as well.
    return b"".join(
        [_RULE_KEY.pack(32 + entry.prefix_length, table, entry.address) for entry in entries]
    )


def pack_settings(settings: SandboxSettings) -> bytes:
    """Return *settings* as ``struct aw_sandbox``.

    Raises:
        KernelError: More protocols than the struct has room for, or an errno that is none.
    """
    if len(settings.protocols) > abi.MAX_PROTOCOLS:
        raise KernelError(
            errno.ENOSPC,
            f"protocols: expected at most {abi.MAX_PROTOCOLS} beside tcp and udp, "
            f"got {len(settings.protocols)}",
        )
    if not 0 <= settings.refuse_errno < 4096:
        raise KernelError(
            errno.EINVAL, f"refuse_errno: expected 0-4095, got {settings.refuse_errno}"
        )
    return _SANDBOX.pack(
        settings.generation,
        settings.refuse_errno,
        abi.Mode[settings.mode.name],
        abi.Loopback[settings.loopback.name],
        bytes(settings.protocols),
    )
