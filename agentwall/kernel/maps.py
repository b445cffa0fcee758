# SPDX-License-Identifier: Apache-2.0
"""Rule tables and sandbox settings -> the kernel's maps, in an order that fails closed.

``policy/tables.py`` is what goes in, ``bpf/decide.bpf.h`` reads what comes out. Intervals are
written before the prefixes and names that point at them, and a sandbox may be bound only to a
generation that is complete; until then its entry is absent, which denies.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.grace import wait_for_programs
from agentwall.kernel.names import NO_SLOT, SlotAllocator, count_names, pack_names
from agentwall.kernel.signatures import Inspection, pack_inspection
from agentwall.kernel.slices import SliceAllocator
from agentwall.policy.model import AskScope, DnsSettings, Inspect, LoopbackScope, Rule, Section
from agentwall.policy.tables import RuleTables, TableEntry

MAX_GENERATION = 0x7FFF_FFFF
"""``aw_rule_key.table`` is the generation shifted by the direction's bit."""
MAX_SET = 1 << 17
"""AW_SEARCH_STEPS in bpf/decide.bpf.h searches sets of at most this many intervals."""

_RULE_KEY = struct.Struct("=II16s")
_INTERVAL_SET = struct.Struct("=II")
_INTERVAL = struct.Struct("=IIII")
_INDEX = struct.Struct("=I")
SANDBOX = struct.Struct("=QQQQQIIIIHHBBB8sBBB6x")
"""``struct aw_sandbox``."""
_MAX_U32 = 0xFFFF_FFFF
_MAX_U64 = 0xFFFF_FFFF_FFFF_FFFF
_VERDICT_OF = {True: abi.Verdict.ALLOW.value, False: abi.Verdict.DENY.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What decides how a sandbox is judged: ``struct aw_sandbox``."""

    generation: int
    """Which rules; never reused, so that no socket's old verdict can match."""
    mode: Mode
    loopback: LoopbackScope
    refuse_errno: int
    """Positive errno that a refused system call returns; kernels before 5.18 return EPERM."""
    protocols: tuple[int, ...] = ()
    """IP protocols beyond TCP and UDP: ``RuleTables.protocols``; at most 8."""
    netns_cookie: int = 0
    """Of the network namespace that the sandbox is admitted with; 0: it has no DNS."""
    dns: DnsSettings | None = None
    has_names: bool = False
    """Whether rules name hosts."""
    answers_through_lo: bool = False
    """A declared server that is not on loopback is this host itself, so it answers through lo."""
    belt: bool = False
    """Something beside the cgroup answers refused questions (``AW_DNS_BELT``)."""
    inspection: Inspection | None = None
    """None: no signatures are looked for."""
    is_scope: bool = False
    """Judges what lies below its cgroup and belongs to no other bound sandbox: a default policy."""
    until_ns: int = 0
    """CLOCK_BOOTTIME: from then on *mode* is enforce, whoever is there to say so; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    start: int
    intervals: int
    keys: bytes
    slot: int
    names: bytes
    """Keys of ``aw_names``."""


class RuleMaps:
    """``aw_rules``, ``aw_names`` and ``aw_intervals``: which generations they hold, and where."""

    def __init__(self, rules: BpfMap, intervals: BpfMap, names: BpfMap) -> None:
        self._rules = rules
        self._intervals = intervals
        self._names = names
        self._slices = SliceAllocator(intervals.shape.max_entries)
        self._slots = SlotAllocator()
        self._written: dict[int, _Written] = {}
        self._resting: list[_Written] = []
        """Of forgotten generations: a program may still hold where their intervals and names were,
        and would take for its own what is written there next."""

    def holds(self, generation: int) -> bool:
        """Say whether *generation* is complete."""
        return generation in self._written

    def names_slot(self, generation: int) -> int:
        """Return which part of ``aw_names`` a complete *generation* has; 0 if it names no hosts."""
        return self._written[generation].slot

    def apply(self, generation: int, tables: RuleTables) -> None:
        """Write a generation. Nothing points at it yet; a failure leaves nothing of it behind.

        Raises:
            KernelError: ENOSPC: more entries than there is room for; EEXIST: the generation is
                there already, and generations are never reused.
        """
        self._expect_new(generation)
        total = sum(len(intervals) for intervals in tables.interval_sets)
        try:
            slot, start = self._allocate(total, tables)
        except KernelError:
            if not self._resting:
                raise
            self._reuse()
            slot, start = self._allocate(total, tables)
        keys, values = pack_rules(generation, tables, start)
        names, name_rules = pack_names(slot, tables, pack_sets(tables, start))
        self._written[generation] = _Written(
            start=start, intervals=total, keys=keys, slot=slot, names=names
        )
        try:
            indexes = b"".join(map(_INDEX.pack, range(start, start + total)))
            self._intervals.update_batch(indexes, pack_intervals(tables))
            self._names.update_batch(names, name_rules)
            self._rules.update_batch(keys, values)
        except KernelError:
            # Should that fail too, slice and slot stay taken: entries may still point at them.
            with contextlib.suppress(KernelError):
                self.forget(generation)
            raise

    def _allocate(self, total: int, tables: RuleTables) -> tuple[int, int]:
        """Return a part of the name table and a place for *total* intervals."""
        self._expect_room(total, tables)
        slot = self._slots.allocate() if count_names(tables) else NO_SLOT
        if slot is None:
            raise _no_room("part of the name table", 1, 0)
        start = self._slices.allocate(total)
        if start is None:
            self._slots.release(slot)
            raise _no_room("intervals in one piece", total, self._slices.available)
        return slot, start

    def _reuse(self) -> None:
        """Make room of what forgotten generations had, once no program can hold it."""
        wait_for_programs()
        resting, self._resting = self._resting, []
        for each in resting:
            self._slices.release(each.start, each.intervals)
            self._slots.release(each.slot)

    def forget(self, generation: int) -> None:
        """Remove a generation to which no sandbox is bound; unknown ones are passed over."""
        written = self._written.pop(generation, None)
        if written:
            try:
                self._rules.delete_batch(written.keys)
            finally:
                self._names.delete_batch(written.names)
            # Their keys are of no use any more.
            self._resting.append(replace(written, keys=b"", names=b""))

    def _expect_new(self, generation: int) -> None:
        if not 0 < generation <= MAX_GENERATION:
            raise KernelError(
                errno.EINVAL, f"generation: expected 1-{MAX_GENERATION}, got {generation}"
            )
        if self.holds(generation):
            raise KernelError(errno.EEXIST, f"generation {generation}: already in use")

    def _expect_room(self, intervals: int, tables: RuleTables) -> None:
        held = self._written.values()
        prefixes = len(tables.outbound) + len(tables.inbound)
        _expect_free("prefixes", prefixes, self._rules, (written.keys for written in held))
        _expect_free("names", count_names(tables), self._names, (written.names for written in held))
        if intervals > self._slices.available:
            raise _no_room("intervals", intervals, self._slices.available)
        longest = max((len(found) for found in tables.interval_sets), default=0)
        if longest > MAX_SET:
            raise _no_room("intervals for one prefix or name", longest, MAX_SET)


def _expect_free(what: str, needed: int, bpf_map: BpfMap, held: Iterable[bytes]) -> None:
    used = sum(len(keys) for keys in held) // bpf_map.shape.key_size
    if needed > bpf_map.shape.max_entries - used:
        raise _no_room(what, needed, bpf_map.shape.max_entries - used)


def _no_room(what: str, needed: int, free: int) -> KernelError:
    return KernelError(
        errno.ENOSPC, f"rule tables: the policy needs {needed} {what}, and {free} are free"
    )


def pack_intervals(tables: RuleTables) -> bytes:
    """Return every interval as ``struct aw_interval``, set after set."""
    # Terms are the rule's that allows; tables made by hand may do without rules, and have none.
    terms = [_terms_of(rule) for rule in tables.rules]
    return b"".join(
        _INTERVAL.pack(
            found.first,
            found.last,
            found.rule,
            _VERDICT_OF[found.allow] | (terms[found.rule] if terms and found.allow else 0),
        )
        for intervals in tables.interval_sets
        for found in intervals
    )


def _terms_of(rule: Rule) -> int:
    given = (
        (rule.section is Section.RESOLVER, abi.TERM_RESOLVER),
        (rule.terms.sni_optional, abi.TERM_SNI_OPTIONAL),
        (rule.terms.ech_outer, abi.TERM_ECH_OUTER),
        (rule.terms.quic, abi.TERM_QUIC),
        (rule.is_proxy, abi.TERM_PROXY),
        (rule.inspect is not Inspect.ALL, abi.TERM_UNREAD),
    )
    return sum(bit for is_given, bit in given if is_given)


def pack_rules(generation: int, tables: RuleTables, start: int) -> tuple[bytes, bytes]:
    """Return the keys and values of ``aw_rules`` for both directions.

    Args:
        generation: 1 to :data:`MAX_GENERATION`.
        tables: What :func:`pack_intervals` was given.
        start: Where in ``aw_intervals`` the first set begins.
    """
    opened = pack_sets(tables, start)
    closed = pack_sets(tables, start, flags=abi.SET_CLOSED)
    keys = _pack_keys(generation << 1 | abi.Direction.OUT, tables.outbound)
    keys += _pack_keys(generation << 1 | abi.Direction.IN, tables.inbound)
    values = [
        (closed if entry.closed else opened)[entry.interval_set]
        for entry in (*tables.outbound, *tables.inbound)
    ]
    return keys, b"".join(values)


def pack_sets(tables: RuleTables, start: int, *, flags: int = 0) -> list[bytes]:
    """Return each interval set as ``struct aw_interval_set``, with *flags* beside the count.

    Args:
        tables: What :func:`pack_intervals` was given.
        start: Where in ``aw_intervals`` the first set begins.
        flags: Of ``AW_SET_*``; whether the set permits something is added.
    """
    sets: list[bytes] = []
    for intervals in tables.interval_sets:
        permits = abi.SET_PERMITS if any(found.allow for found in intervals) else 0
        sets.append(_INTERVAL_SET.pack(start, len(intervals) | permits | flags))
        start += len(intervals)
    return sets


def _pack_keys(table: int, entries: tuple[TableEntry, ...]) -> bytes:
    # prefixlen counts the 32 bits of the table as well.
    return b"".join(
        [_RULE_KEY.pack(32 + entry.prefix_length, table, entry.address) for entry in entries]
    )


def pack_settings(
    sandbox: SandboxKey, settings: SandboxSettings, names_slot: int = NO_SLOT
) -> bytes:
    """Return *settings* as ``struct aw_sandbox``.

    Args:
        sandbox: Whose they are.
        settings: What holds for the sandbox.
        names_slot: :meth:`RuleMaps.names_slot` of its generation.

    Raises:
        KernelError: More protocols than the struct has room for, a number that does not fit its
            field, or DNS without the network namespace it is bound to.
    """
    if len(settings.protocols) > abi.MAX_PROTOCOLS:
        raise KernelError(
            errno.ENOSPC,
            f"protocols: expected at most {abi.MAX_PROTOCOLS} beside tcp and udp, "
            f"got {len(settings.protocols)}",
        )
    _expect_within("refuse_errno", settings.refuse_errno, 4095)
    _expect_within("until_ns", settings.until_ns, _MAX_U64)
    dns = settings.dns
    if dns is not None:
        _expect_within("dns.min_ttl", dns.min_ttl_s, _MAX_U32)
        _expect_within("dns.max_addresses", dns.max_addresses, _MAX_U32)
        if not settings.netns_cookie:
            raise KernelError(errno.EINVAL, "dns: expected the cookie of a network namespace")
    blocks, alerts, depth, signatures, plain = pack_inspection(settings.inspection)
    return SANDBOX.pack(
        sandbox,
        settings.netns_cookie if dns else 0,
        blocks,
        alerts,
        settings.until_ns,
        settings.generation,
        dns.min_ttl_s if dns else 0,
        dns.max_addresses if dns else 0,
        depth,
        settings.refuse_errno,
        names_slot,
        abi.Mode[settings.mode.name],
        abi.Loopback[settings.loopback.name],
        _dns_flags(settings),
        bytes(settings.protocols),
        signatures,
        settings.is_scope,
        plain,
    )


def _dns_flags(settings: SandboxSettings) -> int:
    dns = settings.dns
    if dns is None:
        return 0
    given = (
        (True, abi.DNS_DECLARED),
        (dns.names is AskScope.ANY, abi.DNS_ASK_ANY),
        (bool(dns.search), abi.DNS_SEARCH),
        (settings.has_names, abi.DNS_NAMES),
        (settings.answers_through_lo, abi.DNS_LOCAL),
        (settings.belt, abi.DNS_BELT),
    )
    return sum(bit for is_given, bit in given if is_given)


def _expect_within(what: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise KernelError(errno.EINVAL, f"{what}: expected 0-{most}, got {value}")
