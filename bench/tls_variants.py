# SPDX-License-Identifier: Apache-2.0
"""What is compared inside TLS: bare, the wall with and without reading, who is in no sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agentwall.flow.tls import TlsLibrary
from agentwall.kernel import links, pins
from agentwall.kernel.abi import Plain
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.plain import PlainCounts
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Policy
from agentwall.probes.attached import Attached
from agentwall.probes.code import MAPS
from agentwall.probes.compiling import Compilation
from agentwall.probes.elf import read_elf
from agentwall.probes.libraries import WANTED
from agentwall.probes.loading import load
from agentwall.probes.mappings import FileId
from agentwall.probes.prologue import cheapest_places
from agentwall.probes.uprobes import attach
from bench.course import AGAIN, BARE
from bench.ground import Ground, make_cgroup
from bench.searches import Sought
from bench.tls_ground import Library, copy_library
from bench.variants import PROBE_CPU, Bare, Place
from bench.walls import Agentwall

OFF = "wall, not read inside TLS"
READ = "wall, read inside TLS"
FOREIGN = "in no sandbox, library probed"
TRAP = "in no sandbox, empty programs"
SIDE_BY_SIDE = (AGAIN, OFF, READ, FOREIGN)
"""What is compared with bare."""
_PATIENCE_S = 60.0
_COMPILE_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one variant can be timed."""

    place: Place
    library: Library

    def command(self, *command: str | Path) -> list[str]:
        """Return *command* as run there, on a processor of its own, with this copy of OpenSSL."""
        pinned = ("nice", "-n", "-20", "taskset", "-c", str(PROBE_CPU))
        return self.place.within(*pinned, *self.library.used_by(*command))


@dataclass(frozen=True, slots=True)
class Seats:
    """All of them, ready."""

    of: Mapping[str, Seat]
    counts: Callable[[], PlainCounts]
    """Of the wall that reads, since it was made."""
    compiled: Sequence[Compiled]
    """Each time the probes were compiled."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a child took to compile the probes."""

    seconds: float
    peak_kib: int


@contextmanager
def seats(
    ground: Ground, scratch: Path, policy: Policy, sought: Sought, trap: Path
) -> Iterator[Seats]:
    """Prepare every variant on *ground*.

    Args:
        ground: Shared, as the servers are.
        scratch: A directory, in which others are made.
        policy: Permits the far address.
        sought: What both walls look for, in clear.
        trap: The object of the empty program.
    """
    made: list[Wall] = []
    compiled: list[Compiled] = []

    def around(wall: Wall) -> AbstractContextManager[None]:
        made.append(wall)
        return _probed(wall, scratch / "pins", library, compiled)

    with ExitStack() as stack:
        library = copy_library(scratch / "read")
        off = Agentwall(policy, sought=sought, inside=Plain.OFF)
        read = Agentwall(policy, sought=sought, around=around)
        places = {
            BARE: stack.enter_context(Bare().prepare(ground)),
            AGAIN: stack.enter_context(Bare().prepare(ground)),
            OFF: stack.enter_context(off.prepare(ground)),
            READ: stack.enter_context(read.prepare(ground)),
            TRAP: stack.enter_context(Bare().prepare(ground)),
        }
        # A sandbox is read meanwhile, and this process is not in it.
        beside = stack.enter_context(make_cgroup())
        places[FOREIGN] = Place(ground, beside, places[READ].in_force)
        of = {
            name: Seat(place, _library(name, number, scratch, library))
            for number, (name, place) in enumerate(places.items())
        }
        stack.enter_context(_trapped(trap, of[TRAP].library))
        yield Seats(of, made[0].plain.counts, compiled)


def _library(name: str, number: int, scratch: Path, probed: Library) -> Library:
    return probed if name in (READ, FOREIGN) else copy_library(scratch / f"library-{number}")


@contextmanager
def _probed(wall: Wall, point: Path, library: Library, compiled: list[Compiled]) -> Iterator[None]:
    """Probe *library* for *wall*, as a run does, until the end."""
    with ExitStack() as stack:
        pins.mount_bpffs(point)
        stack.callback(pins.unmount_bpffs, point)
        shared = point / "maps"
        shared.mkdir()
        stack.callback(shared.rmdir)
        maps = wall.maps()
        for name in MAPS:
            links.pin(maps[name].fd, shared / name)
            stack.callback((shared / name).unlink)
        wall.plain.open()
        for _ in range(_COMPILE_ROUNDS):
            with Compilation(timeout_s=_PATIENCE_S) as compilation:
                compilation.start()
                code = compilation.wait()
            compiled.append(Compiled(code.seconds, code.peak_kib))
        programs = load(code, shared)
        stack.callback(programs.close)
        attached = Attached(programs.fds, max_libraries=1, pins=point / "probes")
        stack.callback(attached.close)
        _attach(attached, library)
        yield


def _attach(attached: Attached, library: Library) -> None:
    fd = os.open(library.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        file = FileId(status.st_dev, status.st_ino)
        offsets = read_elf(fd, WANTED).offsets
        path = str(library.file)
        state = attached.use(file, fd, TlsLibrary.OPENSSL, offsets, "bench", path, 0.0)
    finally:
        os.close(fd)
    if state.unread is not None:
        raise RuntimeError(f"{library.file}: not probed: {state.unread.value} {state.reason}")


@contextmanager
def _trapped(path: Path, library: Library) -> Iterator[None]:
    """Hang an empty program on all that is probed, entries and returns alike."""
    fd = os.open(library.file, os.O_RDONLY | os.O_CLOEXEC)
    with ExitStack() as stack, BpfObject.open(path) as loaded:
        stack.callback(os.close, fd)
        loaded.load()
        offsets = read_elf(fd, WANTED).offsets
        hang = partial(attach, loaded.program("trap").fd, fd)
        for _, offset, _, is_return in cheapest_places(fd, TlsLibrary.OPENSSL, offsets):
            probe = hang(offset, is_return=is_return, cookie=0)
            stack.callback(probe.close)
        yield
