# SPDX-License-Identifier: Apache-2.0
"""BPF objects for tests of the binding, compiled from ``tests/kernel/bpf``."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "bpf"
MULTIARCH = f"/usr/include/{platform.machine()}-linux-gnu"


@pytest.fixture(scope="session")
def compile_bpf(tmp_path_factory) -> Callable[[str], Path]:
    """A function that compiles ``tests/kernel/bpf/NAME.bpf.c`` and returns the object."""
    directory = tmp_path_factory.mktemp("bpf")

    def compile_one(name: str) -> Path:
        made = directory / f"{name}.bpf.o"
        if not made.exists():
            clang = ["clang", "-g", "-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]
            source = SOURCES / f"{name}.bpf.c"
            command = [*clang, "-idirafter", MULTIARCH, "-c", source, "-o", made]
            subprocess.run(command, check=True)
        return made

    return compile_one
