# SPDX-License-Identifier: Apache-2.0
"""Small programs and shared objects, built for one test by the C compiler."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from rig.process import run_checked

_COMMON = ("-O1", "-fcf-protection=none", "-fno-asynchronous-unwind-tables")
_SHARED = (*_COMMON, "-shared", "-fPIC", "-nostdlib")


def function(name: str, number: int) -> str:
    """Return the source of a function of which :func:`is_function` knows the code."""
    return f"long {name}(void) {{ return {number}; }}\n"


def is_function(code: bytes, number: int) -> bool:
    """Say whether *code* begins as that function does: with the number, after one byte of x86."""
    return code[1:5] == struct.pack("<I", number)


def functions(names: Iterable[str]) -> tuple[str, Mapping[str, int]]:
    """Return the source of functions of those names, and the number that each returns."""
    numbers = {name: 0x5AFE0000 + at for at, name in enumerate(names)}
    return "".join(function(name, number) for name, number in numbers.items()), numbers


def many_functions(count: int) -> tuple[str, Mapping[str, int]]:
    """Return the same for ``f0``, ``f1`` and so on, as assembly: the compiler takes seconds."""
    _, numbers = functions(f"f{at}" for at in range(count))
    lines = (
        f'".globl {name}\\n.type {name}, @function\\n{name}: mov ${number}, %eax\\nret\\n"\n'
        for name, number in numbers.items()
    )
    return f'__asm__(".text\\n"\n{"".join(lines)});\n', numbers


def shared_object(path: Path, source: str, *options: str) -> Path:
    """Build a library from C; it needs no other."""
    return _build(path, source, *_SHARED, *options)


def program(path: Path, source: str, *options: str) -> Path:
    """Build a program from C."""
    return _build(path, source, *_COMMON, *options)


def _build(path: Path, source: str, *options: str) -> Path:
    text = path.with_name(f"{path.name}.c")
    text.write_text(source)
    # Libraries to link with come after what needs them.
    run_checked("gcc", "-o", str(path), str(text), *options)
    text.unlink()
    return path


def without_sections(data: bytes) -> bytes:
    """Return the 64-bit ELF file *data* as if it had no section headers."""
    # e_shoff, then e_shnum and e_shstrndx.
    return data[:40] + bytes(8) + data[48:60] + bytes(4) + data[64:]
