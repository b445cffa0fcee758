# SPDX-License-Identifier: Apache-2.0
"""Builds the C parts of the benchmark: the probe and the object of empty programs."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_STRICT = ("-O2", "-Wall", "-Werror")


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
    parts = [HERE / "probe.c", HERE / "talk.c"]
    subprocess.run(["cc", *_STRICT, "-o", built.probe, *parts], check=True)
    _compile_bpf(HERE / "empty.bpf.c", built.empty_object)
    return built


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltTls:
    """What :func:`build_tls` made."""

    talk: Path
    trap_object: Path


def build_tls(directory: Path) -> BuiltTls:
    """Compile ``tls_talk.c`` and ``trap.bpf.c`` into *directory*.

    Raises:
        subprocess.CalledProcessError: A compiler refused; its messages went to stderr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    built = BuiltTls(talk=directory / "tls_talk", trap_object=directory / "trap.bpf.o")
    source, linked = str(HERE / "tls_talk.c"), ["-lssl", "-lcrypto"]
    subprocess.run(["cc", *_STRICT, "-o", str(built.talk), source, *linked], check=True)
    _compile_bpf(HERE / "trap.bpf.c", built.trap_object)
    return built


def _compile_bpf(source: Path, built: Path) -> None:
    # Debian keeps asm/types.h in the multiarch directory, which clang leaves out for bpf.
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    target = ["-g", "-target", "bpf", headers]
    command = ["clang", *_STRICT, *target, "-c", str(source), "-o", str(built)]
    subprocess.run(command, check=True)
