# SPDX-License-Identifier: Apache-2.0
"""What sandboxes learned from DNS: names, and the addresses each was learned to have.

The programs write ``aw_known`` and ``aw_bound``; here they are read, and cleared of what is over.
An entry that is over no longer counts for the programs, so clearing is only about room.

Clearing races with programs that learn the same address again. bpf(2) cannot remove an entry only
if it is unchanged, so an entry is looked at, left alone until its last binding has been over for
:data:`MARGIN_NS` (whoever resolves a name anew does so about when its TTL ends, not a minute
later), then taken out together with its last value, and put back should that value have been
renewed in the microseconds between. The worst that is left is that an address resolved in exactly
those microseconds, after a minute of silence, is refused until it is resolved again: it fails
closed. Counts that programs add to are subtracted from atomically, never overwritten.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.decode import decode_name
from agentwall.kernel.subtract import Subtractor
from agentwall.net.endpoint import IPAddress, from_key_bytes

MARGIN_NS = 60 * 1_000_000_000
"""How long the last binding of an address must have been over before its entry is removed."""
KNOWN_NS = 24 * 3600 * 1_000_000_000
"""How long a name without addresses stays known, for the events and totals still to come."""
KNOWN_WHEN_FULL_NS = 3600 * 1_000_000_000
"""The same while the map is more than half full."""

KNOWN_KEY = struct.Struct("=QQ")
"""``struct aw_known_key``."""
KNOWN = struct.Struct(f"=4xI8sQIH{abi.NAME_LEN}s4x")
"""``struct aw_known`` without its lock."""
BOUND_KEY = struct.Struct("=Q16s")
"""``struct aw_bound_key``."""
BOUND = struct.Struct("=8x" + "QQ" * abi.NAMES_OF_ADDRESS)
"""``struct aw_bound`` without its lock."""

_MAX_CACHED = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """One address that a sandbox learned under one name."""

    name: str
    address: IPAddress
    until_ns: int
    """CLOCK_BOOTTIME; it may be over."""


class LearnedNames:
    """``aw_known`` and ``aw_bound``; :meth:`close` gives back what clearing needs."""

    def __init__(self, known: BpfMap, bound: BpfMap, counters: BpfMap) -> None:
        self._known = known
        self._bound = bound
        self._addresses = Subtractor(known, abi.Known.addresses.offset, 4)
        self._bound_count = Subtractor(counters, abi.Counters.bound.offset, 8)
        self._cache: dict[tuple[int, int], str] = {}

    def name_of(self, sandbox: SandboxKey, name_hash: int) -> str | None:
        """Return the name that *sandbox* resolved under this hash, or None if it is not known."""
        found = self._cache.get((sandbox, name_hash))
        if found is None:
            raw = self._known.lookup(KNOWN_KEY.pack(sandbox, name_hash))
            if raw is None:
                return None
            found = _name(raw)
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[sandbox, name_hash] = found
        return found

    def learned(self, sandbox: SandboxKey) -> list[Learned]:
        """Return what *sandbox* learned and has not been cleared yet, by name and address."""
        found = []
        for key, value in _entries(self._bound):
            owner, address = BOUND_KEY.unpack(key)
            if owner != sandbox:
                continue
            for name_hash, until_ns in _bindings(value):
                name = self.name_of(sandbox, name_hash)
                if name is not None:
                    where = from_key_bytes(address)
                    found.append(Learned(name=name, address=where, until_ns=until_ns))
        return sorted(found, key=lambda one: (one.name, one.address.version, one.address))

    def expire(self, now_ns: int) -> None:
        """Remove what is over.

        Args:
            now_ns: CLOCK_BOOTTIME.

        Raises:
            KernelError: The kernel refuses; what is over counts no longer anyway.
        """
        in_use = self._expire_bound(now_ns)
        self._expire_known(now_ns, in_use)

    def _expire_bound(self, now_ns: int) -> set[bytes]:
        """Remove addresses; return the keys of the names that the others are bound to."""
        before_ns = now_ns - MARGIN_NS
        in_use: set[bytes] = set()
        names: Counter[bytes] = Counter()
        addresses: Counter[bytes] = Counter()
        for key, value in _entries(self._bound):
            sandbox = BOUND_KEY.unpack(key)[0]
            taken = self._take_over(key, before_ns) if _is_over(value, before_ns) else None
            if taken is None:
                in_use.update(_names_in(sandbox, value))
                continue
            addresses[key[:8]] += 1
            names.update(_names_in(sandbox, taken))
        for name, count in names.items():
            self._addresses.subtract(name, count)
        for sandbox_key, count in addresses.items():
            self._bound_count.subtract(sandbox_key, count)
        return in_use

    def _take_over(self, key: bytes, before_ns: int) -> bytes | None:
        """Remove an address and return its last value, or None where it stays."""
        taken = self._bound.take(key)
        if taken is None or _is_over(taken, before_ns):
            return taken
        # Learned again by a program meanwhile, into an entry of its own: that one stands.
        return None if self._bound.add(key, taken) else taken

    def _expire_known(self, now_ns: int, in_use: set[bytes]) -> None:
        entries = _entries(self._known)
        is_full = len(entries) > self._known.shape.max_entries // 2
        before_ns = now_ns - (KNOWN_WHEN_FULL_NS if is_full else KNOWN_NS)
        for key, value in entries:
            if key in in_use or not _is_forgotten(value, before_ns):
                continue
            taken = self._known.take(key)
            if taken is not None and not _is_forgotten(taken, before_ns):
                self._known.add(key, taken)
            else:
                self._cache.pop(KNOWN_KEY.unpack(key), None)

    def drop(self, sandbox: SandboxKey) -> None:
        """Remove everything of a *sandbox* that no program judges any more."""
        for bpf_map in (self._bound, self._known):
            keys = (key for key, _ in _entries(bpf_map))
            bpf_map.delete_batch(b"".join(_keys_of(sandbox, keys)))
        for cached in [cached for cached in self._cache if cached[0] == sandbox]:
            del self._cache[cached]

    def close(self) -> None:
        """Give back the programs that subtract."""
        self._addresses.close()
        self._bound_count.close()


def _entries(bpf_map: BpfMap) -> list[tuple[bytes, bytes]]:
    # Mostly there are none, and then reading a batch would cost the most.
    if next(bpf_map.keys(), None) is None:
        return []
    return bpf_map.entries(locked=True)


def _keys_of(sandbox: SandboxKey, keys: Iterable[bytes]) -> Iterator[bytes]:
    start = struct.pack("=Q", sandbox)
    return (key for key in keys if key.startswith(start))


def _bindings(value: bytes) -> list[tuple[int, int]]:
    numbers = BOUND.unpack(value)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [(name, until_ns) for name, until_ns in pairs if name]


def _names_in(sandbox: int, value: bytes) -> set[bytes]:
    return {KNOWN_KEY.pack(sandbox, name) for name, _ in _bindings(value)}


def _is_over(value: bytes, before_ns: int) -> bool:
    return all(until_ns < before_ns for _, until_ns in _bindings(value))


def _is_forgotten(value: bytes, before_ns: int) -> bool:
    _, _, seen_ns, addresses, *_ = KNOWN.unpack(value)
    return not addresses and seen_ns < before_ns


def _name(value: bytes) -> str:
    *_, length, text = KNOWN.unpack(value)
    return decode_name(text[:length])
