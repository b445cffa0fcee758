# SPDX-License-Identifier: Apache-2.0
"""What a file is mounted as, without touching it: from the tables of mounts (mountinfo, proc(5)).

A sandbox mounts and unmounts what it likes while its processes are looked at, and the kernel gives
numbers of mounts and devices again. So no entry is believed that is older than the last change of
its table, and the file in question is held open meanwhile, which holds its mount.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

MAX_MOUNTINFO_BYTES = 4 << 20
"""Of one table that are read: what is mounted beyond is not known."""

_CHUNK = 1 << 17
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_LIBC = ctypes.CDLL(None, use_errno=True)
# struct statx, include/uapi/linux/stat.h: where stx_dev_major and _minor and stx_mnt_id are.
_STATX_BYTES = 256
_DEVICE_AND_NUMBER = struct.Struct("=IIQ")
_AT_DEVICE = 0x88
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
_STATX_MNT_ID = 0x1000


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of a table."""

    device: bytes
    """Of the file system: ``major:minor``."""
    root: bytes
    """Which directory of the file system is mounted."""
    point: bytes
    """Where, as from the root directory of the process whose table it is."""
    fstype: bytes
    options: bytes
    """Of the file system, still escaped."""


class Table:
    """The mounts that a process sees: read when it is asked, and again once they have changed.

    For one thread.
    """

    def __init__(self, pid: int | str) -> None:
        """Open that of *pid*, ``self`` for this process; it is closed when nobody has it any more.

        Raises:
            OSError: The process has ended.
        """
        self._fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        self._changes = select.poll()
        self._changes.register(self._fd, select.POLLPRI)
        self._lines: dict[bytes, bytes] = {}

    def mount(self, of: bytes) -> Mount | None:
        """Return the mount that has this number, or the first with this device, ``major:minor``."""
        own, _, filesystem = self._current().get(of, b"").partition(b" - ")
        fields, more = own.split(b" "), filesystem.split(b" ")
        if len(fields) < 6 or len(more) < 3:
            return None
        return Mount(fields[2], unescape(fields[3]), unescape(fields[4]), more[0], more[2])

    def _current(self) -> dict[bytes, bytes]:
        # Asked before it is read: what changes meanwhile is seen the next time.
        if self._changes.poll(0) or not self._lines:
            os.lseek(self._fd, 0, os.SEEK_SET)
            chunks, rest = [], MAX_MOUNTINFO_BYTES
            while rest > 0 and (chunk := os.read(self._fd, _CHUNK)):
                chunks.append(chunk)
                rest -= len(chunk)
            self._lines = {}
            for line in b"".join(chunks).split(b"\n"):
                number, _, device, *_ = *line.split(b" ", 3), b"", b"", b""
                self._lines.setdefault(number, line)
                self._lines.setdefault(device, line)
        return self._lines


class Mounts:
    """Tables for looking at one process: its own, and this one's, which may be the same."""

    def __init__(self, pid: int, ours: Table | None = None) -> None:
        """Begin, without reading anything.

        Args:
            pid: Of the process.
            ours: This process's own table, kept from one look to the next: where a thousand
                containers run it has a thousand lines.
        """
        self.pid = pid
        self.ours = ours or Table("self")
        """The table of this process."""

    @cached_property
    def its(self) -> Table:
        """The table of the process, which is ours where it has the same mount namespace.

        Raises:
            ProcessLookupError: It has ended.
        """
        try:
            if os.path.samefile(f"/proc/{self.pid}/ns/mnt", "/proc/self/ns/mnt"):
                return self.ours
            return Table(self.pid)
        except OSError as err:  # of a zombie: EINVAL
            raise ProcessLookupError(f"process {self.pid}: gone") from err

    def fstype(self, fd: int) -> str | None:
        """Return the type of the file system that *fd* is open on; None: it is mounted nowhere.

        Or the process has ended. Nothing of the file system itself is touched.
        """
        device, number = _place_of(fd)
        mount = None
        with suppress(ProcessLookupError):
            # Who has changed its root directory is shown only what is mounted below that.
            for of in (number, device):
                mount = mount or self.its.mount(of) or self.ours.mount(of)
        return None if mount is None else os.fsdecode(mount.fstype)


def may_hang(fstype: str | None) -> bool:
    """Say whether opening or reading a file of such a file system may wait for a sandbox for ever.

    FUSE, which an unprivileged user may serve; and what is not known. An overlay that a sandbox has
    laid over its own FUSE is not recognised.
    """
    return fstype is None or fstype.partition(".")[0] in {"fuse", "fuseblk"}


def mount_of(fd: int) -> bytes:
    """Return the number of the mount that *fd* was opened through; nothing of it is touched."""
    return _place_of(fd)[1]


def unescape(field: bytes) -> bytes:
    """Return what stands in a field of a table."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _place_of(fd: int) -> tuple[bytes, bytes]:
    # Device and number of the mount, as the tables have them. AT_STATX_DONT_SYNC: what the kernel
    # knows itself; who serves the file system is not asked.
    found = ctypes.create_string_buffer(_STATX_BYTES)
    how = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _LIBC.statx(fd, b"", how, _STATX_MNT_ID, found) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    major, minor, number = _DEVICE_AND_NUMBER.unpack_from(found, _AT_DEVICE)
    return b"%d:%d" % (major, minor), b"%d" % number
