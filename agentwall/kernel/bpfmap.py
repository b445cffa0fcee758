# SPDX-License-Identifier: Apache-2.0
"""One BPF map by descriptor: lookup, update, delete, and the batch forms of them.

Keys and values are bytes of exactly the map's sizes, host byte order unless ``bpf/abi.h`` says
otherwise; ``maps`` and ``decode`` know what they mean. Batch operations that this kernel lacks for
a map type are done one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentwall.errors import KernelError
from agentwall.kernel import libbpf
from agentwall.kernel.libbpf import ENOTSUPP, MapType, check

_NO_BATCH = (errno.EINVAL, ENOTSUPP, errno.EOPNOTSUPP)
_NOEXIST, _LOCK = 1, 4
"""``BPF_NOEXIST`` and ``BPF_F_LOCK``, include/uapi/linux/bpf.h."""
_BATCH_ENTRIES = 4096
_CURSOR_BYTES = 4
"""Room for the kernel's opaque batch position: a u32 for hashes, a whole key for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapShape:
    """What a map was created as."""

    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int


class _MapCreateOptions(ctypes.Structure):
    # struct bpf_map_create_opts, libbpf 1.1 src/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _BatchOptions(ctypes.Structure):
    # struct bpf_map_batch_opts, libbpf 1.1 src/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class BpfMap:
    """A map by descriptor. The descriptor is the creator's to close; see :meth:`close`."""

    def __init__(self, fd: int, shape: MapShape) -> None:
        self.fd = fd
        self.shape = shape

    @classmethod
    def create(cls, shape: MapShape, *, flags: int = 0, inner: BpfMap | None = None) -> BpfMap:
        """Create a map; the caller closes it. *inner*: like the maps that a map of maps holds.

        Raises:
            KernelError: This kernel refuses it.
        """
        options = _MapCreateOptions(
            sz=ctypes.sizeof(_MapCreateOptions),
            map_flags=flags,
            inner_map_fd=inner.fd if inner else 0,
        )
        fd = libbpf.library().bpf_map_create(
            shape.type,
            shape.name.encode(),
            shape.key_size,
            shape.value_size,
            shape.max_entries,
            ctypes.byref(options),
        )
        return cls(check(fd, f"map {shape.name}: create {shape.type.name.lower()}"), shape)

    def close(self) -> None:
        """Close the descriptor of a map made by :meth:`create`."""
        os.close(self.fd)

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value under *key*, or None where there is none."""
        self._expect(key, self.shape.key_size, "key")
        value = ctypes.create_string_buffer(self.shape.value_size)
        result = libbpf.library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        check(result, f"map {self.shape.name}: lookup")
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Write *value* under *key*, new or not.

        Raises:
            KernelError: E2BIG or ENOSPC: the map is full; ENOENT: cgroup storage without a link.
        """
        self._expect(key, self.shape.key_size, "key")
        self._expect(value, self.shape.value_size, "value")
        result = libbpf.library().bpf_map_update_elem(self.fd, key, value, 0)
        check(result, f"map {self.shape.name}: update")

    def add(self, key: bytes, value: bytes) -> bool:
        """Write *value* under *key* if there is none; say whether it was written.

        Raises:
            KernelError: As :meth:`update`.
        """
        self._expect(key, self.shape.key_size, "key")
        self._expect(value, self.shape.value_size, "value")
        result = libbpf.library().bpf_map_update_elem(self.fd, key, value, _NOEXIST)
        if result == -errno.EEXIST:
            return False
        check(result, f"map {self.shape.name}: add")
        return True

    def take(self, key: bytes) -> bytes | None:
        """Remove *key* and return the last value it had, whole; None where there was none.

        Only for hashes whose values have a lock (Linux 5.14 and later).
        """
        self._expect(key, self.shape.key_size, "key")
        value = ctypes.create_string_buffer(self.shape.value_size)
        take = libbpf.library().bpf_map_lookup_and_delete_elem_flags
        result = take(self.fd, key, value, _LOCK)
        if result == -errno.ENOENT:
            return None
        check(result, f"map {self.shape.name}: take")
        return value.raw

    def delete(self, key: bytes) -> bool:
        """Remove *key*; say whether it was there."""
        self._expect(key, self.shape.key_size, "key")
        result = libbpf.library().bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        check(result, f"map {self.shape.name}: delete")
        return True

    def keys(self) -> Iterator[bytes]:
        """Yield the keys; do not delete while iterating, or the walk starts over."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.shape.key_size)
        while True:
            result = libbpf.library().bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            check(result, f"map {self.shape.name}: next key")
            key = following.raw
            yield key

    def update_batch(self, keys: bytes, values: bytes) -> None:
        """Write many entries: *keys* and *values* are concatenations in the same order.

        Raises:
            KernelError: As :meth:`update`; some entries may have been written.
        """
        size, width = self.shape.key_size, self.shape.value_size
        total = self._count(keys, size)
        self._expect(values, width * total, "values")
        done = ctypes.c_uint32(total)
        update = libbpf.library().bpf_map_update_batch
        result = update(self.fd, keys, values, ctypes.byref(done), None) if total else 0
        if -result in _NO_BATCH:
            for i in range(total):
                self.update(keys[i * size : (i + 1) * size], values[i * width : (i + 1) * width])
            return
        check(result, f"map {self.shape.name}: update {total} entries")

    def delete_batch(self, keys: bytes) -> None:
        """Remove many entries; those that are not there are passed over."""
        size = self.shape.key_size
        total = self._count(keys, size)
        done = ctypes.c_uint32(total)
        delete = libbpf.library().bpf_map_delete_batch
        result = delete(self.fd, keys, ctypes.byref(done), None) if total else 0
        if result == -errno.ENOENT or -result in _NO_BATCH:
            for i in range(total):
                self.delete(keys[i * size : (i + 1) * size])
            return
        check(result, f"map {self.shape.name}: delete {total} entries")

    def entries(self, *, locked: bool = False) -> list[tuple[bytes, bytes]]:
        """Return every (key, value). What changes meanwhile may be in it or not.

        Args:
            locked: Take the lock that the values have, so that none is half of an older one.
        """
        return self._walk("bpf_map_lookup_batch", self._entries_singly, _LOCK if locked else 0)

    def drain(self) -> list[tuple[bytes, bytes]]:
        """Remove and return every (key, value) of a hash, each exactly once."""
        return self._walk("bpf_map_lookup_and_delete_batch", self._drain_singly)

    def _entries_singly(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def _drain_singly(self) -> Iterator[tuple[bytes, bytes]]:
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None and self.delete(key):
                yield key, value

    def _walk(
        self, call: str, singly: Callable[[], Iterator[tuple[bytes, bytes]]], flags: int = 0
    ) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        position: ctypes.Array[ctypes.c_char] | None = None
        room = min(_BATCH_ENTRIES, self.shape.max_entries)
        while True:
            after = ctypes.create_string_buffer(max(_CURSOR_BYTES, self.shape.key_size))
            result, batch = self._read_batch(call, position, after, room, flags)
            if -result in _NO_BATCH and position is None:
                return list(singly())
            if result == -errno.ENOSPC:  # one bucket holds more than there is room for
                room *= 2
                continue
            found += batch
            if result == -errno.ENOENT:
                return found
            check(result, f"map {self.shape.name}: read {room} entries")
            position = after

    def _read_batch(
        self,
        call: str,
        position: ctypes.Array[ctypes.c_char] | None,
        after: ctypes.Array[ctypes.c_char],
        room: int,
        flags: int,
    ) -> tuple[int, list[tuple[bytes, bytes]]]:
        size, width = self.shape.key_size, self.shape.value_size
        keys = ctypes.create_string_buffer(size * room)
        values = ctypes.create_string_buffer(width * room)
        count = ctypes.c_uint32(room)
        options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions), elem_flags=flags)
        function = getattr(libbpf.library(), call)
        result = function(
            self.fd, position, after, keys, values, ctypes.byref(count), ctypes.byref(options)
        )
        if result not in (0, -errno.ENOENT):
            return result, []
        raw_keys, raw_values = keys.raw, values.raw
        return result, [
            (raw_keys[i * size : (i + 1) * size], raw_values[i * width : (i + 1) * width])
            for i in range(count.value)
        ]

    def _expect(self, given: bytes, size: int, what: str) -> None:
        if len(given) != size:
            raise KernelError(
                errno.EINVAL,
                f"map {self.shape.name}: {what}: expected {size} bytes, got {len(given)}",
            )

    def _count(self, keys: bytes, size: int) -> int:
        self._expect(keys, size * (len(keys) // size), "keys")
        return len(keys) // size
