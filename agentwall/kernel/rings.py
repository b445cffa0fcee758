# SPDX-License-Identifier: Apache-2.0
"""Ring buffers: what the programs report, as raw records; ``decode`` gives them meaning.

libbpf's reader maps a ring's octets twice in a row, and each page of them counts twice as this
process's memory. This one maps them once: what goes over the end, it takes in two pieces. Layout:
kernel/bpf/ringbuf.c; order of reading: libbpf's src/ringbuf.c.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import threading

from agentwall.errors import KernelError
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import MapType

_HEADER = struct.Struct("=I4x")
"""Of a record: its length and two bits; then an offset that only the kernel needs."""
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_ALIGNMENT = 8
_fence_lock = threading.Lock()


def _fence() -> None:
    """Order what was read or written before with what is after, on every processor.

    A lock's release followed by an acquisition is a barrier, and all that Python has.
    """
    for _ in range(2):
        with _fence_lock:
            pass


class Ring:
    """The reading end of one BPF ring buffer. Only one process may read a ring."""

    def __init__(self, ring: BpfMap) -> None:
        """Map the memory of *ring*, whose descriptor must stay open as long as this is used.

        Raises:
            KernelError: It is not a ring buffer, or its memory cannot be mapped.
        """
        self.map = ring
        self._records: list[bytes] = []
        self._is_open = False
        what = f"ring buffer {ring.shape.name}"
        if ring.shape.type is not MapType.RINGBUF:
            got = ring.shape.type.name.lower()
            raise KernelError(errno.EINVAL, f"{what}: expected a ring buffer, got {got}")
        self._size = ring.shape.max_entries
        page = mmap.PAGESIZE
        try:
            self._own = mmap.mmap(ring.fd, page)
            self._shared = mmap.mmap(
                ring.fd, page + self._size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED, offset=page
            )
        except OSError as err:
            reason = os.strerror(err.errno or errno.EINVAL).lower()
            raise KernelError(err.errno or errno.EINVAL, f"{what}: map: {reason}") from err
        self._taken = ctypes.c_uint64.from_buffer(self._own)
        self._whole = memoryview(self._shared)
        # A single load, as it has to be: eight octets, aligned.
        self._made = self._whole[:8].cast("Q")
        self._octets = self._whole[page:]
        self._is_open = True

    def fileno(self) -> int:
        """Return a descriptor that polls readable while there are records."""
        return self.map.fd

    def consume(self, limit: int) -> list[bytes]:
        """Take the records that are there, oldest first, at most *limit* (1 or more)."""
        # A signal handler that raises in between would lose what was taken by then; one that raises
        # at the end leaves it for the next call.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._take(limit)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        records, self._records = self._records, []
        return records

    def _take(self, limit: int) -> None:
        """Add to what is returned next, until there is nothing more or *limit* of it."""
        at: int = self._taken.value
        while len(self._records) < limit:
            spans, end = self._spans(at, limit - len(self._records))
            if end == at:
                return
            _fence()  # A record's octets are whole when its header says so.
            self._records += [self._copy(*span) for span in spans]
            _fence()
            self._taken.value = at = end
            _fence()  # What is made before the kernel sees this, it tells nobody of: look again.

    def _spans(self, at: int, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Return where records begin in the ring and how long they are, and where they end."""
        spans: list[tuple[int, int]] = []
        made = self._made[0]
        _fence()
        while at < made and len(spans) < limit:
            (word,) = _HEADER.unpack_from(self._octets, at % self._size)
            if word & _BUSY:
                break
            length = word & ~_DISCARDED
            if not word & _DISCARDED:
                spans.append(((at + _HEADER.size) % self._size, length))
            at += -(-(length + _HEADER.size) // _ALIGNMENT) * _ALIGNMENT
        return spans, at

    def _copy(self, start: int, length: int) -> bytes:
        over = start + length - self._size
        if over <= 0:
            return bytes(self._octets[start : start + length])
        return bytes(self._octets[start:]) + bytes(self._octets[:over])

    def close(self) -> None:
        """Unmap the ring's memory; unread records stay in the map."""
        if self._is_open:
            self._is_open = False
            self._made.release()
            self._octets.release()
            self._whole.release()
            del self._taken
            self._shared.close()
            self._own.close()
