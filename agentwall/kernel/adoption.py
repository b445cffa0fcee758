# SPDX-License-Identifier: Apache-2.0
"""How a wall takes the place of an earlier one, whose pins stay a complete wall until the end.

The two share the maps of what the kernel knows: identities, sockets, learned names. What user space
writes (rules, settings, signatures) each has for itself, so that every program keeps a whole set of
rules, the old one's until its link is updated. A kept map whose layout has changed is made anew if
it only holds what is to be reported, and read to its end; if verdicts need it, the new wall is
refused. At any moment the process may die: whatever is pinned then is a predecessor again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi, pins
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.counters import Counters
from agentwall.kernel.layout import Layout, number_in, of_ctypes, translate
from agentwall.kernel.links import pin
from agentwall.kernel.objects import BpfObject, MapDefinition, Program
from agentwall.kernel.predecessor import (
    CONSTANTS,
    EVENT_LAYOUTS,
    LAYOUTS,
    PinnedMap,
    Predecessor,
    next_staging,
    pin_event_layouts,
)
from agentwall.kernel.rings import Ring
from agentwall.kernel.subtract import Adder

IDENTITY = "aw_sandbox_id"
"""Its layout is frozen: a link can only be updated to a program with the same storage map."""
FOR_VERDICTS = (
    *("aw_sockets", "aw_known", "aw_bound", "aw_asked", "aw_streams", "aw_hellos", "aw_tails"),
)
"""Without what they hold, flows that were permitted would end."""
RING_NAMES = (*abi.RINGS, abi.EXCERPTS)
FOR_REPORTS = (
    *("aw_peers", "aw_counters", "aw_flow_table", *RING_NAMES),
    *("aw_plain_cgroups", "aw_plain_calls", "aw_plain_connections", "aw_plain_counters"),
    *("aw_plain_held", "aw_plain_dead", "aw_plain_next", "aw_plain_turns", "aw_plain_order"),
    *("aw_plain_marks", "aw_plain_reads"),
)
"""Made anew where they have changed; what the old ones report is read to its end."""
SECRETS = ("aw_hash_seed", "aw_belt_mark")
"""Constants that stay: ``aw_known`` has names by hashes of the first."""

_COUNTED = (*(field.name for field in fields(Counters)), "bound")
_FLOW_KEY, _FLOW = of_ctypes(abi.FlowKey), of_ctypes(abi.Flow)
_DRAIN_LIMIT = 16_384


@dataclass(slots=True, kw_only=True)
class Migration:
    """A map that could not be kept, and what became of what it held."""

    map: str
    why: str
    lost: int = 0
    """Entries that this version cannot read."""


def choose(
    bpf: BpfObject, predecessor: Predecessor
) -> tuple[dict[str, PinnedMap], list[Migration]]:
    """Return which maps of *predecessor* the object is to use, and those that changed.

    Raises:
        KernelError: EINVAL: one that verdicts need has changed, and nothing was touched.
    """
    kept: dict[str, PinnedMap] = {}
    migrations: list[Migration] = []
    definitions = bpf.definitions()
    for name in (IDENTITY, *FOR_VERDICTS, *FOR_REPORTS):
        for found in predecessor.maps(name) if name in definitions else []:
            change = _change(definitions[name], found, predecessor)
            if not change:
                kept.setdefault(name, found)
            elif name not in FOR_REPORTS:
                raise _refused(found, change)
            elif name not in kept and all(each.map != name for each in migrations):
                migrations.append(Migration(map=name, why=change))
    if IDENTITY not in kept:
        raise _refused_without(predecessor.pin_dir)
    return kept, [each for each in migrations if each.map not in kept]


def _change(wanted: MapDefinition, found: PinnedMap, predecessor: Predecessor) -> str:
    """What is different, in a few words; empty where nothing is that matters."""
    old, new, there = found.definition.shape, wanted.shape, found.definition
    for what, before, after in (
        ("type", int(old.type), int(new.type)),
        ("size of keys", old.key_size, new.key_size),
        ("size of values", old.value_size, new.value_size),
        ("flags", there.flags, wanted.flags),
    ):
        if before != after:
            return f"{what}: expected {after}, got {before}"
    # A map for verdicts keeps its size; one for reports can have the new one.
    if new.name in FOR_REPORTS and old.max_entries != new.max_entries:
        return f"size: expected {new.max_entries}, got {old.max_entries}"
    if new.name in RING_NAMES:
        same = predecessor.event_layouts(found) == EVENT_LAYOUTS
        return "" if same else "the layout of its events has changed"
    if new.name != IDENTITY and (there.key, there.value) != (wanted.key, wanted.value):
        return "the layout of its entries has changed"
    return ""


def _refused(found: PinnedMap, change: str) -> KernelError:
    name = found.definition.shape.name
    return KernelError(
        errno.EINVAL,
        f"{found.path}: {name}: {change}: this version cannot take over the sandboxes that are "
        "running; let them end first, or stay with the version that is in force",
    )


def _refused_without(pin_dir: Path) -> KernelError:
    return KernelError(
        errno.ENOENT,
        f"{pin_dir}: expected a pin of {IDENTITY}, got none: the sandboxes there cannot be taken "
        "over; let them end first",
    )


class Inheritance:
    """What a wall has from its predecessor until it has settled; to be closed."""

    def __init__(
        self, predecessor: Predecessor, kept: dict[str, PinnedMap], migrations: list[Migration]
    ) -> None:
        self._predecessor = predecessor
        self._kept = {name: found.id for name, found in kept.items()}
        self.migrations = migrations
        self.floor = predecessor.highest_generation()
        self.programs = predecessor.programs()
        self.staging = next_staging(predecessor.pin_dir)
        self._own: dict[str, set[str]] = {}
        self.last_table = predecessor.last_table()
        self._rings = [
            (name, Ring(found.map), predecessor.event_layouts(found))
            for name in RING_NAMES
            for found in self._left(name)
        ]

    def _left(self, name: str) -> list[PinnedMap]:
        """The maps of this name that are not the ones kept."""
        maps = self._predecessor.maps(name)
        return [found for found in maps if found.id != self._kept.get(name)]

    def _lose(self, name: str, why: str) -> None:
        for each in self.migrations:
            if each.map == name:
                each.lost += 1
                return
        self.migrations.append(Migration(map=name, why=why, lost=1))

    def records(self, *names: str) -> Iterator[bytes]:
        """Take what is in rings of these names that were not kept, as this version has it."""
        for name, ring, layouts in self._rings:
            for raw in ring.consume(_DRAIN_LIMIT) if name in names else []:
                made = _translated_event(raw, layouts)
                if made is None:
                    self._lose(name, "an event that this version does not know")
                else:
                    yield made

    def flows(self) -> Iterator[tuple[bytes, bytes]]:
        """Take the entries of flow tables that were not kept, as this version has them."""
        key, value = _FLOW_KEY, _FLOW
        for found in self._left("aw_flow_table"):
            old = found.definition
            for raw_key, raw_value in found.map.drain():
                try:
                    if old.key is None or old.value is None:
                        raise ValueError("no types")
                    made = translate(raw_key, old.key, key), translate(raw_value, old.value, value)
                except ValueError:
                    self._lose("aw_flow_table", "an entry that this version does not know")
                    continue
                yield made

    def lose_event(self, name: str) -> None:
        """Count one more that could not be decoded."""
        self._lose(name, "an event that this version does not know")

    def counted(self, sandbox: SandboxKey) -> dict[str, int]:
        """Return what counters that were not kept say of *sandbox*, by name."""
        found = dict.fromkeys(_COUNTED, 0)
        for left in self._left("aw_counters"):
            raw = left.map.lookup(sandbox.to_bytes(8, sys.byteorder))
            _add_counts(found, raw, left.definition.value)
        return found

    def move_counters(self, counters: BpfMap, sandboxes: list[SandboxKey]) -> None:
        """Add what counters that were not kept say to *counters*, where programs count as well.

        Raises:
            KernelError: The kernel refuses.
        """
        if not self._left("aw_counters"):
            return
        with contextlib.ExitStack() as stack:
            adders = {
                name: Adder(counters, getattr(abi.Counters, name).offset, 8) for name in _COUNTED
            }
            for adder in adders.values():
                stack.callback(adder.close)
            for sandbox in sandboxes:
                key = sandbox.to_bytes(8, sys.byteorder)
                counts = self.counted(sandbox)
                for left in self._left("aw_counters"):
                    left.map.delete(key)
                for name, count in counts.items():
                    if count:
                        adders[name].add(key, count)

    def prune(self) -> None:
        """Remove pins of walls that never took over, but for what a successor still needs.

        So that daemons which are killed again and again do not fill the kernel's memory. To be
        called when this wall's own pins are there.
        """
        marks = [found.path for found in self._predecessor.marks()]
        elsewhere = self._predecessor.ids_in_force() | set(self._kept.values())
        for found in self._predecessor.staged_maps():
            name = found.path.name
            is_read = name in FOR_REPORTS and found.id not in elsewhere
            is_about_one = name.startswith(LAYOUTS) and _ring_of(name) not in elsewhere
            if not (is_read or is_about_one or found.path in marks):
                found.path.unlink()
        for directory in self._predecessor.staged:
            for path in list((directory / pins.PROGRAMS).glob("*")):
                path.unlink()
            if not any((directory / pins.MAPS).glob("*")):
                remove_tree(directory)

    def settle(self) -> None:
        """Put the pins of the staging directory in the place of the predecessor's.

        Raises:
            KernelError: A pin cannot be moved or removed; call it again.
        """
        pin_dir = self._predecessor.pin_dir
        try:
            for kind in (pins.MAPS, pins.PROGRAMS):
                names = self._own.get(kind)
                if names is None:
                    names = self._own[kind] = set(os.listdir(self.staging / kind))
                for name in sorted(names):
                    if os.path.lexists(self.staging / kind / name):
                        os.rename(self.staging / kind / name, pin_dir / kind / name)
                for name in set(os.listdir(pin_dir / kind)) - names:
                    os.unlink(pin_dir / kind / name)
            for directory in (*self._predecessor.staged, self.staging):
                remove_tree(directory)
        except OSError as err:
            code = err.errno or errno.EIO
            raise KernelError(code, f"{pin_dir}: swap pins: {os.strerror(code).lower()}") from err

    def close(self) -> None:
        """Close what is still open of the predecessor."""
        for _, ring, _ in self._rings:
            ring.close()
        self._rings.clear()
        self._predecessor.close()


def _ring_of(name: str) -> int:
    text = name.removeprefix(LAYOUTS)
    return int(text) if text.isdecimal() else 0


def _add_counts(counts: dict[str, int], raw: bytes | None, value: Layout | None) -> None:
    if raw is None or value is None:
        return
    for name in counts:
        if value.member(name) is not None:
            counts[name] += number_in(raw, value, name)


def _translated_event(raw: bytes, layouts: dict[str, Layout]) -> bytes | None:
    for name, old in layouts.items():
        if old.size == len(raw) and name in EVENT_LAYOUTS:
            with contextlib.suppress(ValueError):
                return translate(raw, old, EVENT_LAYOUTS[name])
    return None


def remove_tree(directory: Path) -> None:
    """Remove a directory of pins, none of them of links, if it is there."""
    for base, _, names in os.walk(directory, topdown=False):
        for name in names:
            os.unlink(os.path.join(base, name))
        os.rmdir(base)


def begin(bpf: BpfObject, pin_dir: Path) -> Inheritance | None:
    """Look at what is pinned in *pin_dir*, and have *bpf*, not loaded yet, take it over.

    Returns:
        None where there is nothing to take over; then *pin_dir* is not there any more.

    Raises:
        KernelError: Sandboxes are running that the object cannot take over; nothing was changed.
    """
    if not pin_dir.exists():
        return None
    predecessor = Predecessor(pin_dir)
    try:
        has_links = bool(pins.pinned_links(pin_dir))
        try:
            if not predecessor.is_whole:
                raise _refused_without(pin_dir)
            kept, migrations = choose(bpf, predecessor)
        except KernelError:
            if has_links:
                raise
            predecessor.close()
            pins.clear_pins(pin_dir)
            return None
        for name, found in kept.items():
            bpf.reuse_map(name, found.map.fd)
        for name in SECRETS:
            bpf.set_constant(name, predecessor.constant(name))
        return Inheritance(predecessor, kept, migrations)
    except BaseException:
        predecessor.close()
        raise


def make_place(pin_dir: Path, inheritance: Inheritance | None) -> Path:
    """Make the directory for a wall's maps and programs, and return it; an heir's lies apart.

    Raises:
        HostError: It cannot be made.
    """
    if inheritance is None:
        pins.make_pin_dir(pin_dir)
        return pin_dir
    pins.make_staging(inheritance.staging)
    return inheritance.staging


def pin_wall(
    directory: Path, bpf: BpfObject, maps: dict[str, BpfMap], programs: list[Program]
) -> None:
    """Pin everything of a loaded wall but its links below *directory*.

    Raises:
        KernelError: A name is taken.
    """
    for name, bpf_map in maps.items():
        pin(bpf_map.fd, directory / pins.MAPS / name)
    pin_event_layouts(directory / pins.MAPS, [maps[name].fd for name in RING_NAMES])
    pin(bpf.rodata_fd(), directory / pins.MAPS / CONSTANTS)
    for program in programs:
        pin(program.fd, directory / pins.PROGRAMS / program.name)
