# SPDX-License-Identifier: Apache-2.0
"""The automaton of a signature set, and what rules except, in the kernel's maps.

``detect/automaton.py`` is what goes in, ``bpf/scan.bpf.c`` reads what comes out. The table in force
is never written to: the next one goes beside it, and a sandbox's entry says which one counts.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agentwall.detect.automaton import Automaton
from agentwall.detect.judging import Masks, group_bits
from agentwall.detect.packing import pack
from agentwall.detect.signature import Side, SignatureSet, Transport
from agentwall.errors import KernelError
from agentwall.kernel import abi_scan
from agentwall.kernel.bpfmap import BpfMap

_KEY = struct.Struct("=II")
_MASK = struct.Struct("=Q")
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


class SignatureMaps:
    """``aw_signatures`` and ``aw_excepts``."""

    def __init__(self, tables: BpfMap, excepts: BpfMap) -> None:
        self._tables = tables
        self._excepts = excepts
        self._written: dict[int, list[bytes]] = {}
        self._generation = 0

    def write(self, automaton: Automaton, signatures: SignatureSet) -> int:
        """Put an automaton beside the one written last, and return its slot.

        Args:
            automaton: Of *signatures*.
            signatures: Their order is what ``Match.accept`` leads to.

        Raises:
            BudgetError: More groups than the kernel has bits for, or more cells than room.
            KernelError: More states or accepts than the table has room for.
        """
        _expect_room(automaton)
        accepts = _accepts(automaton, signatures)
        self._generation += 1
        slot = self._generation % abi_scan.SIGNATURE_TABLES
        size = ctypes.sizeof(abi_scan.Signatures)
        whole = -(-size * abi_scan.SIGNATURE_TABLES // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            with mmap.mmap(self._tables.fd, whole) as memory:
                _fill(memory, slot * size, automaton, accepts, self._generation)
        except (OSError, ValueError) as err:
            number = err.errno if isinstance(err, OSError) and err.errno else errno.EINVAL
            raise KernelError(number, f"map {self._tables.shape.name}: mapping it: {err}") from err
        return slot

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


def _expect_room(automaton: Automaton) -> None:
    for what, found, most in (
        ("states", automaton.states, abi_scan.STATES - 1),
        ("accepts", len(automaton.accepts), abi_scan.ACCEPTS),
    ):
        if found > most:
            raise KernelError(
                errno.ENOSPC, f"signature table: expected at most {most} {what}, got {found}"
            )


def _accepts(automaton: Automaton, signatures: SignatureSet) -> bytes:
    bits = group_bits(signatures)
    packed = (abi_scan.Accept * len(automaton.accepts))()
    for index, matched in enumerate(automaton.accepts):
        for one in (signatures.signatures[number] for number in matched):
            bit = abi_scan.GROUP_HAND_OVER if one.hand_over else 1 << bits[one.group]
            packed[index].groups |= bit
            if one.blocks:
                packed[index].certain |= bit
    return bytes(packed)


def _fill(
    memory: mmap.mmap, base: int, automaton: Automaton, accepts: bytes, generation: int
) -> None:
    layout = abi_scan.Signatures

    def put(field: str, content: bytes) -> None:
        at = base + getattr(layout, field).offset
        memory[at : at + len(content)] = content

    # 0 while it is being written: nothing is looked for in it.
    put("generation", struct.pack("=I", 0))
    put("first_accepting", struct.pack("=I", automaton.first_accepting))
    starts = [0] * 6
    for (transport, side), state in automaton.starts.items():
        starts[_TRANSPORTS[transport] << 1 | _SIDES[side]] = state
    put("starts", struct.pack("=6H", *starts))
    put("accepts", accepts)
    put("accept_of", np.ascontiguousarray(automaton.accept_of, dtype=np.uint16).tobytes())
    put("end_of", np.ascontiguousarray(automaton.end_of, dtype=np.uint16).tobytes())
    packed = pack(automaton)
    put("base", packed.base.tobytes())
    put("next", packed.next.tobytes())
    put("group_of", packed.group_of.tobytes())
    put("classes", packed.classes.tobytes())
    put("generation", struct.pack("=I", generation))


def pack_inspection(inspection: Inspection | None) -> tuple[int, int, int, int]:
    """Return ``blocks``, ``alerts``, ``depth`` and ``signatures`` of ``struct aw_sandbox``."""
    if inspection is None:
        return 0, 0, 0, 0
    masks = inspection.masks
    return (
        masks.blocks & _LOWER_BITS,
        masks.alerts & _LOWER_BITS,
        inspection.depth_bytes,
        inspection.slot + 1,
    )
