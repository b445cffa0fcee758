# SPDX-License-Identifier: Apache-2.0
"""perf_event_open(2) and bpf(2) by number, and the rings that perf events write.

Source: include/uapi/linux/perf_event.h, include/uapi/linux/bpf.h; the numbers of the calls are in
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import threading
from pathlib import Path

from agentwall.errors import KernelError, UnsupportedFeatureError

_NUMBERS = {"x86_64": (298, 321), "aarch64": (241, 280)}
"""Of perf_event_open and bpf."""
_ONLINE = Path("/sys/devices/system/cpu/online")
_PARANOID = "kernel.perf_event_paranoid and the capabilities PERFMON and SYS_ADMIN"
_FLAG_CLOEXEC = 8
_LIBC = ctypes.CDLL(None, use_errno=True)

_HEAD_AT, _TAIL_AT = 1024, 1032
"""``data_head`` and ``data_tail`` of ``struct perf_event_mmap_page``."""

MMAP, TASK, WATERMARK, MMAP2 = 1 << 8, 1 << 13, 1 << 14, 1 << 23
"""Bits of :attr:`Attributes.flags`."""


class Attributes(ctypes.Structure):
    """``struct perf_event_attr`` as of PERF_ATTR_SIZE_VER5 (Linux 4.1)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("_rest", ctypes.c_uint64 * 5),
    )


def failure(code: int, what: str) -> KernelError:
    """Return the error for errno *code*: ``what: reason``, with what to look at for a refusal."""
    reason = os.strerror(code).lower()
    if code in (errno.EPERM, errno.EACCES):
        reason = f"{reason} (see {_PARANOID})"
    return KernelError(code, f"{what}: {reason}")


def _numbers(what: str) -> tuple[int, int]:
    machine = platform.machine()
    if machine not in _NUMBERS:
        known = " or ".join(_NUMBERS)
        raise UnsupportedFeatureError(
            errno.ENOSYS, f"{what}: expected a machine of {known}, got {machine}"
        )
    return _NUMBERS[machine]


def open_event(attributes: Attributes, *, cpu: int, what: str) -> int:
    """Open an event of all processes on one *cpu*; the descriptor is closed on exec.

    Raises:
        UnsupportedFeatureError: The numbers of this machine's calls are not known.
        KernelError: The kernel refuses; *what* says what was tried.
    """
    number, _ = _numbers(what)
    attributes.size = ctypes.sizeof(attributes)
    words = [ctypes.c_long(word) for word in (-1, cpu, -1, _FLAG_CLOEXEC)]
    descriptor: int = _LIBC.syscall(ctypes.c_long(number), ctypes.byref(attributes), *words)
    if descriptor < 0:
        raise failure(ctypes.get_errno(), what)
    return descriptor


def bpf(command: int, attributes: ctypes.Structure, what: str) -> int:
    """Call bpf(2), *attributes* being the members of ``union bpf_attr`` that *command* knows.

    Raises:
        UnsupportedFeatureError: The numbers of this machine's calls are not known.
        KernelError: The kernel refuses; *what* says what was tried.
    """
    _, number = _numbers(what)
    size = ctypes.c_long(ctypes.sizeof(attributes))
    words = (ctypes.c_long(command), ctypes.byref(attributes), size)
    result: int = _LIBC.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise failure(ctypes.get_errno(), what)
    return result


def online_cpus() -> list[int]:
    """Return the processors that run now, ascending, at least one; others may come and go.

    Raises:
        KernelError: /sys does not say.
    """
    try:
        return _parsed(_ONLINE.read_text())
    except (OSError, ValueError) as err:
        raise KernelError(errno.ENOENT, f"{_ONLINE}: expected a list such as 0-3: {err}") from err


def _parsed(text: str) -> list[int]:
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


_fence_lock = threading.Lock()


def _fence() -> None:
    """Order what was read before with what is read or written after.

    The kernel's rule (include/uapi/linux/perf_event.h): a full barrier after reading data_head, and
    one before writing data_tail. On x86-64 loads stay in order and no store passes an earlier load;
    the interpreter reads memory at once, so nothing is needed. On arm64 they may be reordered; a
    lock's release followed by an acquisition is a barrier there, and all that Python has.
    """
    for _ in range(2):
        with _fence_lock:
            pass


class EventRing:
    """The records of one event, in memory shared with the kernel. One reader."""

    __slots__ = ("_head", "_mapped", "_memory", "_size", "_tail", "fd")

    def __init__(self, fd: int, size: int, what: str) -> None:
        """Take over the event *fd*, which is closed if this fails.

        Args:
            fd: Of the event.
            size: Of the ring in bytes: a power of two of pages.
            what: What the event is for, in errors.

        Raises:
            KernelError: Its memory cannot be mapped.
        """
        self.fd = fd
        try:
            self._mapped = mmap.mmap(fd, mmap.PAGESIZE + size)
        except (OSError, ValueError) as err:
            os.close(fd)
            code = err.errno if isinstance(err, OSError) and err.errno else errno.EINVAL
            raise failure(code, f"{what}: map {size} bytes") from err
        self._size = size
        self._head = ctypes.c_uint64.from_buffer(self._mapped, _HEAD_AT)
        self._tail = ctypes.c_uint64.from_buffer(self._mapped, _TAIL_AT)
        self._memory = memoryview(self._mapped)[mmap.PAGESIZE :]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return bool(self._head.value == self._tail.value)

    def unread(self) -> bytes:
        """Return a copy of the records that :meth:`skip` has not passed, oldest first, in whole."""
        head, tail = self._head.value, self._tail.value
        if head == tail:
            return b""
        _fence()
        start, end = tail % self._size, head % self._size
        if start < end:
            return bytes(self._memory[start:end])
        return bytes(self._memory[start:]) + bytes(self._memory[:end])

    def skip(self, octets: int) -> None:
        """Let the kernel write over the first *octets* of what is unread: whole records."""
        _fence()
        self._tail.value += octets

    def close(self) -> None:
        """Give the memory back and close the event."""
        if self.fd < 0:
            return
        self._memory.release()
        del self._head, self._tail
        self._mapped.close()
        os.close(self.fd)
        self.fd = -1
