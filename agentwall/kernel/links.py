# SPDX-License-Identifier: Apache-2.0
"""Links: what holds a program at a cgroup, and what is attached where.

A link lives as long as a descriptor or a pin holds it; dying detaches nothing that is pinned.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from agentwall.kernel import libbpf
from agentwall.kernel.libbpf import AttachType, check

_QUERY_EFFECTIVE = 1
_MAX_PROGRAMS = 64
"""BPF_CGROUP_MAX_PROGS: the kernel's limit for one cgroup and attach type."""
_Programs = ctypes.c_uint32 * _MAX_PROGRAMS


class _LinkInfo(ctypes.Structure):
    # struct bpf_link_info up to the cgroup member of its union, include/uapi/linux/bpf.h
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("cgroup_id", ctypes.c_uint64),
        ("attach_type", ctypes.c_uint32),
        ("_pad2", ctypes.c_uint32),
    )


class _ProgramInfo(ctypes.Structure):
    # struct bpf_prog_info up to its name, include/uapi/linux/bpf.h
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkInfo:
    """What the kernel says of a cgroup link."""

    id: int
    program_id: int
    cgroup_id: int
    """0 once the link is detached."""
    attach_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInfo:
    """What the kernel says of a loaded program."""

    id: int
    name: str
    """At most 15 characters, chosen by whoever loaded it."""
    created_by_uid: int


class Link:
    """A cgroup link by descriptor."""

    __slots__ = ("_what", "fd")

    def __init__(self, fd: int, what: str) -> None:
        self.fd = fd
        self._what = what

    @classmethod
    def attach(cls, program_fd: int, cgroup_fd: int, attach_type: AttachType) -> Link:
        """Attach a program to a cgroup, beside what is there already.

        The cgroup must be one the caller made; ``wall`` sees to that.

        Raises:
            KernelError: The kernel refuses.
        """
        what = sys.intern(f"attach {attach_type.name.lower()}")
        create = libbpf.library().bpf_link_create
        return cls(check(create(program_fd, cgroup_fd, attach_type, None), what), what)

    @classmethod
    def open(cls, path: Path | str) -> Link:
        """Open the link that is pinned at *path*.

        Raises:
            KernelError: ENOENT: nothing is pinned there.
        """
        return cls(open_pin(path), f"{path}")

    def pin(self, path: Path | str) -> None:
        """Give the link a name on a bpffs."""
        pin(self.fd, path)

    def update(self, program_fd: int) -> None:
        """Put another program in the place of the present one, at once and without a gap.

        Raises:
            KernelError: EINVAL: the programs use different cgroup storage maps (Linux 6.1 and
                others refuse that, 6.18 does not).
        """
        check(libbpf.library().bpf_link_update(self.fd, program_fd, None), f"{self._what}: update")

    def detach(self) -> None:
        """Take the program from the cgroup now, whoever else holds the link.

        Raises:
            KernelError: The kernel refuses.
        """
        check(libbpf.library().bpf_link_detach(self.fd), f"{self._what}: detach")

    def info(self) -> LinkInfo:
        """Return what the kernel says of the link."""
        info = _LinkInfo()
        _read_info(self.fd, info)
        return LinkInfo(
            id=info.id,
            program_id=info.prog_id,
            cgroup_id=info.cgroup_id,
            attach_type=info.attach_type,
        )

    def close(self) -> None:
        """Close the descriptor; the link goes with it unless it is pinned."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def pin(fd: int, path: Path | str) -> None:
    """Give a program, map or link a name on a bpffs.

    Raises:
        KernelError: The name is taken, or its directory is not on a bpffs.
    """
    check(libbpf.library().bpf_obj_pin(fd, str(path).encode()), f"{path}: pin")


def open_pin(path: Path | str) -> int:
    """Return a descriptor, the caller's to close, of what is pinned at *path*.

    Raises:
        KernelError: Nothing is pinned there.
    """
    return check(libbpf.library().bpf_obj_get(str(path).encode()), f"{path}: open pin")


def effective_programs(cgroup_fd: int, attach_type: AttachType) -> list[int]:
    """Return the ids of the programs that run for a cgroup, its ancestors' included.

    Raises:
        KernelError: The kernel does not know the attach type, or refuses.
    """
    ids, count = _Programs(), ctypes.c_uint32(_MAX_PROGRAMS)
    query = libbpf.library().bpf_prog_query
    done = query(cgroup_fd, attach_type, _QUERY_EFFECTIVE, None, ids, ctypes.byref(count))
    if done < 0:
        raise libbpf.error(-done, f"query {attach_type.name.lower()}")
    return ids[: count.value]


def program_id(fd: int) -> int:
    """Return the id of the program behind a descriptor.

    Raises:
        KernelError: *fd* is not a program's.
    """
    info = _ProgramInfo()
    _read_info(fd, info)
    return int(info.id)


def program_info(program_id: int) -> ProgramInfo | None:
    """Return what the kernel says of a program, or None if it has gone."""
    fd = libbpf.library().bpf_prog_get_fd_by_id(program_id)
    if fd < 0:
        return None
    try:
        info = _ProgramInfo()
        _read_info(fd, info)
    finally:
        os.close(fd)
    name = info.name.decode(errors="replace")
    return ProgramInfo(id=info.id, name=name, created_by_uid=info.created_by_uid)


def _read_info(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result = libbpf.library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    check(result, "object info")
