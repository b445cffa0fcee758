# SPDX-License-Identifier: Apache-2.0
"""A BPF object file: opened, configured, loaded.

Order of use: :meth:`BpfObject.open`, then :meth:`~BpfObject.set_constant`,
:meth:`~BpfObject.set_max_entries`, :meth:`Program.set_autoload`, then :meth:`BpfObject.load`, then
maps and programs. Nothing here knows agentwall's own programs; ``wall`` does.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from agentwall.errors import KernelError, VerifierError
from agentwall.kernel import libbpf
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.btf import Btf
from agentwall.kernel.layout import Layout
from agentwall.kernel.libbpf import AttachType, MapType, check, check_pointer

_LOG_BYTES = 0xFF_FFFF
"""The verifier's limit before Linux 5.2 (UINT32_MAX >> 8). Memory is touched only where used."""
RODATA = ".rodata"
"""The map of the constants."""
_LOG_EXPLANATION = "\nVerification failed: "
_LOG_STATISTICS = ("processed ", "verification time", "stack depth", "insns processed")


@dataclass(frozen=True, slots=True, kw_only=True)
class MapDefinition:
    """What a map is, or is to become when the object is loaded."""

    shape: MapShape
    flags: int
    """``BPF_F_*``."""
    key: Layout | None
    """None: without types, such as a ring buffer's."""
    value: Layout | None


@dataclass(frozen=True, slots=True)
class TestRun:
    """What one BPF_PROG_TEST_RUN gave."""

    __test__ = False

    retval: int
    data_out: bytes
    duration_ns: int
    """Average of one repetition."""


