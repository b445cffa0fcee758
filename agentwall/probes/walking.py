# SPDX-License-Identifier: Apache-2.0
"""Opens files below a root directory, and touches no file system that a sandbox may serve itself.

Links lead nowhere else, and each file system is known before anything on it is looked at: a path
that leads to FUSE ends where it is mounted.
"""

from __future__ import annotations

import ctypes
import os
import stat
from itertools import islice

from agentwall.probes.libraries import is_name_of_library
from agentwall.probes.mounts import Mounts, may_hang, mount_of

MAX_NAMES = 256
"""Of one path, those of the links on it included."""
MAX_LINKS = 40
MAX_ENTRIES = 16384
"""Of one directory that are looked at."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437  # of every architecture
_RESOLVE = 0x01 | 0x02 | 0x10  # RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT
_NO_LINKS = 0x04  # RESOLVE_NO_SYMLINKS


class _OpenHow(ctypes.Structure):
    # struct open_how, include/uapi/linux/openat2.h
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (
    *(ctypes.c_long, ctypes.c_int, ctypes.c_char_p),
    *(ctypes.POINTER(_OpenHow), ctypes.c_size_t),
)
_syscall.restype = ctypes.c_long


def open_in(root: int, path: str | bytes, flags: int, *, may_link: bool = True) -> int | None:
    """Open *path* as if *root* were ``/``, on its file system alone (openat2(2), Linux 5.6).

    Links lead nowhere else, or with *may_link* unset nowhere. None: there is no such file.
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=_RESOLVE | (0 if may_link else _NO_LINKS))
    fd = int(_syscall(_OPENAT2, root, os.fsencode(path), how, ctypes.sizeof(how)))
    return fd if fd >= 0 else None


def open_below(mounts: Mounts, root: int, path: str) -> tuple[int, str] | None:
    """Open *path* as if *root* were ``/``, without rights (O_PATH).

    Args:
        mounts: Those of a process in whose mount namespace *root* was opened.
        root: A directory on a file system that may be touched.
        path: Absolute, or as from the root.

    Returns:
        The descriptor, which the caller closes, and the path without links. None: there is no such
        file, or the way leads through a file system that may hang.
    """
    walk = _Walk(mounts, root)
    try:
        return walk.take() if walk.go(path) else None
    except (OSError, ValueError):  # a name that no file can have
        return None
    finally:
        walk.close()


def open_regular(found: int) -> int | None:
    """Open for reading what *found*, without rights, is open on; None: it is no regular file.

    *found* is closed. Opening a device would do something, so what it is was looked at before.
    """
    try:
        return reopen(found) if stat.S_ISREG(os.fstat(found).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(found)


def reopen(found: int) -> int:
    """Open for reading the regular file that *found*, without rights, is open on.

    Raises:
        OSError: It may not be read, or there are too many descriptors.
    """
    return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def library_names(directory: int) -> list[str]:
    """Return names in a directory, open for reading, that TLS libraries may have, sorted."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES)]
    except OSError:
        return []
    return sorted(filter(is_name_of_library, names))


class _Walk:
    # The directories on the way to where it is, each with its name and its mount.

    def __init__(self, mounts: Mounts, root: int) -> None:
        self._mounts = mounts
        self._way: list[tuple[int, str, bytes]] = [(os.dup(root), "", mount_of(root))]

    def go(self, path: str) -> bool:
        names = path.split("/")[::-1]
        steps, links = MAX_NAMES, MAX_LINKS
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                self._up_to(max(1, len(self._way) - 1))
                continue
            steps -= 1
            target = self._enter(name)
            if target is not None:
                links -= 1
                names += target.split("/")[::-1]
                if target.startswith("/"):
                    self._up_to(1)
            if steps < 0 or links < 0 or len(names) > MAX_NAMES:
                return False
        return True

    def _enter(self, name: str) -> str | None:
        """Go on to *name*; where it is a link stay, and return what is in it.

        Raises:
            OSError: It is not there, or may not be touched.
        """
        at, _, before = self._way[-1]
        fd = os.open(name, _LOOK, dir_fd=at)
        try:
            mount = mount_of(fd)
            if mount != before and may_hang(self._mounts.fstype(fd)):
                raise PermissionError
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                return os.readlink("", dir_fd=fd)
            self._way.append((os.dup(fd), name, mount))
            return None
        finally:
            os.close(fd)

    def _up_to(self, depth: int) -> None:
        for fd, _, _ in self._way[depth:]:
            os.close(fd)
        del self._way[depth:]

    def take(self) -> tuple[int, str]:
        names = [name for _, name, _ in self._way[1:]]
        return self._way.pop()[0], "/" + "/".join(names)

    def close(self) -> None:
        self._up_to(0)
