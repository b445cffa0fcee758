# SPDX-License-Identifier: Apache-2.0
"""Ring buffers: what the programs report, as raw records; ``decode`` gives them meaning."""

from __future__ import annotations

import ctypes
import signal

from agentwall.kernel import libbpf
from agentwall.kernel.libbpf import SAMPLE_FN, check, check_pointer

_STOP = -1


class Ring:
    """The reading end of one BPF ring buffer. Only one process may read a ring."""

    def __init__(self, map_fd: int, name: str) -> None:
        """Map the ring's memory.

        Raises:
            KernelError: *map_fd* is not a ring buffer, or its memory cannot be mapped.
        """
        self.map_fd = map_fd
        self._name = name
        self._records: list[bytes] = []
        self._limit = 0
        self._callback = SAMPLE_FN(self._keep)  # must live as long as the ring
        created = libbpf.library().ring_buffer__new(map_fd, self._callback, None, None)
        self._pointer = check_pointer(created, f"ring buffer {name}")

    def fileno(self) -> int:
        """Return a descriptor that polls readable while there are records."""
        return int(libbpf.library().ring_buffer__epoll_fd(self._pointer))

    def consume(self, limit: int) -> list[bytes]:
        """Take the records that are there, oldest first, at most *limit* (1 or more).

        Raises:
            KernelError: The ring is broken.
        """
        self._limit = limit
        # A signal handler that raises inside the callback would lose the record it interrupts;
        # one that raises here leaves the records for the next call.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            result = libbpf.library().ring_buffer__consume(self._pointer)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if result != _STOP:
            check(result, f"ring buffer {self._name}: consume")
        records, self._records = self._records, []
        return records

    # libbpf has already moved on when this is called, so stopping loses no record.
    def _keep(self, context: int | None, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return _STOP if len(self._records) >= self._limit else 0

    def close(self) -> None:
        """Unmap the ring's memory; unread records stay in the map."""
        if self._pointer:
            libbpf.library().ring_buffer__free(self._pointer)
            self._pointer = 0
