# SPDX-License-Identifier: Apache-2.0
"""Tiny programs and maps, tried to learn what this kernel can do.

Nothing is inferred from a version: distributions backport, and a kernel may refuse what it knows.
Programs permit everything and are attached, if at all, to an empty cgroup of our own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agentwall.errors import KernelError
from agentwall.kernel import libbpf
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import AttachType, MapType, ProgramType, check
from agentwall.kernel.links import Link

_LICENCE = b"Dual BSD/GPL"
_NO_SUCH_DEVICE = 0x7FFF_FFFF
"""An interface index that does not exist, so that nothing can be attached to it."""


# struct bpf_insn: opcode, registers (the destination in the low half on little-endian machines),
# offset, immediate. Source: Documentation/bpf/instruction-set.rst.
def _instruction(opcode: int, destination: int = 0, immediate: int = 0, source: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, destination | source << 4, 0, immediate)


_BPF_MOV64_IMM, _BPF_MOV64_REG, _BPF_LD_IMM64, _BPF_CALL, _BPF_EXIT = 0xB7, 0xBF, 0x18, 0x85, 0x95
_BPF_PSEUDO_MAP_FD = 1
RETURN_1 = _instruction(_BPF_MOV64_IMM, 0, 1) + _instruction(_BPF_EXIT)
"""``return 1``: permit."""
RETURN_0 = _instruction(_BPF_MOV64_IMM, 0, 0) + _instruction(_BPF_EXIT)


_TAIL_CALL = 12
_CALLED_BY_PROBES = {
    "bpf_get_current_pid_tgid": 14,
    "bpf_get_current_task": 35,
    "bpf_probe_read_user": 112,
    "bpf_get_current_ancestor_cgroup_id": 123,
    "bpf_ktime_get_boot_ns": 125,
    "bpf_task_storage_get": 156,
    "bpf_get_current_task_btf": 158,
}
"""What ``bpf/probes/tls.c`` cannot do without beside the tail call: ``enum bpf_func_id``."""


class _LoadOptions(ctypes.Structure):
    # struct bpf_prog_load_opts up to attach_btf_id, libbpf 1.1 src/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
    )


@contextmanager
def loaded(
    program_type: ProgramType,
    attach_type: AttachType,
    *,
    instructions: bytes = RETURN_1,
    attach_btf_id: int = 0,
) -> Iterator[int]:
    """Load a program and yield its descriptor.

    Raises:
        KernelError: The kernel refuses it: EINVAL or E2BIG for a type it does not know.
    """
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=attach_type,
        attach_btf_id=attach_btf_id,
    )
    load = libbpf.library().bpf_prog_load
    count = len(instructions) // 8
    fd = load(program_type, b"aw_probe", _LICENCE, instructions, count, ctypes.byref(options))
    check(fd, f"load {program_type.name.lower()} for {attach_type.name.lower()}")
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def probe_program() -> Iterator[int]:
    """Load a program that does what those of ``bpf/probes`` do, and leads to another; yield its fd.

    Raises:
        KernelError: The kernel refuses it, or has not all functions that those call.
    """
    kind, none = ProgramType.KPROBE, AttachType.INET_INGRESS  # 0: it has none
    lacking = [name for name, each in _CALLED_BY_PROBES.items() if not has_helper(kind, each)]
    if lacking:
        what = f"expected {', '.join(lacking)} for probes in this kernel, got none"
        raise KernelError(errno.EOPNOTSUPP, what)
    shape = MapShape(
        name="aw_probe", type=MapType.PROG_ARRAY, key_size=4, value_size=4, max_entries=1
    )
    with ExitStack() as stack:
        onward = BpfMap.create(shape)
        stack.callback(onward.close)
        instructions = _tail_call(onward)
        fd = stack.enter_context(loaded(kind, none, instructions=instructions))
        end = stack.enter_context(loaded(kind, none, instructions=RETURN_0))
        slot = struct.pack("=I", end)
        done = libbpf.library().bpf_map_update_elem(onward.fd, bytes(4), slot, 0)
        check(done, "map aw_probe: lead from one program to another")
        yield fd


def _tail_call(onward: BpfMap) -> bytes:
    """Return a program that finds the first ancestor of its cgroup and goes on in *onward*."""
    return (
        _instruction(_BPF_MOV64_REG, 6, source=1)  # the context
        + _instruction(_BPF_MOV64_IMM, 1, 1)
        + _instruction(_BPF_CALL, 0, _CALLED_BY_PROBES["bpf_get_current_ancestor_cgroup_id"])
        + _instruction(_BPF_MOV64_REG, 1, source=6)
        + _instruction(_BPF_LD_IMM64, 2, onward.fd, _BPF_PSEUDO_MAP_FD)
        + bytes(8)  # of the number, the upper half
        + _instruction(_BPF_MOV64_IMM, 3, 0)
        + _instruction(_BPF_CALL, 0, _TAIL_CALL)
        + RETURN_0
    )


def try_cgroup_hook(program_type: ProgramType, attach_type: AttachType, cgroup_fd: int) -> None:
    """Attach a program that permits everything to an empty cgroup, and take it off again.

    Raises:
        KernelError: The kernel refuses the program or the link.
    """
    with loaded(program_type, attach_type) as fd:
        Link.attach(fd, cgroup_fd, attach_type).close()


def try_tcx() -> None:
    """Try a tcx link, on an interface that does not exist.

    Raises:
        KernelError: ENODEV: the kernel knows tcx and missed the interface; EINVAL: it does not.
    """
    with loaded(ProgramType.SCHED_CLS, AttachType.TCX_INGRESS) as fd:
        create = libbpf.library().bpf_link_create
        done = create(fd, _NO_SUCH_DEVICE, AttachType.TCX_INGRESS, None)
        check(done, "attach tcx_ingress")


def try_lsm(hook: str) -> None:
    """Load, without attaching, a program for an LSM hook.

    Raises:
        KernelError: The kernel has no BTF, no such hook, or refuses LSM programs.
    """
    find = libbpf.library().libbpf_find_vmlinux_btf_id
    btf_id = check(find(hook.encode(), AttachType.LSM_MAC), f"find LSM hook {hook}")
    with loaded(ProgramType.LSM, AttachType.LSM_MAC, instructions=RETURN_0, attach_btf_id=btf_id):
        pass


def has_map_type(kind: MapType) -> bool:
    """Say whether the kernel can make maps of this type.

    Raises:
        KernelError: It cannot be found out.
    """
    result = libbpf.library().libbpf_probe_bpf_map_type(kind, None)
    return check(result, f"probe map type {kind.name.lower()}") > 0


def has_helper(program_type: ProgramType, helper: int) -> bool:
    """Say whether programs of this type may call the helper of this number.

    Raises:
        KernelError: It cannot be found out.
    """
    result = libbpf.library().libbpf_probe_bpf_helper(program_type, helper, None)
    return check(result, f"probe helper {helper}") > 0


def has_batch_update(kind: MapType) -> bool:
    """Say whether the kernel updates many entries of such a map in one call."""
    shape = MapShape(name="aw_probe", type=kind, key_size=8, value_size=8, max_entries=4)
    no_prealloc = 1 if kind is MapType.LPM_TRIE else 0
    bpf_map = BpfMap.create(shape, flags=no_prealloc)
    try:
        key = struct.pack("=II", 32, 1)
        count = ctypes.c_uint32(1)
        update = libbpf.library().bpf_map_update_batch
        return bool(update(bpf_map.fd, key, bytes(8), ctypes.byref(count), None) == 0)
    finally:
        bpf_map.close()
