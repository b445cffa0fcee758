# SPDX-License-Identifier: Apache-2.0
"""The probes' programs without a wall: the maps they open, and what they tell aw_plain."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.flow.tls import TlsLibrary
from agentwall.kernel import links, pins
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.objects import BpfObject
from agentwall.probes.compiling import Compilation
from agentwall.probes.elf import read_elf
from agentwall.probes.libraries import CALLS, WANTED
from agentwall.probes.loading import Programs, load
from agentwall.probes.uprobes import Probe, attach
from rig.tree import ROOT

SHAKE, SAY, HEAR, END = 1, 2, 3, 4
"""``enum aw_plain_act``."""
COUNTERS = ["calls", "foreign", "doubled", "lost", "unreadable", "connections", "joined", "octets"]
PATIENCE_S = 200.0
"""For a compilation on a processor that is emulated, or busy with other tests."""
_HERE = ROOT / "tests" / "probes"
_SEEN = struct.Struct("=8QIIHBB4x64s")
_CALL_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One call, as aw_plain would get it."""

    sandbox: int
    connection: int
    act: int
    library: int
    size: int
    process: int
    cookie: int
    text: bytes
    """The first 64 octets of it."""


class Probing:
    """Pinned maps, and programs compiled for them."""

    def __init__(self, bpf: BpfObject, pin_dir: Path, programs: Programs) -> None:
        self._bpf = bpf
        self._maps = bpf.maps()
        self._cookies = 0
        self.pin_dir = pin_dir
        self.programs = programs

    def admit(self, cgroup: Path, sandbox: int) -> None:
        """Say that who is in *cgroup* or below is in *sandbox*."""
        key, value = cgroup.stat().st_ino, sandbox
        self._maps["aw_plain_cgroups"].update(struct.pack("=Q", key), struct.pack("=Q", value))

    def dismiss(self, cgroup: Path) -> None:
        """Take it back."""
        self._maps["aw_plain_cgroups"].delete(struct.pack("=Q", cgroup.stat().st_ino))

    @contextmanager
    def without_next(self) -> Iterator[None]:
        """Have the programs find nobody to go on to."""
        self._maps["aw_plain_next"].delete(bytes(4))
        try:
            yield
        finally:
            _set_next(self._bpf)

    @contextmanager
    def attached(self, path: Path, library: TlsLibrary, *symbols: str) -> Iterator[list[Probe]]:
        """Probe the calls that the file has, or only *symbols*; each probe has its own cookie."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            offsets = read_elf(fd, WANTED).offsets
            probes: list[Probe] = []
            stack.callback(close_together, probes)
            for call in CALLS[library]:
                if call.symbol not in offsets or (symbols and call.symbol not in symbols):
                    continue
                for program, is_return in ((call.entry, False), (call.back, True)):
                    if program is None:
                        continue
                    self._cookies += 1
                    probe = attach(
                        self.programs.fds[program],
                        fd,
                        offsets[call.symbol],
                        is_return=is_return,
                        cookie=self._cookies,
                    )
                    probes.append(probe)
            yield probes

    def take(self) -> list[Seen]:
        """Return the calls seen since the last time, in their order."""
        found = []
        seen = self._maps["seen"]
        for key, value in sorted(seen.entries(), key=lambda entry: struct.unpack("=Q", entry[0])):
            seen.delete(key)
            sandbox, connection, _, _, size, _, _, cookie, process, _, _, act, library, text = (
                _SEEN.unpack(value)
            )
            found.append(
                Seen(
                    sandbox=sandbox,
                    connection=connection,
                    act=act,
                    library=library,
                    size=size,
                    process=process,
                    cookie=cookie,
                    text=text[:size],
                )
            )
        return found

    def fill_calls(self) -> None:
        """Leave no room for calls of further threads."""
        calls = self._maps["aw_plain_calls"]
        for task in range(1, calls.shape.max_entries + 1 - len(calls.entries())):
            calls.update(struct.pack("=Q", task), bytes(_CALL_BYTES))

    def threads(self) -> int:
        """Return of how many threads the last call is kept."""
        return len(self._maps["aw_plain_calls"].entries())

    def clear_calls(self) -> None:
        """Forget the last call of every thread."""
        self._maps["aw_plain_calls"].drain()

    def counters(self) -> dict[str, int]:
        """Return the sums over all processors."""
        counters = self._maps["aw_plain_counters"]
        cpus = int(Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2])
        size = 8 * len(COUNTERS)
        shape = MapShape(
            name="counters",
            type=counters.shape.type,
            key_size=4,
            value_size=size * (cpus + 1),
            max_entries=1,
        )
        value = BpfMap(counters.fd, shape).lookup(bytes(4))
        assert value is not None
        each = list(struct.iter_unpack(f"={len(COUNTERS)}Q", value))
        return {name: sum(row[i] for row in each) for i, name in enumerate(COUNTERS)}


def close_together(probes: Sequence[Probe]) -> None:
    """Close them at the same time: one after the other, each waits for the kernel."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(Probe.close, probes))


def _set_next(bpf: BpfObject) -> None:
    bpf.maps()["aw_plain_next"].update(bytes(4), struct.pack("=I", bpf.program("aw_plain").fd))


def build_stand_in(directory: Path) -> tuple[Path, Path]:
    """Build tests/probes/library.c and a program that calls it; return both."""
    library, caller = directory / "libstandin.so", directory / "caller"
    gcc = ["gcc", "-O1", "-Wall", "-Werror"]
    # Its functions call each other as those of real libraries do.
    shared = [*gcc, "-shared", "-fPIC", "-fno-inline", "-o", library, _HERE / "library.c"]
    subprocess.run(shared, check=True)
    linked = [f"-Wl,-rpath,{directory}", f"-L{directory}", "-lstandin"]
    subprocess.run([*gcc, "-o", caller, _HERE / "caller.c", *linked], check=True)
    return library, caller


@contextmanager
def pinned_maps(directory: Path) -> Iterator[tuple[BpfObject, Path]]:
    """Load tests/probes/bpf/seen.bpf.c; yield it and the directory where its maps are pinned."""
    made, point = directory / "seen.bpf.o", directory / "bpffs"
    clang = ["clang", "-g", "-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]
    includes = ["-I", ROOT / "bpf", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
    source = _HERE / "bpf" / "seen.bpf.c"
    subprocess.run([*clang, *includes, "-c", source, "-o", made], check=True)
    with ExitStack() as stack:
        pins.mount_bpffs(point)
        stack.callback(pins.unmount_bpffs, point)
        bpf = stack.enter_context(BpfObject.open(made))
        bpf.load()
        pin_dir = point / "maps"
        pin_dir.mkdir()
        stack.callback(pin_dir.rmdir)
        for name, bpf_map in bpf.maps().items():
            links.pin(bpf_map.fd, pin_dir / name)
            stack.callback((pin_dir / name).unlink)
        yield bpf, pin_dir


@contextmanager
def probing(directory: Path) -> Iterator[Probing]:
    """Compile the probes for maps of the test's own, in *directory*."""
    with pinned_maps(directory) as (bpf, pin_dir), Compilation(timeout_s=PATIENCE_S) as compilation:
        _set_next(bpf)
        compilation.start()
        programs = load(compilation.wait(), pin_dir)
        try:
            yield Probing(bpf, pin_dir, programs)
        finally:
            programs.close()
