# SPDX-License-Identifier: Apache-2.0
"""Subtract from or add to a number in a map's value that programs add to at the same time.

bpf(2) can only replace a whole value, and what programs added to the old one meanwhile would be
lost. So a program of a dozen instructions does it, atomically, and is run through
``prog_test_run``; it is never attached.
"""

from __future__ import annotations

import errno
import os
import struct

from agentwall.errors import KernelError
from agentwall.kernel import libbpf
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import ProgramType, check
from agentwall.kernel.objects import run_program

_LICENCE = b"Dual BSD/GPL"
_FRAME = 64
"""Bytes of the made-up packet; prog_test_run wants at least an Ethernet header."""
_KEY_ROOM = 16
_HEADER = 14
_ARGUMENTS = _KEY_ROOM + 8

# include/uapi/linux/bpf.h: opcodes, enum bpf_func_id; Documentation/bpf/instruction-set.rst.
_MOV_IMM, _MOV_REG, _ADD_IMM, _NEG = 0xB7, 0xBF, 0x07, 0x87
_LD_MAP_FD, _CALL, _EXIT = 0x18, 0x85, 0x95
_JEQ_IMM, _JNE_IMM, _JLT_REG = 0x15, 0x55, 0xAD
_LDX = {4: 0x61, 8: 0x79}
_ATOMIC = {4: 0xC3, 8: 0xDB}
_MAP_LOOKUP_ELEM, _SKB_LOAD_BYTES = 1, 26
_PSEUDO_MAP_FD = 1
_FRAME_POINTER = 10


def _instruction(
    opcode: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    # struct bpf_insn of a little-endian machine: the destination is the low half of its byte.
    return struct.pack("=BBhi", opcode, source << 4 | destination, offset, immediate)


def _assemble(map_fd: int, offset: int, width: int, *, adds: bool) -> bytes:
    """``if (value->field >= amount) value->field -= amount``, by key and amount in the packet.

    Or ``value->field += amount``.
    """
    key = -_ARGUMENTS
    negate = [
        _instruction(_LDX[width], 2, 0, offset),
        _instruction(_JLT_REG, 2, 1, 2),
        _instruction(_NEG, 1),
    ]
    apply = [*([] if adds else negate), _instruction(_ATOMIC[width], 0, 1, offset)]
    body = [
        _instruction(_LD_MAP_FD, 1, _PSEUDO_MAP_FD, immediate=map_fd),
        _instruction(0),  # the upper half of the 16-byte load
        _instruction(_MOV_REG, 2, _FRAME_POINTER),
        _instruction(_ADD_IMM, 2, immediate=key),
        _instruction(_CALL, immediate=_MAP_LOOKUP_ELEM),
        _instruction(_JEQ_IMM, 0, offset=1 + len(apply)),
        _instruction(_LDX[8], 1, _FRAME_POINTER, key + _KEY_ROOM),
        *apply,
    ]
    start = [
        _instruction(_MOV_IMM, 2, immediate=_HEADER),
        _instruction(_MOV_REG, 3, _FRAME_POINTER),
        _instruction(_ADD_IMM, 3, immediate=key),
        _instruction(_MOV_IMM, 4, immediate=_ARGUMENTS),
        _instruction(_CALL, immediate=_SKB_LOAD_BYTES),
        _instruction(_JNE_IMM, 0, offset=len(body)),
    ]
    return b"".join([*start, *body, _instruction(_MOV_IMM, 0), _instruction(_EXIT)])


class Subtractor:
    """Takes from one field of one map's values. Closed by the one who made it."""

    _adds = False

    def __init__(self, bpf_map: BpfMap, offset: int, width: int) -> None:
        """Load the program.

        Args:
            bpf_map: A hash with keys of at most 16 bytes.
            offset: Of the field in the value, in bytes.
            width: Of the field: 4 or 8 bytes.

        Raises:
            KernelError: The kernel refuses the program.
        """
        if bpf_map.shape.key_size > _KEY_ROOM:
            raise KernelError(
                errno.EINVAL,
                f"map {bpf_map.shape.name}: expected keys of at most {_KEY_ROOM} bytes",
            )
        instructions = _assemble(bpf_map.fd, offset, width, adds=self._adds)
        load = libbpf.library().bpf_prog_load
        count = len(instructions) // 8
        fd = load(ProgramType.SCHED_CLS, b"aw_subtract", _LICENCE, instructions, count, None)
        self._what = f"map {bpf_map.shape.name}: subtract"
        self._fd = check(fd, self._what)

    def subtract(self, key: bytes, amount: int) -> None:
        """Take *amount* from the entry under *key*; where less is left or none, nothing changes.

        Raises:
            KernelError: The kernel does not run the program.
        """
        self._run(key, amount)

    def _run(self, key: bytes, amount: int) -> None:
        arguments = key.ljust(_KEY_ROOM, b"\0") + struct.pack("=Q", amount)
        run_program(self._fd, self._what, (bytes(_HEADER) + arguments).ljust(_FRAME, b"\0"))

    def close(self) -> None:
        """Give the program back."""
        os.close(self._fd)


class Adder(Subtractor):
    """Adds to one field of one map's values, as programs do."""

    _adds = True

    def add(self, key: bytes, amount: int) -> None:
        """Add *amount* to the entry under *key*, if there is one.

        Raises:
            KernelError: The kernel does not run the program.
        """
        self._run(key, amount)
