# SPDX-License-Identifier: Apache-2.0
"""The C library calls that Python 3.11 does not offer, each raising :class:`OSError`.

Nothing here decides anything; ``namespaces``, ``privileges``, ``signals`` and ``launch`` do.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_SFD_NONBLOCK = os.O_NONBLOCK
_SFD_CLOEXEC = os.O_CLOEXEC
_SIGSET_BYTES = 128
"""``sizeof(sigset_t)`` in glibc and musl."""
_LAST_DESCRIPTOR = 0xFFFFFFFF

_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Move the caller (its children, for CLONE_NEWPID) into new namespaces."""
    _checked(_LIBC.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the caller (its children, for CLONE_NEWPID) into the namespace of *descriptor*."""
    _checked(_LIBC.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Call mount(2)."""
    encode = os.fsencode
    result = _LIBC.mount(
        encode(source) if source else None,
        encode(target),
        encode(kind) if kind else None,
        ctypes.c_ulong(flags),
        encode(data) if data else None,
    )
    _checked(result, f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    """Call umount2(2)."""
    _checked(_LIBC.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2) with integer arguments; the unused ones are 0, as the kernel demands."""
    zero = ctypes.c_ulong(0)
    result = _LIBC.prctl(
        ctypes.c_int(option), ctypes.c_ulong(argument), ctypes.c_ulong(second), zero, zero
    )
    return _checked(result, f"prctl {option}")


def prctl_pointer(option: int, argument: int, data: ctypes.Structure) -> None:
    """Call prctl(2) with a struct as third argument."""
    zero = ctypes.c_ulong(0)
    result = _LIBC.prctl(
        ctypes.c_int(option), ctypes.c_ulong(argument), ctypes.byref(data), zero, zero
    )
    _checked(result, f"prctl {option}")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_CAPABILITY_VERSION_3 = 0x20080522
"""``include/uapi/linux/capability.h``: two 32-bit words a set."""


def capset(*, effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's capability sets, each a mask by capability number."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    words = (_CapabilityData * 2)()
    for index, word in enumerate(words):
        shift = 32 * index
        word.effective = effective >> shift & 0xFFFFFFFF
        word.permitted = permitted >> shift & 0xFFFFFFFF
        word.inheritable = inheritable >> shift & 0xFFFFFFFF
    _checked(_LIBC.capset(ctypes.byref(header), words), "capset")


def signalfd(signals: Iterable[signal.Signals]) -> int:
    """Return a non-blocking, close-on-exec descriptor from which *signals* are read."""
    mask = ctypes.create_string_buffer(_SIGSET_BYTES)
    _LIBC.sigemptyset(mask)
    for number in signals:
        _checked(_LIBC.sigaddset(mask, ctypes.c_int(number)), "sigaddset")
    flags = ctypes.c_int(_SFD_NONBLOCK | _SFD_CLOEXEC)
    return _checked(_LIBC.signalfd(ctypes.c_int(-1), mask, flags), "signalfd")


def inotify_init() -> int:
    """Return a non-blocking, close-on-exec inotify descriptor."""
    return _checked(_LIBC.inotify_init1(ctypes.c_int(_SFD_NONBLOCK | _SFD_CLOEXEC)), "inotify_init")


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """Watch *path*; return the number by which events name it."""
    result = _LIBC.inotify_add_watch(
        ctypes.c_int(descriptor), os.fsencode(path), ctypes.c_uint32(mask)
    )
    return _checked(result, f"inotify_add_watch {path}")


def inotify_rm_watch(descriptor: int, number: int) -> None:
    """Watch the path of that *number* no longer."""
    result = _LIBC.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(number))
    _checked(result, "inotify_rm_watch")


def close_others(kept: Iterable[int]) -> None:
    """Close every descriptor that is not in *kept*."""
    first = 0
    for descriptor in sorted(set(kept)):
        _close_range(first, descriptor - 1)
        first = descriptor + 1
    _close_range(first, _LAST_DESCRIPTOR)


def _close_range(first: int, last: int) -> None:
    if last >= first:
        result = _LIBC.close_range(ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_int(0))
        _checked(result, "close_range")


def execvpe(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Replace the process by *argv*, found along PATH; return an errno, for it only comes back so.

    A file without ``#!`` goes to /bin/sh, as execvp(3) says and env(1) does.
    """
    arguments = [os.fsencode(word) for word in argv]
    variables = [os.fsencode(f"{key}={value}") for key, value in environment.items()]
    arrays = [(ctypes.c_char_p * (len(words) + 1))(*words) for words in (arguments, variables)]
    _LIBC.execvpe(arguments[0], arrays[0], arrays[1])
    return ctypes.get_errno()
