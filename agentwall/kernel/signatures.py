# SPDX-License-Identifier: Apache-2.0
"""The automaton of a signature set, and what rules except, in the kernel's maps.

``detect/packed.py`` is what goes in, ``bpf/scan.bpf.c`` reads what comes out. The table in force
is never written to: the next one goes beside it, and a sandbox's entry says which one counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentwall.detect.judging import Masks
from agentwall.detect.packed import PackedTable
from agentwall.detect.signature import Side, Transport
from agentwall.errors import KernelError
from agentwall.kernel import abi, abi_scan
from agentwall.kernel.bpfmap import BpfMap

_KEY = struct.Struct("=II")
_MASK = struct.Struct("=Q")
_ACCEPT = struct.Struct("=QQ")
_SIZE = ctypes.sizeof(abi_scan.Signatures)
_WHOLE = _SIZE * abi_scan.SIGNATURE_TABLES
_TRANSPORTS = {each: abi_scan.Transport[each.name] for each in Transport}
_SIDES = {each: abi_scan.Side[each.name] for each in Side}
_LOWER_BITS = abi_scan.GROUP_HAND_OVER - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is looked for in a sandbox's flows: the part of ``struct aw_sandbox`` about that."""

    slot: int
    """What :meth:`SignatureMaps.write` returned."""
    masks: Masks
    depth_bytes: int
    """Of each side of a flow."""
    inside: abi.Plain = abi.Plain.ALL
    """Whether what is said inside TLS is read, where probes hand it over: ``aw_sandbox.plain``."""


class SignatureMaps:
    """``aw_signatures`` and ``aw_excepts``."""

    def __init__(self, tables: BpfMap, excepts: BpfMap, *, last: int = 0) -> None:
        """Nothing is written yet.

        Args:
            tables: ``aw_signatures``.
            excepts: ``aw_excepts``.
            last: The highest number that a table had which sockets may still remember.
        """
        self._tables = tables
        self._excepts = excepts
        self._written: dict[int, list[bytes]] = {}
        self._generation = last

    def write(self, table: PackedTable) -> int:
        """Put a table beside the one written last, and return its slot.

        Raises:
            KernelError: More states or accepts than there is room for.
        """
        _expect_room(table)
        generation = self._generation + 1
        slot = generation % abi_scan.SIGNATURE_TABLES
        with _mapped(self._tables, _WHOLE, mmap.ACCESS_WRITE) as memory:
            _fill(memory, slot * _SIZE, table, generation)
        self._generation = generation
        return slot

    def retract(self) -> None:
        """Take back the table written last, which no sandbox was bound to.

        The next one goes where it was, and not where the one in force is.

        Raises:
            KernelError: It cannot be mapped.
        """
        slot = self._generation % abi_scan.SIGNATURE_TABLES
        with _mapped(self._tables, _WHOLE, mmap.ACCESS_WRITE) as memory:
            memory[slot * _SIZE : slot * _SIZE + 4] = bytes(4)
        self._generation -= 1

    @property
    def generation(self) -> int:
        """Number of the table written last: ``Match.table``."""
        return self._generation

    def apply_excepts(self, generation: int, excepts: Mapping[int, int]) -> None:
        """Write which groups are not looked for behind which rules of a *generation*.

        Raises:
            KernelError: There is no room.
        """
        keys = [_KEY.pack(generation, rule) for rule in excepts]
        self._written[generation] = keys
        self._excepts.update_batch(b"".join(keys), b"".join(map(_MASK.pack, excepts.values())))

    def forget(self, generation: int) -> None:
        """Remove what was written for a *generation* that no sandbox is bound to."""
        keys = self._written.pop(generation, [])
        self._excepts.delete_batch(b"".join(keys))


def last_generation(tables: BpfMap) -> int:
    """Return the highest number of a table in an ``aw_signatures``; 0 if there is none.

    Raises:
        KernelError: It cannot be mapped.
    """
    numbers, shape = struct.Struct("=I"), tables.shape
    # The number stands first, whatever follows it in another version; the kernel aligns entries.
    step = -(-shape.value_size // 8) * 8
    with _mapped(tables, step * shape.max_entries, mmap.ACCESS_READ) as memory:
        slots = range(shape.max_entries)
        return max(int(numbers.unpack_from(memory, slot * step)[0]) for slot in slots)


@contextlib.contextmanager
def _mapped(tables: BpfMap, size: int, access: int) -> Iterator[mmap.mmap]:
    whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        with mmap.mmap(tables.fd, whole, access=access) as memory:
            yield memory
    except (OSError, ValueError) as err:
        number = err.errno if isinstance(err, OSError) and err.errno else errno.EINVAL
        raise KernelError(number, f"map {tables.shape.name}: mapping it: {err}") from err


def _expect_room(table: PackedTable) -> None:
    for what, found, most in (
        ("states", table.states, abi_scan.STATES - 1),
        ("accepts", len(table.accepts), abi_scan.ACCEPTS),
        ("cells", len(table.next) // 2, abi_scan.CELLS),
        ("groups", len(table.classes) // 256, abi_scan.GROUPS),
    ):
        if found > most:
            raise KernelError(
                errno.ENOSPC, f"signature table: expected at most {most} {what}, got {found}"
            )


def _fill(memory: mmap.mmap, base: int, table: PackedTable, generation: int) -> None:
    layout = abi_scan.Signatures

    def put(field: str, content: bytes) -> None:
        at = base + getattr(layout, field).offset
        memory[at : at + len(content)] = content

    # 0 while it is being written: nothing is looked for in it.
    put("generation", struct.pack("=I", 0))
    put("first_accepting", struct.pack("=I", table.first_accepting))
    starts = [0] * 6
    for (transport, side), state in table.starts.items():
        starts[_TRANSPORTS[transport] << 1 | _SIDES[side]] = state
    put("starts", struct.pack("=6H", *starts))
    put("accepts", b"".join(_ACCEPT.pack(*masks) for masks in table.masks))
    put("accept_of", table.accept_of)
    put("end_of", table.end_of)
    put("base", table.base)
    put("next", table.next)
    put("group_of", table.group_of)
    put("classes", table.classes)
    put("generation", struct.pack("=I", generation))


def pack_inspection(inspection: Inspection | None) -> tuple[int, int, int, int, int]:
    """Return ``blocks``, ``alerts``, ``depth``, ``signatures`` and ``plain`` of ``aw_sandbox``."""
    if inspection is None:
        return 0, 0, 0, 0, abi.Plain.OFF
    masks = inspection.masks
    return (
        masks.blocks & _LOWER_BITS,
        masks.alerts & _LOWER_BITS,
        inspection.depth_bytes,
        inspection.slot + 1,
        inspection.inside,
    )
