# SPDX-License-Identifier: Apache-2.0
"""Builds the C parts of the benchmark: the probe and the object of empty programs."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What :func:`build` made."""

    probe: Path
    empty_object: Path


def build(directory: Path) -> Built:
    """Compile the probe and ``empty.bpf.c`` into *directory*.

    Raises:
        subprocess.CalledProcessError: A compiler refused; its messages went to stderr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    built = Built(probe=directory / "probe", empty_object=directory / "empty.bpf.o")
    strict = ["-O2", "-Wall", "-Werror"]
    parts = [HERE / "probe.c", HERE / "talk.c"]
    subprocess.run(["cc", *strict, "-o", built.probe, *parts], check=True)
    # Debian keeps asm/types.h in the multiarch directory, which clang leaves out for bpf.
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    source, target = str(HERE / "empty.bpf.c"), ["-g", "-target", "bpf", headers]
    command = ["clang", *strict, *target, "-c", source, "-o", str(built.empty_object)]
    subprocess.run(command, check=True)
    return built
