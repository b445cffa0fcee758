# SPDX-License-Identifier: Apache-2.0
"""Learn from perf's side-band records when a process maps a TLS library, and when one ends.

One event a processor (PERF_COUNT_SW_DUMMY: it counts nothing) makes the kernel write a record for
each executable mapping of every process on the machine. Almost none is of interest, and nearly all
are passed over without being looked at one by one.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass

from agentwall.errors import KernelError
from agentwall.probes import libraries, perf
from agentwall.probes.mappings import FileId

RING_BYTES = 64 << 10
"""A processor: about 550 mappings, which even a host that starts 1 000 processes a second writes
only within 10 ms."""
PAUSE_S = 0.004
"""Between two looks while records come, so that a busy host does not wake the reader for each. A
program takes longer from mapping its library to its first connection."""

_SOFTWARE, _DUMMY = 1, 9
"""PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY."""
_LOST, _EXIT, _MMAP2 = 2, 4, 10
"""PERF_RECORD_*."""
_HEADER = struct.Struct("=IHH")
"""``struct perf_event_header``: type, misc, size."""
_MAPPING = struct.Struct("=8xI28xIIQ16x")
"""PERF_RECORD_MMAP2 up to its file name: pid, major, minor, inode."""
_ENDED = struct.Struct("=8xI4xI")
"""PERF_RECORD_EXIT: pid, tid."""
_LOSS = struct.Struct("=16xQ")
"""PERF_RECORD_LOST: how many."""
_LOSS_HEADER = _HEADER.pack(_LOST, 0, _LOSS.size)
_SIGNS = (_LOSS_HEADER, *{name.encode() for names in libraries.NAMES.values() for name in names})
"""A stretch of records without any of these holds nothing of interest."""

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_CLOCK_MONOTONIC = 1
_AT_ONCE_NS = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A process has mapped a file whose name is a TLS library's."""

    pid: int
    """In the PID namespace of the reader."""
    file: FileId
    """As the kernel says: on overlayfs that of the overlay here (6.18), on older ones (5.10) of the
    layer below. Which file it is, :func:`agentwall.probes.mappings.real_file` says."""
    path: bytes
    """In the process's own root, at most PATH_MAX; chosen by it: escape before printing."""


class _Timer:
    """A descriptor that is readable once after a while (timerfd_create(2))."""

    def __init__(self) -> None:
        self.fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise perf.failure(ctypes.get_errno(), "timer")

    def set(self, after_ns: int) -> None:
        """Become readable *after_ns*, which is less than a second; 0: never. Unreadable till then.

        It also forgets that it has become readable.
        """
        words = (ctypes.c_long * 4)(0, 0, 0, after_ns)
        _LIBC.timerfd_settime(self.fd, 0, words, None)


