# SPDX-License-Identifier: Apache-2.0
"""System calls that no cgroup hook sees, refused by a seccomp filter that nothing takes off again.

seccomp(2): the filter is inherited by every process the command starts, and survives execve().
It is classic BPF over ``struct seccomp_data``, made here instruction by instruction. Numbers of
system calls are of ``asm/unistd_64.h``, ``unistd_x32.h`` and ``unistd_32.h`` (x86),
``asm-generic/unistd.h`` (aarch64) and ``arch/arm/tools/syscall.tbl`` (32-bit Arm).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from agentwall.host import libc

_FAMILIES = frozenset(
    map(int, (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK))
)
_AF_PACKET = int(socket.AF_PACKET)
_SOCK_PACKET = 10
"""With AF_INET this type makes a socket of AF_PACKET (__sock_create() in net/socket.c)."""
_SOCK_TYPE_MASK = 0xF
"""``include/linux/net.h``: the other bits are SOCK_CLOEXEC and SOCK_NONBLOCK."""

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SYS_SOCKET, _SYS_SOCKETPAIR, _SYS_SETSOCKOPT = 1, 8, 14
"""Sub-calls of socketcall(2), ``include/uapi/linux/net.h``."""

_REWRITING = ((1, 60), (6, 19))
"""Level and name of SO_ZEROCOPY (SOL_SOCKET) and TCP_REPAIR (SOL_TCP), on every machine below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abi:
    """The numbers of one system call ABI."""

    audit_arch: int
    """``AUDIT_ARCH_*``, ``include/uapi/linux/audit.h``."""
    ioctl: tuple[int, ...]
    sockets: tuple[int, int]
    """socket(2) and socketpair(2)."""
    setsockopt: tuple[int, ...]
    io_uring_setup: int = 425
    socketcall: int | None = None
    ignored_bits: int = 0
    """Of a number: what tells x32 from x86-64, which share the rest."""


_MACHINES = {
    "x86_64": (
        # 514 is ioctl(2) of x32, and was that without x32's bit too in kernels before 5.4.
        # So is 541 setsockopt(2).
        _Abi(
            audit_arch=0xC000003E,
            ioctl=(16, 514),
            sockets=(41, 53),
            setsockopt=(54, 541),
            ignored_bits=0x40000000,
        ),
        _Abi(
            audit_arch=0x40000003,
            ioctl=(54,),
            sockets=(359, 360),
            setsockopt=(366,),
            socketcall=102,
        ),
    ),
    "aarch64": (
        _Abi(audit_arch=0xC00000B7, ioctl=(29,), sockets=(198, 199), setsockopt=(208,)),
        _Abi(audit_arch=0x40000028, ioctl=(54,), sockets=(281, 288), setsockopt=(294,)),
    ),
}
"""By ``uname -m``. All are little-endian: the low word of an argument comes first."""


def knows_machine(machine: str) -> bool:
    """Say whether there is a filter for *machine* (``uname -m``)."""
    return machine in _MACHINES


def permitted_families(kept_capabilities: Collection[str]) -> frozenset[int]:
    """Return the socket families that a command which keeps these capabilities may use."""
    return _FAMILIES | ({_AF_PACKET} if "NET_RAW" in kept_capabilities else set())