class _TestRunOptions(ctypes.Structure):
    # struct bpf_test_run_opts, libbpf 1.1 src/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Program:
    """One program of a :class:`BpfObject`. Valid as long as the object is open."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        lib = libbpf.library()
        self.name: str = lib.bpf_program__name(pointer).decode()
        self.section: str = lib.bpf_program__section_name(pointer).decode()

    @property
    def attach_type(self) -> AttachType:
        """What the section name says, such as CONNECT4 for ``cgroup/connect4``."""
        return AttachType(libbpf.library().bpf_program__expected_attach_type(self._pointer))

    @property
    def autoload(self) -> bool:
        """Whether :meth:`BpfObject.load` loads it."""
        return bool(libbpf.library().bpf_program__autoload(self._pointer))

    @property
    def fd(self) -> int:
        """Descriptor of the loaded program, owned by the object.

        Raises:
            KernelError: The program is not loaded.
        """
        what = f"program {self.name}"
        return check(libbpf.library().bpf_program__fd(self._pointer), what)

    def set_autoload(self, wanted: bool) -> None:
        """Choose, before the object is loaded, whether this program is loaded with it."""
        done = libbpf.library().bpf_program__set_autoload(self._pointer, wanted)
        check(done, f"program {self.name}: set autoload")

    def test_run(self, data: bytes, *, context: bytes | None = None, repeat: int = 1) -> TestRun:
        """Run the program on made-up input.

        Args:
            data: For cgroup_skb a whole Ethernet frame, at least 14 bytes.
            context: ``struct __sk_buff`` or nothing.
            repeat: How often; cgroup storage is zeroed for each run, other maps are the real ones.

        Raises:
            KernelError: The kernel cannot test this program type (ENOTSUPP for sock_addr).
        """
        return run_program(self.fd, f"program {self.name}", data, context=context, repeat=repeat)


def run_program(
    fd: int, what: str, data: bytes, *, context: bytes | None = None, repeat: int = 1
) -> TestRun:
    """Run the program *fd*, called *what* in errors, as :meth:`Program.test_run` does."""
    out = ctypes.create_string_buffer(len(data) + 256)
    options = _TestRunOptions(
        sz=ctypes.sizeof(_TestRunOptions),
        data_in=data,
        data_size_in=len(data),
        data_out=ctypes.addressof(out),
        data_size_out=len(out),
        ctx_in=context,
        ctx_size_in=len(context or b""),
        repeat=repeat,
    )
    done = libbpf.library().bpf_prog_test_run_opts(fd, ctypes.byref(options))
    check(done, f"{what}: test run")
    return TestRun(options.retval, out.raw[: options.data_size_out], options.duration)


class BpfObject:
    """An open BPF object file; a context manager that closes it."""

    def __init__(self, pointer: int, path: Path) -> None:
        self._pointer = pointer
        self.path = path
        self._logs: dict[str, mmap.mmap] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Parse an object file; nothing reaches the kernel yet.

        Raises:
            KernelError: There is no such file, or it is not a BPF object.
        """
        lib = libbpf.library()
        libbpf.clear_messages()
        if not path.is_file():
            raise KernelError(errno.ENOENT, f"{path}: expected a BPF object, got no such file")
        pointer = lib.bpf_object__open_file(str(path).encode(), None)
        return cls(check_pointer(pointer, f"{path}: open BPF object"), path)

    def programs(self) -> Iterator[Program]:
        """Yield every program, loaded or not, in the order of the file."""
        lib, pointer = libbpf.library(), None
        while pointer := lib.bpf_object__next_program(self._pointer, pointer):
            yield Program(pointer)

    def program(self, name: str) -> Program:
        """Return the program called *name*.

        Raises:
            KernelError: There is none.
        """
        for program in self.programs():
            if program.name == name:
                return program
        raise KernelError(errno.ENOENT, f"{self.path}: expected a program {name}, got none")

    def maps(self) -> dict[str, BpfMap]:
        """Return the loaded object's maps by name, without libbpf's own for globals."""
        lib, pointer, found = libbpf.library(), None, {}
        while pointer := lib.bpf_object__next_map(self._pointer, pointer):
            if not lib.bpf_map__is_internal(pointer) and lib.bpf_map__autocreate(pointer):
                bpf_map = BpfMap(check(lib.bpf_map__fd(pointer), "map"), _shape(pointer))
                found[bpf_map.shape.name] = bpf_map
        return found

    def definitions(self) -> dict[str, MapDefinition]:
        """Return by name what each map is, or will be, without libbpf's own for globals."""
        lib, pointer, found = libbpf.library(), None, {}
        types = Btf(lib.bpf_object__btf(self._pointer))
        while pointer := lib.bpf_object__next_map(self._pointer, pointer):
            if lib.bpf_map__is_internal(pointer):
                continue
            shape = _shape(pointer)
            key = lib.bpf_map__btf_key_type_id(pointer)
            value = lib.bpf_map__btf_value_type_id(pointer)
            found[shape.name] = MapDefinition(
                shape=shape,
                flags=lib.bpf_map__map_flags(pointer),
                key=types.layout(key) if key else None,
                value=types.layout(value) if value else None,
            )
        return found

    def reuse_map(self, name: str, fd: int) -> None:
        """Have the programs use a map that is there already, before load.

        Args:
            name: Of the map in this object; its size will be that of the one reused.
            fd: Of the map to use; it stays the caller's.

        Raises:
            KernelError: There is no such map in the object, or *fd* is not a map.
        """
        what = f"map {name}: reuse"
        lib = libbpf.library()
        pointer = lib.bpf_object__find_map_by_name(self._pointer, name.encode())
        check(lib.bpf_map__reuse_fd(check_pointer(pointer, what), fd), what)

    def rodata_fd(self) -> int:
        """Return the descriptor, the object's own, of the map that holds the constants.

        Raises:
            KernelError: The object is not loaded, or has no constants.
        """
        lib, what = libbpf.library(), f"map {RODATA}"
        pointer = lib.bpf_object__find_map_by_name(self._pointer, RODATA.encode())
        return check(lib.bpf_map__fd(check_pointer(pointer, what)), what)

    def set_autocreate(self, map_name: str, wanted: bool) -> None:
        """Choose, before the object is loaded, whether a map that no program uses is made with it.

        Raises:
            KernelError: There is no such map, or the object is loaded.
        """
        what = f"map {map_name}: set autocreate"
        lib = libbpf.library()
        pointer = lib.bpf_object__find_map_by_name(self._pointer, map_name.encode())
        check(lib.bpf_map__set_autocreate(check_pointer(pointer, what), wanted), what)

    def set_max_entries(self, map_name: str, entries: int) -> None:
        """Size a map before load: entries, or bytes for a ring buffer (a power of two of pages).

        Raises:
            KernelError: There is no such map, or the object is loaded.
        """
        what = f"map {map_name}: set max_entries to {entries}"
        lib = libbpf.library()
        pointer = lib.bpf_object__find_map_by_name(self._pointer, map_name.encode())
        check(lib.bpf_map__set_max_entries(check_pointer(pointer, what), entries), what)

    def constant(self, name: str) -> int:
        """Return the value that ``const volatile`` *name* will have in the loaded programs.

        Raises:
            KernelError: The object has no such constant.
        """
        return int.from_bytes(self._constant(name), sys.byteorder)

    def has_constant(self, name: str) -> bool:
        """Say whether the object has a constant called *name*."""
        types = Btf(libbpf.library().bpf_object__btf(self._pointer))
        return name in {found for found, _, _ in types.variables(RODATA)}

    def set_constant(self, name: str, value: int) -> None:
        """Set ``const volatile`` *name*, an unsigned integer, before load.

        Raises:
            KernelError: The object has no such constant.
        """
        view = self._constant(name)
        view[:] = value.to_bytes(len(view), sys.byteorder)

    # The initial .rodata is memory that libbpf hands out; BTF says where in it a variable lies.
    def _constant(self, name: str) -> memoryview:
        lib, size = libbpf.library(), ctypes.c_size_t()
        what = f"{self.path}: constant {name}"
        rodata = lib.bpf_object__find_map_by_name(self._pointer, RODATA.encode())
        start = lib.bpf_map__initial_value(check_pointer(rodata, what), ctypes.byref(size))
        for found, offset, length in Btf(lib.bpf_object__btf(self._pointer)).variables(RODATA):
            if found == name:
                memory = (ctypes.c_uint8 * size.value).from_address(check_pointer(start, what))
                return memoryview(memory).cast("B")[offset : offset + length]
        raise KernelError(errno.ENOENT, f"{what}: expected it in .rodata, got none")

    def load(self) -> None:
        """Create the maps and load the programs.

        Raises:
            VerifierError: The verifier rejected a program.
            KernelError: Something else failed; the message has libbpf's last words.
        """
        lib = libbpf.library()
        libbpf.clear_messages()
        for program in self.programs():
            log = self._logs[program.name] = mmap.mmap(-1, _LOG_BYTES)
            address = ctypes.addressof(ctypes.c_char.from_buffer(log))
            done = lib.bpf_program__set_log_buf(program._pointer, address, len(log))
            check(done, f"program {program.name}: set log buffer")
        result = lib.bpf_object__load(self._pointer)
        if result < 0:
            raise self._load_error(-result)
        self._logs.clear()

    def _load_error(self, code: int) -> KernelError:
        reason = libbpf.error(code, f"{self.path}: load").what
        for name, buffer in self._logs.items():
            log = buffer[: max(buffer.find(b"\0"), 0)].decode(errors="replace")
            if log:
                rejected = f"program {name}: rejected by the verifier: {last_useful_line(log)}"
                return VerifierError(code, rejected, log)
        said = "; ".join(libbpf.recent_messages()[:2])
        return KernelError(code, f"{reason} ({said})" if said else reason)

    def close(self) -> None:
        """Give back the object's descriptors. What is pinned or attached stays."""
        if self._pointer:
            libbpf.library().bpf_object__close(self._pointer)
            self._pointer = 0
            self._logs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def last_useful_line(log: str) -> str:
    """Return the line of a verifier *log* that says what was wrong: the last but its statistics.

    Newer kernels (seen in 7.3) explain that line in a section after it, which is passed over too.
    """
    before = log.partition(_LOG_EXPLANATION)[0]
    lines = [line.strip() for line in (before if before.strip() else log).splitlines()]
    useful = [line for line in lines if line and not line.startswith(_LOG_STATISTICS)]
    return useful[-1] if useful else "no reason given"


def _shape(pointer: int) -> MapShape:
    lib = libbpf.library()
    return MapShape(
        name=lib.bpf_map__name(pointer).decode(),
        type=MapType(lib.bpf_map__type(pointer)),
        key_size=lib.bpf_map__key_size(pointer),
        value_size=lib.bpf_map__value_size(pointer),
        max_entries=lib.bpf_map__max_entries(pointer),
    )
