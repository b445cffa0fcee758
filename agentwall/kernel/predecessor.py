# SPDX-License-Identifier: Apache-2.0
"""What an earlier wall left pinned: its maps with their layouts, its constants, its links.

One pin directory holds the pins of the wall that is complete (``maps``, ``programs``), and beside
them those of walls that were being put in its place, in the same form (``next-1``, ``next-2``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import KernelError
from agentwall.kernel import layout, libbpf, pins
from agentwall.kernel.abi import NameEvent
from agentwall.kernel.abi_event import Event
from agentwall.kernel.abi_scan import ExcerptEvent, HelloEvent, MatchEvent
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.btf import Btf
from agentwall.kernel.layout import Layout
from agentwall.kernel.libbpf import MapType, check
from agentwall.kernel.links import open_pin, pin
from agentwall.kernel.objects import RODATA, MapDefinition
from agentwall.kernel.signatures import last_generation

CONSTANTS = "rodata"
"""The pin of the map of constants; bpffs allows no dot."""
LAYOUTS = "layouts-"
"""Starts the pins of maps with the layouts of what a ring holds, which BTF says nothing of; its
kernel id follows, so that the two belong together wherever they are pinned."""
STAGING = "next-"
_STAGED = re.compile(r"next-([0-9]{1,9})", re.ASCII)

EVENT_LAYOUTS = {
    "aw_event": layout.of_ctypes(Event),
    "aw_name_event": layout.of_ctypes(NameEvent),
    "aw_match_event": layout.of_ctypes(MatchEvent),
    "aw_excerpt_event": layout.of_ctypes(ExcerptEvent),
    "aw_hello_event": layout.of_ctypes(HelloEvent),
}
"""Of this version; by their size it is known which of them a record in a ring is."""


class _MapInfo(ctypes.Structure):
    # struct bpf_map_info, include/uapi/linux/bpf.h
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedMap:
    """A map opened by its pin."""

    map: BpfMap
    """Its shape's name is the pin's."""
    id: int
    """Of the kernel: one map may be pinned in several places."""
    btf_id: int
    definition: MapDefinition
    path: Path


def map_info(fd: int, what: str) -> _MapInfo:
    """Return what the kernel says of a map.

    Raises:
        KernelError: *fd* is not a map's; *what* says which.
    """
    info = _MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    read = libbpf.library().bpf_obj_get_info_by_fd
    check(read(fd, ctypes.byref(info), ctypes.byref(size)), f"{what}: map info")
    return info


def open_map(path: Path) -> PinnedMap:
    """Open what is pinned at *path*, a map; its descriptor is the caller's to close.

    Raises:
        KernelError: Nothing is pinned there.
    """
    fd = open_pin(path)
    try:
        info = map_info(fd, str(path))
        shape = MapShape(
            name=path.name,
            type=MapType(info.type),
            key_size=info.key_size,
            value_size=info.value_size,
            max_entries=info.max_entries,
        )
        key = value = None
        if info.btf_id and info.btf_value_type_id and path.name != CONSTANTS:
            with contextlib.closing(Btf.from_kernel(info.btf_id)) as types:
                key = types.layout(info.btf_key_type_id)
                value = types.layout(info.btf_value_type_id)
        definition = MapDefinition(shape=shape, flags=info.map_flags, key=key, value=value)
    except ValueError as err:
        os.close(fd)
        raise KernelError(errno.EINVAL, f"{path}: expected a map of ours: {err}") from err
    except BaseException:
        os.close(fd)
        raise
    return PinnedMap(
        map=BpfMap(fd, shape), id=info.id, btf_id=info.btf_id, definition=definition, path=path
    )


class Predecessor:
    """The maps of the walls that *pin_dir* holds pins of, newest first; to be closed."""

    def __init__(self, pin_dir: Path) -> None:
        """Open every map.

        Raises:
            KernelError: One cannot be opened, or is of a type that no map of ours has.
        """
        self.pin_dir = pin_dir
        self.staged = _staged(pin_dir)
        self._sets: list[dict[str, PinnedMap]] = []
        try:
            for directory in (*reversed(self.staged), pin_dir):
                found: dict[str, PinnedMap] = {}
                self._sets.append(found)
                for path in _pins_in(directory / pins.MAPS):
                    found[path.name] = open_map(path)
        except BaseException:
            self.close()
            raise

    def maps(self, name: str) -> list[PinnedMap]:
        """Return the different maps called *name*, newest first."""
        found: dict[int, PinnedMap] = {}
        for each in self._sets:
            if name in each:
                found.setdefault(each[name].id, each[name])
        return list(found.values())

    def staged_maps(self) -> list[PinnedMap]:
        """Return the maps of walls that never took over."""
        return [pinned for each in self._sets[:-1] for pinned in each.values()]

    def ids_in_force(self) -> set[int]:
        """Return the kernel ids of the maps of the wall that is complete."""
        return {pinned.id for pinned in self._sets[-1].values()}

    @property
    def is_whole(self) -> bool:
        """Whether there is what every wall has: none that died while it made its pins."""
        return bool(self.maps("aw_sandbox_id")) and bool(self.maps(CONSTANTS))

    def programs(self) -> frozenset[str]:
        """Return the names of the programs of the wall that was complete."""
        return frozenset(path.name for path in _pins_in(self.pin_dir / pins.PROGRAMS))

    def constant(self, name: str) -> int:
        """Return a constant of its object.

        Raises:
            KernelError: There is none.
        """
        for pinned in self.maps(CONSTANTS):
            raw = pinned.map.lookup(bytes(4)) or b""
            with contextlib.closing(Btf.from_kernel(pinned.btf_id)) as types:
                for found, offset, size in types.variables(RODATA):
                    if found == name:
                        return int.from_bytes(raw[offset : offset + size], sys.byteorder)
        raise KernelError(errno.ENOENT, f"{self.pin_dir}: expected a constant {name}, got none")

    def event_layouts(self, ring: PinnedMap) -> dict[str, Layout]:
        """Return the layouts of what a ring holds; none where they are not known."""
        for found in self.maps(f"{LAYOUTS}{ring.id}"):
            raw = found.map.lookup(bytes(4)) or b""
            with contextlib.suppress(ValueError):
                return layout.from_json(raw.rstrip(b"\0").decode("ascii", "replace"))
        return {}

    def highest_generation(self) -> int:
        """Return the highest generation that a sandbox is bound to; 0 where none is.

        Raises:
            KernelError: Its entries cannot be read.
        """
        return max(map(_highest, self.maps("aw_sandboxes")), default=0)

    def last_table(self) -> int:
        """Return the highest number of a table of signatures; 0 where there is none.

        Raises:
            KernelError: They cannot be read.
        """
        return max(map(_last_table, self.maps("aw_signatures")), default=0)

    def marks(self) -> list[PinnedMap]:
        """Return the maps that those two numbers are from: without them they might be used again.

        Raises:
            KernelError: As theirs.
        """
        found = (
            max(self.maps("aw_sandboxes"), key=_highest, default=None),
            max(self.maps("aw_signatures"), key=_last_table, default=None),
        )
        return [pinned for pinned in found if pinned is not None]

    def close(self) -> None:
        """Close the maps."""
        for pinned in [pinned for each in self._sets for pinned in each.values()]:
            os.close(pinned.map.fd)
        self._sets.clear()


def _highest(pinned: PinnedMap) -> int:
    value = pinned.definition.value
    if value is None:
        raise KernelError(errno.EINVAL, f"{pinned.path}: expected a map with types, got none")
    entries = pinned.map.entries()
    return max((layout.number_in(raw, value, "generation") for _, raw in entries), default=0)


def _last_table(pinned: PinnedMap) -> int:
    return last_generation(pinned.map)


def _pins_in(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _staged(pin_dir: Path) -> list[Path]:
    """The directories of walls that never took over, oldest first."""
    found = [(_STAGED.fullmatch(path.name), path) for path in _pins_in(pin_dir)]
    numbered = [(int(match[1]), path) for match, path in found if match]
    return [path for _, path in sorted(numbered)]


def next_staging(pin_dir: Path) -> Path:
    """Return a directory that is not there yet, newer than the others."""
    last = _staged(pin_dir)[-1:]
    return pin_dir / f"{STAGING}{int(last[0].name.removeprefix(STAGING)) + 1 if last else 1}"


def pin_event_layouts(directory: Path, rings: list[int]) -> None:
    """Pin what :meth:`Predecessor.event_layouts` of a successor reads.

    Args:
        directory: Where the maps are pinned.
        rings: Descriptors of the ring buffers.

    Raises:
        KernelError: It cannot be made or pinned.
    """
    text = layout.to_json(EVENT_LAYOUTS).encode("ascii")
    shape = MapShape(
        name="aw_layouts", type=MapType.ARRAY, key_size=4, value_size=len(text), max_entries=1
    )
    made = BpfMap.create(shape)
    try:
        made.update(bytes(4), text)
        for ring in rings:
            pin(made.fd, directory / f"{LAYOUTS}{map_info(ring, LAYOUTS).id}")
    finally:
        made.close()
