# SPDX-License-Identifier: Apache-2.0
"""A small library to probe, processes that call it, and programs that count the calls."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import VerifierError
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.pins import mount_bpffs
from agentwall.probes.mappings import FileId
from rig.process import run_checked, stop

_HERE = Path(__file__).parent
_SOURCE = _HERE.parent / "probes" / "bpf" / "count.bpf.c"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is compiled once."""

    library: Path
    caller: Path
    counting: Path
    offsets: dict[str, int]
    """Of the library's functions in its file."""

    def copy(self, path: Path) -> Path:
        """Put a copy of the library, a file of its own, at *path*."""
        path.unlink(missing_ok=True)
        return Path(shutil.copy(self.library, path))


def build(directory: Path) -> Parts:
    """Compile the parts into *directory*, which exists."""
    library, caller = directory / "libssl.so", directory / "caller"
    counting = directory / "count.bpf.o"
    run_checked("gcc", "-O1", "-shared", "-fPIC", _HERE / "probed_library.c", "-o", library)
    run_checked("gcc", "-O1", _HERE / "probed_caller.c", "-o", caller, "-ldl")
    multiarch = f"/usr/include/{platform.machine()}-linux-gnu"
    clang = ["clang", "-g", "-O2", "-target", "bpf", "-Wall", "-Werror", "-idirafter", multiarch]
    run_checked(*clang, "-c", _SOURCE, "-o", counting)
    # The text of such a library lies at the same place in memory and in the file.
    symbols = [line.split() for line in run_checked("nm", "-D", library).splitlines()]
    offsets = {each[2]: int(each[0], 16) for each in symbols if each[2:] and each[1] == "T"}
    return Parts(library, caller, counting, offsets)


def file_id(path: Path) -> FileId:
    """Return the identity of the file at *path*."""
    status = path.stat()
    return FileId(status.st_dev, status.st_ino)


class Caller:
    """A process that maps a library."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.pid = child.pid

    def call(self, symbol: str, times: int = 1) -> int:
        """Let it call a function with 100; return what that gave the last time."""
        assert self._child.stdin is not None, "it is a pipe"
        assert self._child.stdout is not None, "it is a pipe"
        given = -1
        for _ in range(times):
            self._child.stdin.write(f"{symbol}\n")
            self._child.stdin.flush()
            given = int(self._child.stdout.readline())
        return given


@contextmanager
def calling(parts: Parts, library: Path | str, *before: str) -> Iterator[Caller]:
    """Start a process that has mapped *library* when the block begins.

    Args:
        parts: What was built.
        library: As that process sees it.
        before: Words that go before its command line, such as of ``unshare``.
    """
    child = subprocess.Popen(
        [*before, str(parts.caller), str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None, "it is a pipe"
        if child.stdout.readline() != "ready\n":
            raise RuntimeError(f"{library}: expected a process that maps it, got {child.wait()}")
        yield Caller(child)
    finally:
        stop(child)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


@dataclass(frozen=True, slots=True)
class Counting:
    """The loaded programs."""

    program: int
    """Descriptor of the one that counts under 0."""
    by_cookie: int | None
    """Of the one that counts under its cookie; None: before Linux 5.15."""
    counts: BpfMap

    def count(self, key: int = 0) -> int:
        """Return how often a program ran."""
        found = self.counts.lookup(struct.pack("=Q", key))
        return 0 if found is None else int(struct.unpack("=Q", found)[0])

    def ran(self, caller: Caller, *symbols: str) -> int:
        """Return how often the one under 0 runs while *caller* calls each function once."""
        before = self.count()
        for symbol in symbols:
            caller.call(symbol)
        return self.count() - before


@contextmanager
def counting(parts: Parts) -> Iterator[Counting]:
    """Load the programs for the length of the block."""
    for has_cookies in (True, False):
        with BpfObject.open(parts.counting) as made:
            made.program("count_by_cookie").set_autoload(has_cookies)
            try:
                made.load()
            except VerifierError:
                if not has_cookies:
                    raise
                continue
            by_cookie = made.program("count_by_cookie").fd if has_cookies else None
            yield Counting(made.program("count").fd, by_cookie, made.maps()["counts"])
            return


@contextmanager
def bpffs(point: Path) -> Iterator[Path]:
    """Mount a bpffs at *point*, which is made."""
    mount_bpffs(point)
    try:
        yield point
    finally:
        run_checked("umount", point)
