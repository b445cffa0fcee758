# SPDX-License-Identifier: Apache-2.0
"""Read what is needed of an ELF file that a sandbox may have forged: where its functions lie.

Symbols are looked up as the dynamic linker does, through the hash table that PT_DYNAMIC names
(elf(5); gABI chapter 5; glibc ``elf/dl-lookup.c``): section headers, which may be stripped or lie,
are asked only how the file was built. A file of any size costs some hundred short reads.
Counterpart: ``probes/survey.py``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from agentwall.errors import HostError

MAX_BYTES = 4 << 20
"""Of one file that are read."""
MAX_READS = 8192
MAX_PROGRAM_HEADERS = 1024
"""More than 64 KiB of them the kernel does not execute."""
MAX_SECTIONS = 4096
MAX_DYNAMIC = 4096
MAX_NEEDED = 256
MAX_NAME_BYTES = 255
MAX_CHAIN = 1024
"""Symbols of one hash bucket."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")
_U32 = struct.Struct("<I")

_TYPES = {2: "an executable", 3: "a shared object"}
_MACHINES = {62: "x86-64", 183: "aarch64"}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_PF_X, _PF_W = 1, 2
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RPATH, _DT_RUNPATH = 1, 4, 5, 6, 15, 29
_DT_GNU_HASH, _DT_VERSYM, _DT_FLAGS_1 = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFB
_PATHS = (_DT_RPATH, _DT_RUNPATH)
_TEXTS = (_DT_NEEDED, *_PATHS)
_DF_1_PIE = 0x08000000
_FUNCTION = {0x12, 0x22}  # STB_GLOBAL or STB_WEAK, STT_FUNC
_HIDDEN = 0x8000  # of a version: not the one that new programs are linked with
_PATH_MAX = 4096
_MAX_NOTES = 1 << 16
_MAX_COMMENT = 1 << 14
_MAX_LOOK = 1 << 20
_GO_SECTIONS = {".note.go.buildid", ".go.buildinfo"}
_GO_INFO = b"\xff Go buildinf:"


class ElfError(HostError):
    """The file is not ELF, is forged, or is made for another kind of processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What was asked of one file."""

    offsets: Mapping[str, int]
    """Offsets in the file, as uprobes want them, of the functions that were asked for and that the
    file defines for others. Of several versions of one symbol: the default one's."""
    interpreter: str | None
    """PT_INTERP: the dynamic linker. None in libraries and in what is linked statically."""
    is_dynamic: bool
    """Has PT_DYNAMIC; so has a static PIE, but no :attr:`interpreter`."""
    needed: tuple[str, ...]
    """DT_NEEDED: at most 256 libraries, those with names beyond 255 bytes left out."""
    search_path: tuple[str, ...]
    """DT_RPATH or DT_RUNPATH: bounded as DT_NEEDED is, ``$ORIGIN`` as it stands."""
    is_go: bool
    is_rust: bool
    """Only looked for in programs, and thoroughly only in those that define nothing that was asked
    for; a hint."""
    build_id: bytes | None
    """At most 64 bytes."""


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    flags: int
    offset: int
    address: int
    size: int