class MappedFiles:
    """What processes map, on all processors that are online when it is made.

    A processor that is switched on later is not watched. What it misses is found when the process
    is looked at for another cause. Not for several threads at once.
    """

    def __init__(
        self, *, users: Container[int] | None = None, ring_bytes: int = RING_BYTES
    ) -> None:
        """Begin to watch.

        Args:
            users: Processes whose end is to be told (:meth:`ended`), as they are at each reading;
                None: no ends are, and the kernel does not write them.
            ring_bytes: Memory of each processor's records; a power of two of pages.

        Raises:
            UnsupportedFeatureError: Not a machine that is known.
            KernelError: The kernel refuses.
        """
        self.lost = 0
        """Records that found no room, since the beginning: something may have been missed."""
        self._users = users
        self._ended: set[int] = set()
        self._rings: list[perf.EventRing] = []
        self._wakes = select.epoll()
        self._timer = _Timer()
        self._outer = select.epoll()
        try:
            for cpu in perf.online_cpus():
                self._rings.append(_open(cpu, has_ends=users is not None, ring_bytes=ring_bytes))
                self._wakes.register(self._rings[-1].fd, select.EPOLLIN)
        except KernelError:
            self.close()
            raise
        self._outer.register(self._timer.fd, select.EPOLLIN)
        self._is_listening = False
        self._listen()

    def fileno(self) -> int:
        """Return a descriptor that polls readable when :meth:`read` should be called, which it must
        be then: some news is told only once."""
        return self._outer.fileno()

    def read(self, limit: int) -> list[Mapped]:
        """Return what was mapped since, oldest first on each processor; never wait.

        Args:
            limit: At most so many, 1 or more; the rest stays, and :meth:`fileno` stays readable.
        """
        found: dict[Mapped, None] = {}
        is_quiet, is_full = True, False
        for ring in self._rings:
            records = ring.unread()
            if not records:
                continue
            is_quiet = False
            done = self._take(records, limit, found)
            ring.skip(done)
            is_full = done < len(records)
            if is_full:
                break
        # Rings wake once; then the timer does, until a look finds nothing.
        if is_quiet and self._is_still_quiet():
            self._timer.set(0)
            self._listen()
        else:
            self._ignore()
            self._timer.set(_AT_ONCE_NS if is_full else round(PAUSE_S * 1e9))
        return list(found)

    def _listen(self) -> None:
        if not self._is_listening:
            self._outer.register(self._wakes.fileno(), select.EPOLLIN)
            self._is_listening = True

    def _ignore(self) -> None:
        # Not EPOLLONESHOT: whoever polls the outer descriptor does not use the one shot up.
        if self._is_listening:
            self._outer.unregister(self._wakes.fileno())
            self._is_listening = False

    def _is_still_quiet(self) -> bool:
        # Polling takes the rings' word that they have something, which they give once: what was
        # read meanwhile would wake for nothing, but what came just now would not wake any more.
        self._wakes.poll(0)
        return all(ring.is_empty for ring in self._rings)

    def ended(self) -> set[int]:
        """Return which users have ended (their first thread has), by what was read; forget it."""
        ended, self._ended = self._ended, set()
        return ended

    def _take(self, records: bytes, limit: int, found: dict[Mapped, None]) -> int:
        """Add to *found*; return how many octets of *records* are dealt with."""
        signs = _signs(records)
        if not signs and self._users is None:
            return len(records)
        at, sign, end = 0, 0, len(records)
        while at < end:
            kind, _, size = _HEADER.unpack_from(records, at)
            if kind == _EXIT:
                self._note_end(records, at)
            # Signs before this record were in the one before it.
            while sign < len(signs) and signs[sign] < at:
                sign += 1
            if sign < len(signs) and signs[sign] < at + size:
                if kind == _MMAP2:
                    mapped = _mapped(records, at, size)
                    if mapped is not None and mapped not in found:
                        if len(found) >= limit:
                            return at
                        found[mapped] = None
                elif kind == _LOST:
                    self.lost += _LOSS.unpack_from(records, at)[0]
            elif self._users is None and sign == len(signs):
                return end
            at += max(size, _HEADER.size)
        return end

    def _note_end(self, records: bytes, at: int) -> None:
        pid, thread = _ENDED.unpack_from(records, at)
        if pid == thread and self._users is not None and pid in self._users:
            self._ended.add(pid)

    def close(self) -> None:
        """Watch no longer."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        self._wakes.close()
        self._outer.close()
        if self._timer.fd >= 0:
            os.close(self._timer.fd)
            self._timer.fd = -1


def _open(cpu: int, *, has_ends: bool, ring_bytes: int) -> perf.EventRing:
    what = f"mappings on processor {cpu}"
    flags = perf.MMAP | perf.MMAP2 | perf.WATERMARK | (perf.TASK if has_ends else 0)
    attributes = perf.Attributes(type=_SOFTWARE, config=_DUMMY, flags=flags, wakeup=1)
    fd = perf.open_event(attributes, cpu=cpu, what=what)
    return perf.EventRing(fd, ring_bytes, what)


def _signs(records: bytes) -> list[int]:
    return sorted(at for sign in _SIGNS for at in _places(records, sign))


def _places(records: bytes, sign: bytes) -> Iterator[int]:
    at = records.find(sign)
    while at >= 0:
        yield at
        at = records.find(sign, at + 1)


def _mapped(records: bytes, at: int, size: int) -> Mapped | None:
    """Return the mapping in a PERF_RECORD_MMAP2; None: of no interest, or of nobody known."""
    path = records[at + _MAPPING.size : at + size].partition(b"\0")[0]
    if not libraries.may_be_library(path):
        return None
    pid, major, minor, inode = _MAPPING.unpack_from(records, at)
    # A process of another PID namespace, not below the reader's, is 0 or -1.
    if not 0 < pid < 0x8000_0000:
        return None
    return Mapped(pid, FileId(os.makedev(major, minor), inode), path)


def why_not() -> str | None:
    """Return why mappings cannot be watched here; None: they can. Tried on one processor."""
    try:
        _open(perf.online_cpus()[0], has_ends=True, ring_bytes=RING_BYTES).close()
    except KernelError as err:
        return str(err)
    return None
