# SPDX-License-Identifier: Apache-2.0
"""What ``bpf/probes/tls.c`` compiles to, as a value: nothing of it is of one run or one wall.

It comes from ``compile_child``, over a socket, or from the disk, in the same form: a JSON object
and the instructions. ``loading`` hands it to the kernel.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

MAPS: tuple[str, ...] = (
    *("aw_plain_cgroups", "aw_plain_calls", "aw_plain_connections", "aw_plain_counters"),
    *("aw_plain_next", "aw_plain_reads"),
)
"""The maps of the wall that the programs use."""
MAX_INSTRUCTIONS = 4096
"""Of one program; the largest has a thousand."""
INSTRUCTION = struct.Struct("=BBhi")
"""``struct bpf_insn``: opcode, registers (the source in the upper half), offset, immediate."""
LOAD_64 = 0x18
"""BPF_LD | BPF_IMM | BPF_DW: two instructions long, the second with the upper half alone."""
OF_MAP = 1
"""BPF_PSEUDO_MAP_FD, in place of the source register of :data:`LOAD_64`."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Programs that may be loaded for any wall."""

    programs: Mapping[str, bytes]
    """Instructions by the program's name. Where one takes a map, its immediate is the map's place
    in :attr:`maps`."""
    maps: tuple[str, ...]
    """Out of :data:`MAPS`."""
    has_cookies: bool
    """Whether they ask for the cookie of their probe: where they do not (before Linux 5.15) a call
    of a library that is probed twice is read twice."""
    bcc: str
    """The version that compiled it."""
    seconds: float
    """To import bcc and compile."""
    peak_kib: int
    """The most memory that took."""

    @classmethod
    def decode(cls, head: Mapping[str, Any], tables: bytes, programs: Sequence[str]) -> Self:
        """Make it of what :meth:`encode` gave.

        Args:
            head: The JSON object.
            tables: The instructions.
            programs: The names that are expected.

        Raises:
            ValueError: Something is not as it is written by :meth:`encode`.
            KeyError: Something is missing.
            TypeError: Something is of another type.
        """
        names, sizes = tuple(head["maps"]), tuple(head["sizes"])
        cookies, bcc = head["cookies"], head["bcc"]
        if not all(name in MAPS for name in names):
            raise ValueError("a map that is none of the wall's")
        if not isinstance(cookies, bool) or not _VERSION.fullmatch(bcc):
            raise ValueError("no version, or no truth value")
        if tuple(head["programs"]) != tuple(programs) or len(sizes) != len(programs):
            raise ValueError("other programs")
        found, at = {}, 0
        for name, size in zip(programs, sizes, strict=True):
            if not isinstance(size, int) or not 0 < size <= MAX_INSTRUCTIONS * INSTRUCTION.size:
                raise ValueError(f"{name} of another size")
            found[name] = tables[at : at + size]
            at += size
            _check(found[name], size, len(names))
        if at != len(tables):
            raise ValueError("more than the programs")
        return cls(
            programs=found,
            maps=names,
            has_cookies=cookies,
            bcc=bcc,
            seconds=float(head["seconds"]),
            peak_kib=int(head["peak_kib"]),
        )

    def encode(self) -> tuple[dict[str, object], bytes]:
        """Return what :meth:`decode` makes it of: a JSON object, and the instructions."""
        return {
            "programs": list(self.programs),
            "sizes": [len(each) for each in self.programs.values()],
            "maps": list(self.maps),
            "cookies": self.has_cookies,
            "bcc": self.bcc,
            "seconds": self.seconds,
            "peak_kib": self.peak_kib,
        }, b"".join(self.programs.values())


def map_loads(instructions: bytes) -> Iterator[tuple[int, int]]:
    """Yield for each instruction that takes a map where it is, in bytes, and its immediate.

    Args:
        instructions: Whole ones.

    Raises:
        ValueError: One of 16 bytes is cut off.
    """
    at = 0
    while at < len(instructions):
        opcode, registers, _, immediate = INSTRUCTION.unpack_from(instructions, at)
        if opcode == LOAD_64:
            if at + 2 * INSTRUCTION.size > len(instructions):
                raise ValueError("half an instruction")
            if registers >> 4 == OF_MAP:
                yield at, immediate
            elif registers >> 4:
                raise ValueError("an instruction that takes neither a number nor a map")
            at += INSTRUCTION.size
        at += INSTRUCTION.size


def _check(instructions: bytes, size: int, maps: int) -> None:
    """Refuse what the loader could not go by; what the programs do, the kernel looks at.

    Raises:
        ValueError: A program is not whole, or takes a map that is not there.
    """
    if len(instructions) != size or size % INSTRUCTION.size:
        raise ValueError("instructions that are not whole")
    if not all(0 <= place < maps for _, place in map_loads(instructions)):
        raise ValueError("a map that is not there")