class _File:
    """An open file, of which no more than so much is read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = MAX_BYTES
        self._reads = MAX_READS

    def at_most(self, offset: int, size: int, what: str) -> bytes:
        self._bytes -= size
        self._reads -= 1
        if self._bytes < 0 or self._reads < 0:
            raise ElfError(
                f"{what}: expected to read at most {MAX_BYTES} bytes {MAX_READS} times, got more"
            )
        if not 0 <= offset <= (1 << 63) - 1 - size:
            raise ElfError(f"{what}: expected an offset in the file, got {offset}")
        try:
            return os.pread(self._fd, size, offset)
        except OSError as err:
            raise ElfError(f"{what}: {err.strerror}") from err

    def exactly(self, offset: int, size: int, what: str) -> bytes:
        if len(data := self.at_most(offset, size, what)) != size:
            raise ElfError(f"{what}: expected {size} bytes at {offset}, got {len(data)}")
        return data

    def word(self, offset: int, what: str) -> int:
        return int(_U32.unpack(self.exactly(offset, 4, what))[0])


def read_elf(fd: int, wanted: frozenset[str]) -> Elf:
    """Read the file *fd*, a descriptor open for reading, and look for the functions *wanted*.

    Raises:
        ElfError: It is not a program or library of a 64-bit little-endian x86-64 or aarch64, or
            what the dynamic linker would need of it makes no sense.
    """
    file = _File(fd)
    header = _HEADER.unpack(file.exactly(0, _HEADER.size, "header"))
    _check(*header[:3])
    segments = _segments(file, header)
    dynamic = _Dynamic(file, segments)
    offsets = dynamic.offsets(wanted)
    interpreter = _interpreter(file, segments)
    sections = _sections(file, header)
    notes = _notes(file, segments)
    is_program = header[1] == 2 or interpreter is not None or dynamic.is_pie
    is_go = (b"Go", 4) in notes or not _GO_SECTIONS.isdisjoint(sections)
    if is_program and not sections and not is_go:
        is_go = _has_go_info(file, segments)
    return Elf(
        offsets=offsets,
        interpreter=interpreter,
        is_dynamic=dynamic.is_there,
        needed=dynamic.texts(_DT_NEEDED),
        search_path=tuple(p for t in dynamic.texts(*_PATHS) for p in t.split(":") if p),
        is_go=is_go,
        is_rust=is_program and not is_go and _is_rust(file, segments, sections, not offsets),
        build_id=notes.get((b"GNU", 3)),
    )


def _check(ident: bytes, kind: int, machine: int) -> None:
    if ident[:4] != b"\x7fELF":
        raise ElfError(f"header: expected an ELF file, got {ident[:4].hex()}")
    if ident[4:6] != b"\2\1":
        bits = {1: "32-bit", 2: "64-bit"}.get(ident[4], f"class {ident[4]}")
        order = {1: "little-endian", 2: "big-endian"}.get(ident[5], f"encoding {ident[5]}")
        raise ElfError(f"header: expected 64-bit little-endian, got {bits} {order}")
    if kind not in _TYPES:
        raise ElfError(f"header: expected {' or '.join(_TYPES.values())}, got type {kind}")
    if machine not in _MACHINES:
        raise ElfError(f"header: expected {' or '.join(_MACHINES.values())}, got machine {machine}")


def _segments(file: _File, header: tuple[int, ...]) -> tuple[_Segment, ...]:
    offset, size, count = header[5], header[9], header[10]
    if size != _PROGRAM.size or not 0 < count <= MAX_PROGRAM_HEADERS:
        raise ElfError(
            f"program headers: expected 1-{MAX_PROGRAM_HEADERS} of {_PROGRAM.size} bytes, "
            f"got {count} of {size}"
        )
    table = file.exactly(offset, size * count, "program headers")
    return tuple(
        _Segment(kind, flags, begin, address, in_file)
        for kind, flags, begin, address, _, in_file, _, _ in _PROGRAM.iter_unpack(table)
    )


def _first(segments: tuple[_Segment, ...], kind: int) -> _Segment | None:
    return next((each for each in segments if each.kind == kind), None)


def _offset_of(segments: tuple[_Segment, ...], address: int, flags: int = 0) -> int | None:
    # Backwards: of segments that overlap, the one mapped last hides the others.
    for each in reversed(segments):
        inside = each.address <= address < each.address + each.size
        if each.kind == _PT_LOAD and inside and each.flags & flags == flags:
            return address - each.address + each.offset
    return None


def _interpreter(file: _File, segments: tuple[_Segment, ...]) -> str | None:
    if (segment := _first(segments, _PT_INTERP)) is None:
        return None
    data = file.at_most(segment.offset, min(segment.size, _PATH_MAX), "interpreter")
    return os.fsdecode(data.partition(b"\0")[0])


class _Dynamic:
    """The dynamic section, through the addresses that the dynamic linker goes by."""

    def __init__(self, file: _File, segments: tuple[_Segment, ...]) -> None:
        self._file = file
        self._segments = segments
        self._tags: dict[int, int] = {}
        self._texts: list[tuple[int, int]] = []
        segment = _first(segments, _PT_DYNAMIC)
        self.is_there = segment is not None
        if segment is not None:
            self._read(segment)
        self.is_pie = bool(self._tags.get(_DT_FLAGS_1, 0) & _DF_1_PIE)

    def _read(self, segment: _Segment) -> None:
        if (begin := _offset_of(self._segments, segment.address)) is None:
            raise ElfError(f"dynamic: expected it in a segment, got address {segment.address:#x}")
        size = min(segment.size, MAX_DYNAMIC * 16) // 16 * 16
        for tag, value in struct.iter_unpack("<QQ", self._file.exactly(begin, size, "dynamic")):
            if tag == 0:
                break
            if tag in _TEXTS and len(self._texts) < MAX_NEEDED:
                self._texts.append((tag, value))
            self._tags[tag] = value

    def _table(self, tag: int, what: str) -> int:
        address = self._tags.get(tag)
        offset = None if address is None else _offset_of(self._segments, address)
        if offset is None:
            got = "none" if address is None else f"address {address:#x}"
            raise ElfError(f"{what}: expected one in a segment, got {got}")
        return offset

    def texts(self, *tags: int) -> tuple[str, ...]:
        found: list[str] = []
        for each in (value for tag, value in self._texts if tag in tags):
            strings = self._table(_DT_STRTAB, "strings")
            data = self._file.at_most(strings + each, MAX_NAME_BYTES + 1, "needed")
            name, end, _ = data.partition(b"\0")
            if name and end:
                found.append(os.fsdecode(name))
        return tuple(found)

    def offsets(self, wanted: frozenset[str]) -> dict[str, int]:
        if not self._tags.keys() & {_DT_GNU_HASH, _DT_HASH}:
            return {}
        find = _gnu_chain if _DT_GNU_HASH in self._tags else _sysv_chain
        table = self._table(_DT_GNU_HASH if find is _gnu_chain else _DT_HASH, "symbol hash table")
        symbols = self._table(_DT_SYMTAB, "symbols")
        strings = self._table(_DT_STRTAB, "strings")
        versions = None
        if _DT_VERSYM in self._tags:
            versions = self._table(_DT_VERSYM, "versions")
        found: dict[str, int] = {}
        for name in sorted(wanted):
            for index in find(self._file, table, name.encode()):
                offset = self._function(symbols + index * _SYMBOL.size, strings, name.encode())
                if offset is None:
                    continue
                is_default = versions is None or not self._is_hidden(versions + 2 * index)
                if is_default or name not in found:
                    found[name] = offset
                if is_default:
                    break
        return found

    def _is_hidden(self, offset: int) -> bool:
        return bool(int.from_bytes(self._file.exactly(offset, 2, "version"), "little") & _HIDDEN)

    def _function(self, symbol: int, strings: int, name: bytes) -> int | None:
        data = self._file.exactly(symbol, _SYMBOL.size, "symbol")
        start, info, _, section, value, _ = _SYMBOL.unpack(data)
        if info not in _FUNCTION or section == 0:
            return None
        if self._file.at_most(strings + start, len(name) + 1, "symbol's name") != name + b"\0":
            return None
        return _offset_of(self._segments, value, _PF_X)


def _gnu_chain(file: _File, table: int, name: bytes) -> Iterator[int]:
    # Indices of the symbols whose hash is that of the name.
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    head = struct.unpack("<IIII", file.exactly(table, 16, "symbol hash table"))
    buckets, first, words, shift = head
    if not buckets or not words:
        return
    place = table + 16 + 8 * (value // 64 % words)
    bloom = int.from_bytes(file.exactly(place, 8, "bloom filter"), "little")
    if not (bloom >> value % 64) & (bloom >> (value >> (shift & 31)) % 64) & 1:
        return
    begin = table + 16 + 8 * words
    index = file.word(begin + 4 * (value % buckets), "bucket")
    if index < first:
        return
    chains = begin + 4 * buckets
    for each in range(index, index + MAX_CHAIN):
        link = file.word(chains + 4 * (each - first), "chain")
        if (link ^ value) >> 1 == 0:
            yield each
        if link & 1:
            return
    raise ElfError(f"chain: expected at most {MAX_CHAIN} symbols, got more")


def _sysv_chain(file: _File, table: int, name: bytes) -> Iterator[int]:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    buckets, _ = struct.unpack("<II", file.exactly(table, 8, "symbol hash table"))
    if not buckets:
        return
    each = file.word(table + 8 + 4 * (value % buckets), "bucket")
    for _ in range(MAX_CHAIN):
        if each == 0:
            return
        yield each
        each = file.word(table + 8 + 4 * (buckets + each), "chain")
    raise ElfError(f"chain: expected at most {MAX_CHAIN} symbols, got more")


# How the file was built is a hint that neither kernel nor dynamic linker needs: what is broken
# from here on is as if it were not there.


def _sections(file: _File, header: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    # Offset and size of each by its name; empty where there are no headers.
    offset, size, count, names = header[6], header[11], header[12], header[13]
    if not offset or size != _SECTION.size or not names < count <= MAX_SECTIONS:
        return {}
    found: dict[str, tuple[int, int]] = {}
    with suppress(ElfError):
        table = file.exactly(offset, size * count, "section headers")
        fields = tuple(_SECTION.iter_unpack(table))
        _, _, _, _, begin, length, *_ = fields[names]
        strings = file.at_most(begin, min(length, 1 << 16), "section names")
        for name, _, _, _, begin, length, *_ in fields:
            end = strings.find(b"\0", name)
            if 0 < end - name <= MAX_NAME_BYTES:
                found[strings[name:end].decode("latin-1")] = (begin, length)
    return found


def _notes(file: _File, segments: tuple[_Segment, ...]) -> dict[tuple[bytes, int], bytes]:
    # By owner and type; each at most 64 bytes.
    found: dict[tuple[bytes, int], bytes] = {}
    with suppress(ElfError):
        for segment in (each for each in segments if each.kind == _PT_NOTE):
            data = file.at_most(segment.offset, min(segment.size, _MAX_NOTES), "notes")
            at = 0
            while at + _NOTE.size <= len(data):
                name_size, size, kind = _NOTE.unpack_from(data, at)
                begin = at + _NOTE.size + (name_size + 3 & ~3)
                owner = data[at + _NOTE.size : at + _NOTE.size + name_size].rstrip(b"\0")
                at = begin + (size + 3 & ~3)
                if at <= len(data) and len(owner) <= MAX_NAME_BYTES:
                    found.setdefault((owner, kind), data[begin : begin + min(size, 64)])
    return found


def _has_go_info(file: _File, segments: tuple[_Segment, ...]) -> bool:
    # Where section headers are stripped: Go's debug/buildinfo searches the data in this way.
    data = next((s for s in segments if s.kind == _PT_LOAD and s.flags & _PF_W), None)
    with suppress(ElfError):
        return data is not None and _has(file, data.offset, data.size, _GO_INFO)
    return False


def _is_rust(
    file: _File,
    segments: tuple[_Segment, ...],
    sections: dict[str, tuple[int, int]],
    thoroughly: bool,
) -> bool:
    # The compiler signs .comment; where that is stripped, paths of its library are left in the
    # texts of panics.
    with suppress(ElfError):
        offset, size = sections.get(".comment", (0, 0))
        if size and b"rustc version" in file.at_most(offset, min(size, _MAX_COMMENT), "comment"):
            return True
        if not thoroughly:
            return False
        if ".rodata" in sections:
            return _has(file, *sections[".rodata"], b"/rustc/")
        plain = [s for s in segments if s.kind == _PT_LOAD and not s.flags & (_PF_X | _PF_W)]
        return any(_has(file, each.offset, each.size, b"/rustc/") for each in plain[:2])
    return False


def _has(file: _File, offset: int, size: int, text: bytes) -> bool:
    return text in file.at_most(offset, min(size, _MAX_LOOK), "data")
