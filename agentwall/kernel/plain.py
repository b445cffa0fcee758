# SPDX-License-Identifier: Apache-2.0
"""The wall's part in reading inside TLS: where the probes go on, and what they count.

The probes are another package's (:mod:`agentwall.probes`), and hang on the libraries; what they
hand over is read by ``aw_plain``, a program of the wall's own object. Here is what user space has
to do with its maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from agentwall.errors import KernelError
from agentwall.kernel import libbpf, probe
from agentwall.kernel.abi_plain import PlainCounters, PlainKey
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import AttachType, ProgramType, check
from agentwall.kernel.objects import Program

PROGRAM = "aw_plain"
NEXT = "aw_plain_next"
COUNTERS = "aw_plain_counters"
_FIRST = bytes(4)
_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_CONNECTION = struct.Struct("=QQI4x")
"""``struct aw_plain_key``."""
_DEAD_PROCESS = 1 << 63
"""``AW_DEAD_PROCESS``: the key is no cookie."""
_DEAD = struct.Struct("=Q")
_HELD = struct.Struct("=Q")
assert _CONNECTION.size == ctypes.sizeof(PlainKey)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCounts:
    """``struct aw_plain_counters``, of all CPUs."""

    calls: int
    """Of processes in sandboxes."""
    foreign: int
    """Of processes that are in none."""
    doubled: int
    lost: int
    """Found no room, and were not read."""
    unreadable: int
    connections: int
    joined: int
    """Connections whose flow is known."""
    octets: int
    """Read."""


def why_not() -> str | None:
    """Return why this kernel does not take :data:`PROGRAM`, or None where it does."""
    try:
        with probe.loaded(ProgramType.KPROBE, AttachType.INET_INGRESS):  # 0: it has none
            return None
    except KernelError as err:
        return os.strerror(err.errno or errno.EINVAL).lower()


class Plain:
    """``aw_plain`` and the maps that it shares with the probes."""

    def __init__(self, maps: dict[str, BpfMap], program: Program | None) -> None:
        """Nothing leads to the program yet.

        Args:
            maps: Of the loaded wall.
            program: ``aw_plain``; None where this kernel does not take it.
        """
        self._next = maps[NEXT]
        self._counters = maps[COUNTERS]
        self._connections = maps["aw_plain_connections"]
        self._dead = maps["aw_plain_dead"]
        self._held = maps["aw_plain_held"]
        self._program = program

    @classmethod
    def of(cls, maps: dict[str, BpfMap], programs: Iterable[Program]) -> Self:
        """Make it of a loaded object's *maps* and *programs*."""
        found = (each for each in programs if each.name == PROGRAM and each.autoload)
        return cls(maps, next(found, None))

    def open(self) -> None:
        """Let probes lead to the program.

        Raises:
            KernelError: This kernel does not take it.
        """
        if self._program is None:
            raise KernelError(errno.EOPNOTSUPP, f"{PROGRAM}: this kernel takes no such program")
        fd = struct.pack("=I", self._program.fd)
        done = libbpf.library().bpf_map_update_elem(self._next.fd, _FIRST, fd, 0)
        check(done, f"map {NEXT}: update")

    def counts(self) -> PlainCounts:
        """Return what was counted since the wall was made.

        Raises:
            KernelError: The kernel does not say.
        """
        size = ctypes.sizeof(PlainCounters)
        values = ctypes.create_string_buffer(size * _possible_cpus())
        done = libbpf.library().bpf_map_lookup_elem(self._counters.fd, _FIRST, values)
        check(done, f"map {COUNTERS}: lookup")
        each = [
            PlainCounters.from_buffer_copy(values.raw, at) for at in range(0, len(values.raw), size)
        ]
        names = [field.name for field in fields(PlainCounts)]
        return PlainCounts(**{name: sum(getattr(one, name) for one in each) for name in names})

    def sweep(self, lives: Callable[[int], bool]) -> int:
        """Forget connections of processes that have ended; return how many.

        To be called every few seconds: a sandbox is given so many at a time, and this counts them.

        Args:
            lives: Whether there is a process with that id in the initial PID namespace.

        Raises:
            KernelError: The kernel refuses.
        """
        known: dict[int, bool] = {}

        def is_over(process: int) -> bool:
            if process not in known:
                known[process] = lives(process)
            return not known[process]

        over, held = [], Counter[int]()
        for key in self._connections.keys():  # noqa: SIM118 - a map is no dict
            sandbox, _, process = _CONNECTION.unpack(key)
            if is_over(process):
                over.append(key)
            else:
                held[sandbox] += 1
        self._connections.delete_batch(b"".join(over))
        self._count_anew(held)
        self._forget_marks(is_over)
        return len(over)

    def _forget_marks(self, is_over: Callable[[int], bool]) -> None:
        """Forget processes that were marked for a dead connection: others will have their ids."""
        for key in list(self._dead.keys()):
            (marked,) = _DEAD.unpack(key)
            if marked & _DEAD_PROCESS and is_over(marked & 0xFFFF_FFFF):
                self._dead.delete(key)

    def _count_anew(self, held: Counter[int]) -> None:
        # What the program counts meanwhile is lost, and there the next time.
        for key in list(self._held.keys()):
            (sandbox,) = _HELD.unpack(key)
            if held[sandbox]:
                self._held.update(key, _HELD.pack(held[sandbox]))
            else:
                self._held.delete(key)


def _possible_cpus() -> int:
    """How many values a per-CPU map has: the kernel copies one for each CPU that could be there."""
    last = _POSSIBLE.read_text(encoding="ascii").strip().split(",")[-1]
    return int(last.rpartition("-")[2]) + 1
