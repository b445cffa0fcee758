# SPDX-License-Identifier: Apache-2.0
"""Give up privileges for good, before a command runs. Counterpart: ``capabilities``."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Collection
from pathlib import Path

from agentwall.host import libc
from agentwall.host.capabilities import DROPPED, mask, number
from agentwall.host.identity import Identity

# include/uapi/linux/prctl.h, seccomp.h and securebits.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C


def drop_privileges(identity: Identity, kept: Collection[str]) -> None:
    """Become *identity*, without :data:`~agentwall.host.capabilities.DROPPED` but for *kept*.

    Cannot be undone: no_new_privs is set and the bounding set is cut. Capabilities in *kept* are
    ambient, so that they survive execve() under a user other than root as well.

    Raises:
        OSError: A step was refused; the process must not go on.
    """
    bounding = _read_mask("CapBnd")
    dropped = DROPPED - set(kept)
    for name in sorted(dropped):
        if bounding >> number(name) & 1:
            libc.prctl(_PR_CAPBSET_DROP, number(name))
    held = _read_mask("CapPrm")
    libc.prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    granted = held & ~mask(dropped) if identity.uid == 0 else held & mask(kept)
    ambient = granted & mask(kept)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    libc.capset(effective=granted, permitted=granted, inheritable=ambient)
    libc.prctl(_PR_SET_KEEPCAPS, 0)
    for name in kept:
        if ambient >> number(name) & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number(name))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def protect_memory() -> None:
    """Keep processes of the same user from tracing the caller; execve() ends it."""
    libc.prctl(_PR_SET_DUMPABLE, 0)


def _read_mask(field: str) -> int:
    for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1], 16)
    raise OSError(f"/proc/self/status: no {field}")


class _Filter(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_SECOND_ARGUMENT = 0, 4, 24
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM

_IOCTL_NUMBERS: dict[str, dict[int, tuple[int, ...]]] = {
    # AUDIT_ARCH: the numbers of ioctl(2) in the ABIs that machine runs (x32 and ia32 too).
    "x86_64": {0xC000003E: (16, 0x40000000 + 16, 0x40000000 + 514), 0x40000003: (54,)},
    "aarch64": {0xC00000B7: (29,), 0x40000028: (54,)},
}


def knows_ioctl(machine: str) -> bool:
    """Say whether :func:`refuse_typing_for_others` works on *machine* (``uname -m``)."""
    return machine in _IOCTL_NUMBERS


def refuse_typing_for_others() -> None:
    """Refuse TIOCSTI and TIOCLINUX, by which a command types into the terminal it shares.

    What it typed would be run by the caller's shell, outside the wall. Needs no_new_privs. Does
    nothing on a machine it does not know, which :func:`knows_ioctl` tells.
    """
    tables = _IOCTL_NUMBERS.get(platform.machine())
    if tables is None:
        return
    code = b"".join(_compile(tables))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Filter(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    libc.prctl_pointer(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def _compile(tables: dict[int, tuple[int, ...]]) -> list[bytes]:
    """Return the classic BPF of: ioctl with either request is refused, all else allowed."""
    pairs = [(arch, nr) for arch, numbers in tables.items() for nr in numbers]
    # One block of four instructions a pair, then: allow, load the request, two tests, verdicts.
    code: list[bytes] = []
    for index, (arch, nr) in enumerate(pairs):
        to_request = 4 * (len(pairs) - 1 - index) + 1
        code += [
            _INSTRUCTION.pack(_LOAD, 0, 0, _OFFSET_ARCH),
            _INSTRUCTION.pack(_EQUAL, 0, 2, arch),
            _INSTRUCTION.pack(_LOAD, 0, 0, _OFFSET_NR),
            _INSTRUCTION.pack(_EQUAL, to_request, 0, nr),
        ]
    return [
        *code,
        _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
        _INSTRUCTION.pack(_LOAD, 0, 0, _OFFSET_SECOND_ARGUMENT),
        _INSTRUCTION.pack(_EQUAL, 2, 0, _TIOCSTI),
        _INSTRUCTION.pack(_EQUAL, 1, 0, _TIOCLINUX),
        _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
        _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),
    ]
