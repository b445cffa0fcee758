# SPDX-License-Identifier: Apache-2.0
"""Functions of ELF files are found where the kernel and the dynamic linker find them."""

from __future__ import annotations

import os
import struct
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.objects import (
    function,
    functions,
    is_function,
    many_functions,
    program,
    shared_object,
    without_sections,
)
from rig.scratch import scratch

from agentwall.errors import HostError
from agentwall.probes.elf import MAX_BYTES, MAX_READS, Elf, ElfError, read_elf

WANTED = frozenset({"SSL_write", "SSL_read", "SSL_free", "gnutls_record_send"})
SOURCE, NUMBERS = functions(
    ["SSL_write", "SSL_read", "SSL_free", *(f"other{n}" for n in range(40))]
)
FOREVER = "int pause(void); int main(void) { return pause(); }\n"
RUFF = Path(sys.executable).with_name("ruff")


def read(data: bytes, wanted: frozenset[str] = WANTED) -> Elf:
    """Read a file with these bytes."""
    fd = os.memfd_create("elf", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        return read_elf(fd, wanted)
    finally:
        os.close(fd)


def is_at(data: bytes, offset: int, number: int) -> bool:
    """Say whether the code of the function that returns *number* lies there."""
    return is_function(data[offset : offset + 8], number)


@pytest.fixture(scope="module")
def small():
    """A library with three functions that are wanted, as short as the linker makes it."""
    with scratch("elf") as directory:
        options = ("-s", "-Wl,-z,noseparate-code", "-Wl,--hash-style=both")
        yield shared_object(directory / "lib.so", SOURCE, *options).read_bytes()


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
@pytest.mark.parametrize("layout", ["separate-code", "noseparate-code"])
@pytest.mark.parametrize("has_sections", [True, False])
def test_functions_lie_where_their_code_is(tmp_path, style, layout, has_sections):
    """Offsets lead to the code, whichever hash table there is, with section headers and without."""
    options = (f"-Wl,--hash-style={style}", f"-Wl,-z,{layout}", "-Wl,--build-id")
    data = shared_object(tmp_path / "lib.so", SOURCE, *options).read_bytes()
    found = read(data if has_sections else without_sections(data))

    assert set(found.offsets) == {"SSL_write", "SSL_read", "SSL_free"}
    assert all(is_at(data, offset, NUMBERS[name]) for name, offset in found.offsets.items())
    assert found.is_dynamic
    assert found.interpreter is None
    assert found.build_id is not None
    assert len(found.build_id) == 20


def test_every_function_of_many_is_found(tmp_path):
    """With 3 000 functions, as OpenSSL has, each is found in its bucket."""
    source, numbers = many_functions(3000)
    data = shared_object(tmp_path / "lib.so", source).read_bytes()
    wanted = frozenset(f"f{n}" for n in range(0, 3300, 30))
    found = read(data, wanted).offsets

    assert found.keys() == wanted & numbers.keys()
    assert all(is_at(data, offset, numbers[name]) for name, offset in found.items())


def test_of_two_versions_the_default_one_is_taken(tmp_path):
    """Where a library keeps an old version of a function, programs of today call the other one."""
    script = tmp_path / "versions"
    script.write_text("OLD { global: SSL_write; }; NEW { global: SSL_write; } OLD;")
    source = (
        function("older", 0x5AFE0001)
        + function("newer", 0x5AFE0002)
        + '__asm__(".symver older,SSL_write@OLD"); __asm__(".symver newer,SSL_write@@NEW");'
    )
    path = shared_object(tmp_path / "lib.so", source, f"-Wl,--version-script={script}")
    data = path.read_bytes()

    assert is_at(data, read(data).offsets["SSL_write"], 0x5AFE0002)


def test_only_functions_that_the_file_defines_count(tmp_path):
    """What is called, is data, or is not exported, cannot be probed by name."""
    source = (
        "extern long SSL_read(void); int SSL_free = 1;"
        '__attribute__((visibility("hidden"))) long SSL_write(void) { return SSL_read(); }'
        "long other(void) { return SSL_write(); }"
    )

    assert read(shared_object(tmp_path / "lib.so", source).read_bytes()).offsets == {}


@pytest.mark.parametrize(
    ("options", "has_interpreter", "is_dynamic"),
    [((), True, True), (("-static",), False, False), (("-static-pie",), False, True)],
)
def test_linking_is_told(tmp_path, options, has_interpreter, is_dynamic):
    """A static program has no interpreter, even where it is a PIE and so has a dynamic section."""
    found = read(program(tmp_path / "program", FOREVER, *options).read_bytes())

    assert (found.interpreter is not None, found.is_dynamic) == (has_interpreter, is_dynamic)
    assert found.needed == (("libc.so.6",) if has_interpreter else ())
    assert not found.is_go
    assert not found.is_rust


def test_a_program_may_export_the_functions_itself(tmp_path):
    """As Node.js does with the OpenSSL that it holds."""
    options = ("-rdynamic",)
    data = program(tmp_path / "program", SOURCE + FOREVER, *options).read_bytes()
    found = read(data)

    assert is_at(data, found.offsets["SSL_write"], NUMBERS["SSL_write"])
    assert found.interpreter is not None


_GO_NOTE = (
    '__asm__(".section .note.go.buildid,\\"a\\",@note\\n.long 4, 4, 4\\n"'
    '".ascii \\"Go\\\\0\\\\0abcd\\"\\n.text");'
)
_GO_INFO = 'char info[] __attribute__((aligned(16))) = "\\xff Go buildinf:\\b\\2";'
_RUST_COMMENT = (
    '__asm__(".section .comment,\\"MS\\",@progbits,1\\n'
    '.asciz \\"rustc version 1.80.0 (051478957 2024-07-21)\\"\\n.text");'
)
_RUST_PATH = 'const char *place = "/rustc/051478957371ee0084a7c0913941d2a8c4757bb9/library";'


@pytest.mark.parametrize("has_sections", [True, False])
@pytest.mark.parametrize("mark", [_GO_NOTE, _GO_INFO])
def test_go_is_told_by_its_note_or_its_data(tmp_path, mark, has_sections):
    """Go's linker leaves a note; where that is gone, there is what its runtime reads itself."""
    if mark is _GO_INFO and has_sections:
        mark = mark.replace("aligned(16)", 'section(".go.buildinfo"), aligned(16)')
    data = program(tmp_path / "program", mark + FOREVER).read_bytes()
    found = read(data if has_sections else without_sections(data))

    assert found.is_go
    assert not found.is_rust


@pytest.mark.parametrize("options", [(), ("-static",), ("-static-pie",), ("-s",)])
@pytest.mark.parametrize("mark", [_RUST_COMMENT, _RUST_PATH])
def test_rust_is_told_by_its_signature_or_its_paths(tmp_path, mark, options):
    """The compiler signs what it made; else the texts of its panics name its library."""
    data = program(tmp_path / "program", mark + FOREVER, *options).read_bytes()

    assert read(data).is_rust
    assert read(without_sections(data)).is_rust is (mark is _RUST_PATH)


@pytest.mark.parametrize(
    ("path", "is_go", "is_rust"),
    [("/usr/bin/podman", True, False), (RUFF, False, True), ("/usr/bin/python3", False, False)],
)
def test_real_programs_are_told_apart(path, is_go, is_rust):
    """Go with C in it, Rust, and C."""
    if not Path(path).is_file():
        pytest.skip(f"{path}: not installed")
    with opened(path) as fd:
        found = read_elf(fd, WANTED)

    assert (found.is_go, found.is_rust) == (is_go, is_rust)


@contextmanager
def opened(path):
    """Hold *path* open for reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def changed(data: bytes, offset: int, value: bytes) -> bytes:
    """Return *data* with *value* written over what is at *offset*."""
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [
        (0, b"#!/b", "header: expected an ELF file, got 23212f62"),
        (4, b"\1", "header: expected 64-bit little-endian, got 32-bit little-endian"),
        (4, b"\2\2", "header: expected 64-bit little-endian, got 64-bit big-endian"),
        (4, b"\7\0", "header: expected 64-bit little-endian, got class 7 encoding 0"),
        (16, b"\4", "header: expected an executable or a shared object, got type 4"),
        (18, b"\x28\0", "header: expected x86-64 or aarch64, got machine 40"),
        (54, b"\0\0", "program headers: expected 1-1024 of 56 bytes, got"),
        (56, b"\0\0", "program headers: expected 1-1024 of 56 bytes, got 0 of 56"),
        (56, b"\1\4", "program headers: expected 1-1024 of 56 bytes, got 1025 of 56"),
        (
            32,
            b"\xff" * 8,
            "program headers: expected an offset in the file, got 18446744073709551615",
        ),
        (32, b"\xff" * 7 + b"\x0f", "program headers: expected"),
    ],
)
def test_what_cannot_be_read_is_said(small, offset, value, problem):
    """Whatever is not a program or library of this kind of machine is refused with what it is."""
    with pytest.raises(ElfError) as caught:
        read(changed(small, offset, value))

    assert str(caught.value).startswith(problem)
    assert isinstance(caught.value, HostError)


def test_what_is_no_file_is_refused(tmp_path):
    """A directory and an empty file are no ELF files."""
    with opened(tmp_path) as fd, pytest.raises(ElfError, match="header: Is a directory"):
        read_elf(fd, WANTED)
    with pytest.raises(ElfError, match="header: expected 64 bytes at 0, got 0"):
        read(b"")


def hash_table(data: bytes) -> int:
    """Return the offset of ``.gnu.hash``, whose segment begins at offset 0."""
    for at in range(64, 64 + 56 * data[56], 56):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 2:
            tags = dict(struct.iter_unpack("<QQ", data[offset : offset + size]))
            return int(tags[0x6FFFFEF5])
    raise AssertionError("no dynamic section")


def test_a_chain_without_end_ends(tmp_path):
    """A forged hash table whose chain never ends costs a bounded number of reads."""
    source, _ = many_functions(4000)
    data = shared_object(tmp_path / "lib.so", source, "-Wl,-z,noseparate-code").read_bytes()
    table = hash_table(data)
    _, first, words, _ = struct.unpack_from("<IIII", data, table)
    # One bucket that all names fall into, a filter that lets all pass, links that never end.
    forged = changed(data, table, struct.pack("<IIII", 1, first, words, 0) + b"\xff" * 8 * words)
    forged = changed(forged, table + 16 + 8 * words, struct.pack("<I", first) + bytes(4 * 3999))

    with pytest.raises(ElfError, match="chain: expected at most 1024 symbols, got more"):
        read(forged)


def spent() -> tuple[int, int]:
    """Return how many bytes this thread has read, and in how many calls."""
    with open("/proc/thread-self/io", "rb") as file:
        fields = dict(line.split(b": ") for line in file.read().splitlines())
    return int(fields[b"rchar"]), int(fields[b"syscr"])


def survive(data: bytes) -> None:
    """Read *data*: a result or the one error, within the bounds."""
    bytes_before, reads_before = spent()
    found = None
    with suppress(ElfError):
        found = read(data)
    bytes_after, reads_after = spent()

    assert bytes_after - bytes_before <= MAX_BYTES + 4096
    assert reads_after - reads_before <= MAX_READS + 16
    assert found is None or all(0 <= each < 1 << 63 for each in found.offsets.values())


@given(st.binary(max_size=512), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_survived(tail, has_magic):
    """Bytes of any kind are refused or read."""
    survive((b"\x7fELF\2\1\1" + bytes(9) + b"\3\0\x3e\0" if has_magic else b"") + tail)


NUMBER = st.one_of(
    st.integers(0, 1 << 12),
    st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]),
)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 14), st.sampled_from("BHIQ"), NUMBER), max_size=8)


@given(CHANGES, st.integers(0, 1 << 14))
@settings(max_examples=400, deadline=None)
def test_forged_files_are_survived(small, changes, cut):
    """A real library with any fields changed, and cut off anywhere, is refused or read."""
    data = small
    for offset, width, number in changes:
        value = struct.pack(f"<{width}", number & ((1 << 8 * struct.calcsize(width)) - 1))
        data = changed(data, offset % len(small), value)
    survive(data)
    survive(data[: cut % len(small)])


@given(CHANGES)
@settings(max_examples=300, deadline=None)
def test_forged_tables_are_survived(small, changes):
    """The same, with the changes where the dynamic linker's tables are."""
    data, table = small, hash_table(small)
    for offset, width, number in changes:
        value = struct.pack(f"<{width}", number & ((1 << 8 * struct.calcsize(width)) - 1))
        data = changed(data, table + offset % 1024, value)
    survive(data)
