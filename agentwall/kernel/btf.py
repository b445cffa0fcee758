# SPDX-License-Identifier: Apache-2.0
"""BTF: what the compiler wrote down about types, of an object or of a map in the kernel.

Source: Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import struct
from collections.abc import Iterator

from agentwall.errors import KernelError
from agentwall.kernel import libbpf
from agentwall.kernel.layout import Layout, Member
from agentwall.kernel.libbpf import check_pointer

_TYPE = struct.Struct("=III")
"""``struct btf_type``; what a kind has beside it follows."""
_BITS_OF_OFFSET = 0xFF_FFFF
_MAX_DEPTH = 32
_POINTER_BYTES = 8


class _Kind(enum.IntEnum):
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    DATASEC = 15
    FLOAT = 16
    TYPE_TAG = 18
    ENUM64 = 19


_SIZED = (_Kind.INT, _Kind.ENUM, _Kind.FLOAT, _Kind.ENUM64)
_NAMES_FOR_OTHERS = (*(_Kind.TYPEDEF, _Kind.VOLATILE, _Kind.CONST, _Kind.RESTRICT, _Kind.TYPE_TAG),)


class Btf:
    """Types by number."""

    def __init__(self, pointer: int, *, is_owned: bool = False) -> None:
        """Read from libbpf's ``struct btf``.

        Args:
            pointer: To it.
            is_owned: Whether :meth:`close` frees it.
        """
        self._pointer = pointer
        self._is_owned = is_owned

    @classmethod
    def from_kernel(cls, btf_id: int) -> Btf:
        """Load the types that the kernel keeps under *btf_id*; to be closed.

        Raises:
            KernelError: There are none.
        """
        loaded = libbpf.library().btf__load_from_kernel_by_id(btf_id)
        return cls(check_pointer(loaded, f"BTF {btf_id}: load"), is_owned=True)

    def close(self) -> None:
        """Free what :meth:`from_kernel` loaded."""
        if self._is_owned and self._pointer:
            libbpf.library().btf__free(self._pointer)
            self._pointer = 0

    def layout(self, type_id: int) -> Layout:
        """Return the layout of a type.

        Raises:
            KernelError: It is not one that a map's key or value can have.
        """
        return self._layout(type_id, _MAX_DEPTH)

    def _layout(self, type_id: int, depth: int) -> Layout:
        kind, vlen, is_flagged, size, at = self._type(type_id)
        if kind in _NAMES_FOR_OTHERS and depth:
            return self._layout(size, depth - 1)  # the number of the type named
        if kind in _SIZED:
            return Layout(size)
        if kind == _Kind.PTR:
            return Layout(_POINTER_BYTES)
        if kind == _Kind.ARRAY and depth:
            element_id, _, count = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
            element = self._layout(element_id, depth - 1)
            return Layout(count * element.size, element=element)
        if kind in (_Kind.STRUCT, _Kind.UNION) and depth:
            raw = ctypes.string_at(at, _TYPE.size * vlen)
            mask = _BITS_OF_OFFSET if is_flagged else 0xFFFF_FFFF
            members = (
                Member(self._name(name), offset & mask, self._layout(number, depth - 1))
                for name, number, offset in _TYPE.iter_unpack(raw)
            )
            return Layout(size, members=tuple(members))
        raise KernelError(errno.EINVAL, f"BTF: type {type_id}: kind {kind}: not of a map")

    def variables(self, section: str) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of each variable in a section; none where it is not there."""
        find = libbpf.library().btf__find_by_name_kind
        number = find(self._pointer, section.encode(), _Kind.DATASEC)
        if number < 0:
            return
        _, vlen, _, _, at = self._type(number)
        for type_id, offset, size in _TYPE.iter_unpack(ctypes.string_at(at, _TYPE.size * vlen)):
            yield self._name(self._record(type_id)[0]), offset, size

    def _type(self, type_id: int) -> tuple[int, int, bool, int, int]:
        """Kind, number of members, its flag, size or type, and where what follows it lies."""
        _, info, size = self._record(type_id)
        address = libbpf.library().btf__type_by_id(self._pointer, type_id)
        kind, vlen, flag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        return kind, vlen, flag, size, address + _TYPE.size

    def _record(self, type_id: int) -> tuple[int, int, int]:
        address = libbpf.library().btf__type_by_id(self._pointer, type_id)
        found = ctypes.string_at(check_pointer(address, f"BTF: type {type_id}"), _TYPE.size)
        name, info, size = _TYPE.unpack(found)
        return name, info, size

    def _name(self, offset: int) -> str:
        name: bytes | None = libbpf.library().btf__name_by_offset(self._pointer, offset)
        return (name or b"").decode()
