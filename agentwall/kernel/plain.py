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
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from agentwall.errors import KernelError
from agentwall.kernel import libbpf, probe
from agentwall.kernel.abi_plain import PlainCall, PlainCounters, PlainKey
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import AttachType, ProgramType, check
from agentwall.kernel.objects import Program

PROGRAM = "aw_plain"
NEXT = "aw_plain_next"
COUNTERS = "aw_plain_counters"
READS = "aw_plain_reads"
"""A map that the probes alone use, of a type that is there wherever the program is taken."""
_FIRST = bytes(4)
_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_CONNECTION = struct.Struct("=QQI4x")
"""``struct aw_plain_key``."""
_DEAD_PROCESS = 1 << 63
"""``AW_DEAD_PROCESS``: the key is no cookie."""
_DEAD = struct.Struct("=Q")
_MARK = struct.Struct("=QQ")
"""``struct aw_plain_mark``."""
_MOST_MARKS = 1024
"""AW_PLAIN_MARKS."""
_MARKED_NS = 60 * 10**9
"""How long the cookie of a dead connection is kept: its socket is destroyed at once."""
_HELD = struct.Struct("=Q")
_CALL = struct.Struct("=Q72x")
"""``struct aw_plain_call``: its sandbox."""
_SEAT = struct.Struct("=QI4x")
"""``struct aw_plain_seat``."""
_SEATS = 512
"""AW_PLAIN_THREADS."""
_COUNT = struct.Struct("=I")
_FETCH_ADD = b"".join(
    struct.pack("=BBhi", opcode, registers, offset, immediate)
    for opcode, registers, offset, immediate in (
        (0xB7, 0x00, 0, 1),  # r0 = 1
        (0x7B, 0x0A, -8, 0),  # *(u64 *)(r10 - 8) = r0
        (0xDB, 0x0A, -8, 0x01),  # r0 = atomic_fetch_add((u64 *)(r10 - 8), r0)
        (0x95, 0x00, 0, 0),
    )
)
"""What :data:`PROGRAM` needs of the instruction set (Linux 5.12)."""
assert _CONNECTION.size == ctypes.sizeof(PlainKey)
assert _CALL.size == ctypes.sizeof(PlainCall)


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
        with probe.loaded(
            ProgramType.KPROBE,
            AttachType.INET_INGRESS,  # 0: it has none
            instructions=_FETCH_ADD,
        ):
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
        self._marks = maps["aw_plain_marks"]
        self._calls = maps["aw_plain_calls"]
        self._turns = maps["aw_plain_turns"]
        self._order = maps["aw_plain_order"]
        self._sandboxes = maps["aw_slots"]
        self._program = program
        # When all was looked through last: how many calls there had been, and whose they were.
        self._called: tuple[int, int, int] | None = None
        self._callers = array("I")

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

    def sweep(self, living: Callable[[], set[int]]) -> int:
        """Forget connections of processes that have ended; return how many.

        To be called every few seconds: a sandbox is given so many at a time, and this counts them.
        Where nobody has called since the last time, and nobody has ended, there is little to do.

        Args:
            living: Returns which processes there are, by their ids in the initial PID namespace.

        Raises:
            KernelError: The kernel refuses.
        """
        counts, dead = self.counts(), self._dead.entries()
        there = living()
        self._forget_marks(dead, there)
        called = counts.calls, counts.connections, counts.lost
        if called == self._called and there.issuperset(self._callers):
            return 0
        keys = list(self._connections.keys())
        # After the keys were read: who is not there then has ended.
        there = living()
        over, callers, held = [], array("I"), Counter[int]()
        for key, (sandbox, _, process) in zip(
            keys, _CONNECTION.iter_unpack(b"".join(keys)), strict=True
        ):
            if process in there:
                callers.append(process)
                held[sandbox] += 1
            else:
                over.append(key)
        self._connections.delete_batch(b"".join(over))
        self._count_anew(self._held, held)
        self._forget_turns()
        self._called, self._callers = called, callers
        return len(over)

    def _forget_marks(self, dead: list[tuple[bytes, bytes]], there: set[int]) -> None:
        """Forget processes that were marked for a dead connection: others will have their ids.

        And flows that were long ago; and that a sandbox had too many marks, when it has few.
        """
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        counted, whole = Counter[int](), []
        for key, value in dead:
            (marked,), (sandbox, since_ns) = _DEAD.unpack(key), _MARK.unpack(value)
            is_process, process = marked & _DEAD_PROCESS, marked & 0xFFFF_FFFF
            if is_process and not process:
                whole.append((key, sandbox))
            elif process not in there if is_process else now_ns - since_ns > _MARKED_NS:
                self._dead.delete(key)
            else:
                counted[sandbox] += 1
        for key, sandbox in whole:
            if counted[sandbox] < _MOST_MARKS // 2:
                self._dead.delete(key)
        self._count_anew(self._marks, counted)

    def _forget_turns(self) -> None:
        """Forget the threads of sandboxes that are there no more."""
        turns = dict(self._turns.entries())
        there = {key for key, _ in self._sandboxes.entries()} if turns else set()
        for key in turns.keys() - there:
            (sandbox,) = _HELD.unpack(key)
            (given,) = _COUNT.unpack(turns[key])
            for number in range(min(given + 1, _SEATS)):
                seat = _SEAT.pack(sandbox, number)
                task = self._order.lookup(seat)
                if task is None:
                    continue
                call = self._calls.lookup(task)
                # Its thread has ended; another sandbox's may have come to the same address.
                if call is not None and _CALL.unpack(call) == (sandbox,):
                    self._calls.delete(task)
                self._order.delete(seat)
            self._turns.delete(key)

    def _count_anew(self, counts: BpfMap, counted: Counter[int]) -> None:
        # What the program counts meanwhile is lost, and there the next time.
        for key, value in counts.entries():
            (sandbox,) = _HELD.unpack(key)
            count = _HELD.pack(counted[sandbox])
            if not counted[sandbox]:
                counts.delete(key)
            elif value != count:
                counts.update(key, count)


def _possible_cpus() -> int:
    """How many values a per-CPU map has: the kernel copies one for each CPU that could be there."""
    last = _POSSIBLE.read_text(encoding="ascii").strip().split(",")[-1]
    return int(last.rpartition("-")[2]) + 1