def install_filter(families: frozenset[int] | None) -> None:
    """Put the filter of :func:`compile_filter` on the caller and all that it starts, for good.

    Needs no_new_privs. Does nothing on a machine that :func:`knows_machine` denies.

    Raises:
        OSError: The kernel has no seccomp filters.
    """
    code = compile_filter(platform.machine(), families)
    if code is None:
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    libc.prctl_pointer(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def compile_filter(machine: str, families: frozenset[int] | None) -> bytes | None:
    """Return a filter as ``struct sock_filter[]``, or None for a machine that is not known.

    Always refused, with EPERM: TIOCSTI and TIOCLINUX, by which a command types into the terminal
    it shares; what it typed would be run by the caller's shell, outside the wall. So are the socket
    options SO_ZEROCOPY and TCP_REPAIR, by which bytes change after egress has judged them.

    Args:
        machine: As ``uname -m`` says it.
        families: The only socket families whose sockets may be made; others get EAFNOSUPPORT. So
            does the making of any by ia32's socketcall(2), whose family lies in memory that the
            command may change meanwhile; its setsockopt, likewise unseen, gets EPERM.
            io_uring_setup(2) gets ENOSYS, for a ring makes sockets without a system call. None:
            none of this.
    """
    abis = _MACHINES.get(machine)
    if abis is None:
        return None
    code = _Assembly()
    code.load(_OFFSET_ARCH)
    for abi in abis:
        code.jump_if(abi.audit_arch, f"abi {abi.audit_arch}")
    code.refuse(errno.ENOSYS)
    for abi in abis:
        code.place(f"abi {abi.audit_arch}")
        _add_dispatch(code, abi, is_closed=families is not None)
    _add_ioctl(code)
    _add_options(code)
    if families is not None:
        _add_sockets(code, families)
    code.place("not permitted")
    code.refuse(errno.EPERM)
    code.place("allowed")
    code.allow()
    return code.assemble()


def _add_dispatch(code: _Assembly, abi: _Abi, *, is_closed: bool) -> None:
    code.load(_OFFSET_NUMBER)
    code.keep_bits(0xFFFFFFFF & ~abi.ignored_bits)
    for number in abi.ioctl:
        code.jump_if(number, "ioctl")
    for number in abi.setsockopt:
        code.jump_if(number, "setsockopt")
    if is_closed:
        for number in abi.sockets:
            code.jump_if(number, "socket")
        code.jump_if(abi.io_uring_setup, "no such call")
        if abi.socketcall is not None:
            code.jump_if(abi.socketcall, "socketcall")
    code.allow()


def _add_ioctl(code: _Assembly) -> None:
    code.place("ioctl")
    code.load(_offset_of_argument(1))
    for request in (_TIOCSTI, _TIOCLINUX):
        code.jump_if(request, "not permitted")
    code.allow()


def _add_options(code: _Assembly) -> None:
    code.place("setsockopt")
    code.load(_offset_of_argument(1))
    for level, _ in _REWRITING:
        code.jump_if(level, f"level {level}")
    code.allow()
    for level, option in _REWRITING:
        code.place(f"level {level}")
        code.load(_offset_of_argument(2))
        code.jump_if(option, "not permitted")
        code.allow()


def _add_sockets(code: _Assembly, families: frozenset[int]) -> None:
    code.place("socketcall")
    code.load(_offset_of_argument(0))
    for call in (_SYS_SOCKET, _SYS_SOCKETPAIR):
        code.jump_if(call, "no such family")
    code.jump_if(_SYS_SETSOCKOPT, "not permitted")
    code.allow()
    code.place("socket")
    code.load(_offset_of_argument(0))
    for family in sorted(families):
        is_disguise = family == int(socket.AF_INET) and _AF_PACKET not in families
        code.jump_if(family, "inet" if is_disguise else "allowed")
    code.refuse(errno.EAFNOSUPPORT)
    code.place("inet")
    code.load(_offset_of_argument(1))
    code.keep_bits(_SOCK_TYPE_MASK)
    code.jump_if(_SOCK_PACKET, "no such family")
    code.allow()
    code.place("no such family")
    code.refuse(errno.EAFNOSUPPORT)
    code.place("no such call")
    code.refuse(errno.ENOSYS)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


_INSTRUCTION = struct.Struct("=HBBI")
"""``struct sock_filter``: code, jt, jf, k; ``include/uapi/linux/filter.h``."""
_LD_W_ABS, _JMP_JEQ_K, _ALU_AND_K, _RET_K = 0x20, 0x15, 0x54, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
"""Of ``struct seccomp_data``, ``include/uapi/linux/seccomp.h``."""


def _offset_of_argument(index: int) -> int:
    # The low word alone, as the kernel looks at an int.
    return _OFFSET_ARGUMENTS + 8 * index


class _Assembly:
    """Instructions in order, with names for the places that jumps lead to, always forward."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None]] = []
        self._places: dict[str, int] = {}

    def place(self, name: str) -> None:
        """Name the next instruction."""
        self._places[name] = len(self._code)

    def load(self, offset: int) -> None:
        """Take the 32-bit word at *offset* of ``struct seccomp_data``."""
        self._code.append((_LD_W_ABS, offset, None))

    def keep_bits(self, mask: int) -> None:
        """Clear the bits of the word that are not in *mask*."""
        self._code.append((_ALU_AND_K, mask, None))

    def jump_if(self, value: int, name: str) -> None:
        """Go to *name* if the word is *value*."""
        self._code.append((_JMP_JEQ_K, value, name))

    def allow(self) -> None:
        """End: let the system call through."""
        self._code.append((_RET_K, _RET_ALLOW, None))

    def refuse(self, code: int) -> None:
        """End: let the system call fail with errno *code*."""
        self._code.append((_RET_K, _RET_ERRNO | code, None))

    def assemble(self) -> bytes:
        """Return the instructions as bytes."""
        return b"".join(
            _INSTRUCTION.pack(code, self._places[name] - index - 1 if name else 0, 0, operand)
            for index, (code, operand, name) in enumerate(self._code)
        )
