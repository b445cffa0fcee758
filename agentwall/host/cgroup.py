# SPDX-License-Identifier: Apache-2.0
"""Cgroups of version 2: find the hierarchy, make one for a sandbox, remove it again.

A sandbox's cgroup stands below the caller's own, so that the limits, device rules and accounting
of a Slurm job, pod or unit keep holding; only a caller in the root cgroup gets a slice of its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError
from agentwall.host.mountinfo import Mount, read_mounts

SLICE = "agentwallrun.slice"
"""Not the daemon's /agentwall.slice, whose default policy would hold as well."""
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup, never the root of the hierarchy."""

    path: str
    """As /proc/<pid>/cgroup spells it, starting with ``/``."""
    directory: Path

    def __post_init__(self) -> None:
        # The kernel gives cgroup.events to every cgroup but the real root, whatever a cgroup
        # namespace calls "/".
        if not self.directory.is_absolute() or not (self.directory / "cgroup.events").exists():
            raise HostError(f"cgroup {self.path!r}: expected a cgroup below the root")

    def add(self, pid: int) -> None:
        """Move process *pid* here and read back that it arrived."""
        try:
            (self.directory / "cgroup.procs").write_text(str(pid))
        except OSError as err:
            raise HostError(f"cgroup {self.path}: adding process {pid}: {err.strerror}") from err
        if path_of(pid) != self.path:
            raise HostError(f"cgroup {self.path}: process {pid} is in {path_of(pid)}")

    def pids(self) -> tuple[int, ...]:
        """Return the processes here and in every cgroup below."""
        found: list[int] = []
        for directory in _below(self.directory):
            # A cgroup may go, or turn threaded, between listing and reading.
            with contextlib.suppress(OSError):
                found += map(int, (directory / "cgroup.procs").read_text().split())
        return tuple(sorted(found))

    def holds_process(self) -> bool:
        """Say whether a process is in this cgroup itself, whatever is below."""
        try:
            return bool((self.directory / "cgroup.procs").read_text())
        except OSError:
            # Threaded, or just gone.
            return False

    def used_us(self) -> int:
        """Return the processor time that was used here and below, microseconds.

        Raises:
            OSError: It has gone.
        """
        first = (self.directory / "cpu.stat").read_text().split("\n", 1)[0]
        return int(first.split()[1])

    def ids(self) -> frozenset[int]:
        """Return the ids of this cgroup and of every one below: inode numbers."""
        found = []
        for directory in _below(self.directory):
            with contextlib.suppress(OSError):
                found.append(directory.stat().st_ino)
        return frozenset(found)

    def is_populated(self) -> bool:
        """Say whether a process, zombies apart, lives here or below."""
        return "populated 1" in (self.directory / "cgroup.events").read_text().splitlines()

    def kill(self, timeout_s: float = 5.0) -> bool:
        """Kill every process here and below; return whether all have gone within *timeout_s*."""
        knob = self.directory / "cgroup.kill"
        deadline_s = time.monotonic() + timeout_s
        if knob.exists():  # Since Linux 5.14.
            knob.write_text("1")
        while self.is_populated():
            if time.monotonic() > deadline_s:
                return False
            if not knob.exists():
                self._kill_one_by_one()
            time.sleep(_POLL_S)
        return True

    def freeze(self, timeout_s: float) -> bool:
        """Stop every process here and below; return whether all stand within *timeout_s*.

        Those that do not yet will. ``echo 0 > cgroup.freeze`` lets them go on; they can be killed.

        Raises:
            OSError: The cgroup is gone.
        """
        (self.directory / "cgroup.freeze").write_text("1")
        deadline_s = time.monotonic() + timeout_s
        while not self.is_frozen():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S / 10)
        return True

    def is_frozen(self) -> bool:
        """Say whether every process here and below stands still."""
        return "frozen 1" in (self.directory / "cgroup.events").read_text().splitlines()

    def _kill_one_by_one(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def remove(self) -> None:
        """Remove this cgroup and those made below it; kill nothing.

        Raises:
            HostError: A process lives in one of them.
        """
        directories = _below(self.directory)
        for directory in reversed(directories):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as err:
                raise HostError(f"cgroup {self.path}: removing: {err.strerror}") from err
        if self.directory.parent.name == SLICE:
            # Others may still live in the slice.
            with contextlib.suppress(OSError):
                self.directory.parent.rmdir()


def _below(directory: Path) -> list[Path]:
    # Parents before children. os.walk does not raise if one vanishes meanwhile.
    return [Path(name) for name, _, _ in os.walk(directory)]


def path_of(pid: int | str) -> str | None:
    """Return the cgroup of *pid* (or ``self``), or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_membership(text)


def parse_membership(text: str) -> str | None:
    """Return the version 2 path in the *text* of a /proc/<pid>/cgroup file."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def locate(path: str, mounts: tuple[Mount, ...]) -> Path:
    """Return the directory that shows the cgroup *path*.

    Raises:
        HostError: No cgroup2 mount shows it.
    """
    candidates = [mount for mount in mounts if mount.fstype == "cgroup2"]
    if not candidates:
        raise HostError(
            "no cgroup v2 hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        )
    # Writable ones first; the sort is stable, and the last mount on a point hides earlier ones.
    for mount in sorted(reversed(candidates), key=lambda mount: "ro" in mount.options):
        root = mount.root.rstrip("/")
        if ".." not in path.split("/") and (path + "/").startswith(root + "/"):
            directory = Path(mount.point) / path[len(root) :].lstrip("/")
            if directory.is_dir():
                return directory
    raise HostError(f"cgroup {path}: no cgroup2 mount shows it")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cgroup is going to be."""

    path: str
    directory: Path

    def make(self) -> Cgroup:
        """Make the cgroup.

        Raises:
            HostError: It is there already, or the hierarchy is read-only here.
        """
        try:
            self._make_directories()
        except OSError as err:
            raise HostError(f"{self.directory}: making a cgroup: {err.strerror}") from err
        return Cgroup(self.path, self.directory)

    def _make_directories(self) -> None:
        above = self.directory.parent
        while above.name == SLICE:
            # A run with another /run may end just now and take the slice away: no lock is shared.
            with contextlib.suppress(FileExistsError):
                above.mkdir()
            with contextlib.suppress(FileNotFoundError):
                self.directory.mkdir()
                return
        self.directory.mkdir()

    def find(self) -> Cgroup | None:
        """Return the cgroup that is there, or None."""
        return Cgroup(self.path, self.directory) if self.directory.is_dir() else None


def place_at(path: str) -> Place:
    """Return the place of the cgroup *path*, which need not exist.

    Raises:
        HostError: There is no cgroup v2, or no mount shows its root.
    """
    return Place(path, locate("/", read_mounts()) / path.lstrip("/"))


def choose_place(name: str) -> Place:
    """Return the place of a cgroup *name* below the caller's own.

    Raises:
        HostError: There is no cgroup v2.
    """
    own = path_of("self")
    if not own:
        raise HostError("this process is in no cgroup of version 2: is /proc mounted?")
    parent = locate(own, read_mounts())
    if not (parent / "cgroup.events").exists():
        own, parent = f"/{SLICE}", parent / SLICE
    return Place(f"{own.rstrip('/')}/{name}", parent / name)


def find(path: str) -> Cgroup | None:
    """Return the cgroup at *path*, or None if it no longer exists."""
    try:
        return Cgroup(path, locate(path, read_mounts()))
    except HostError:
        return None
