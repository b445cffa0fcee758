# SPDX-License-Identifier: Apache-2.0
"""cgroup v2 directories as bpf(2) needs them: which are safe to attach to, and their ids.

A program at the root cgroup would judge the whole host, so only a directory that is provably a
cgroup below the root is ever opened for attaching.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError

_serial = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of ``/proc/self/mountinfo``, as far as agentwall reads it."""

    device: int
    """As ``st_dev``."""
    root: str
    """Which directory of the file system is mounted."""
    point: Path
    options: frozenset[str]
    kind: str
    """The file system's type: ``cgroup2``, ``bpf``."""


def read_mounts(kind: str) -> list[Mount]:
    """Return the mounts of one file system type in this mount namespace, in mount order."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [mount for mount in map(_parse_mount, text.splitlines()) if mount.kind == kind]


# Source: proc(5), /proc/pid/mountinfo. Spaces and the like are octal escapes.
def _parse_mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, root, point, options, *_ = before.split(" ")
    major, _, minor = device.partition(":")
    return Mount(
        device=os.makedev(int(major), int(minor)),
        root=_unescape(root),
        point=Path(_unescape(point)),
        options=frozenset(options.split(",")),
        kind=after.split(" ", 1)[0],
    )


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def own_cgroup() -> Path:
    """Return the directory of the cgroup this process is in.

    Raises:
        HostError: cgroup v2 is not mounted, or this process's cgroup lies outside the mount.
    """
    mounts = read_mounts("cgroup2")
    if not mounts:
        raise HostError(
            "cgroup v2: not mounted; boot with it, or: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        )
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    for mount in mounts:
        if mount.root == "/" or path == mount.root or path.startswith(mount.root + "/"):
            below = path if mount.root == "/" else path.removeprefix(mount.root)
            return mount.point / below.lstrip("/")
    raise HostError(f"cgroup v2: own cgroup {path} is not below {mounts[0].point}")


@contextlib.contextmanager
def attachable(cgroup: Path) -> Iterator[int]:
    """Open a cgroup v2 directory for attaching; yield the descriptor.

    Raises:
        HostError: The path is empty, the file system's root, not a cgroup v2 directory, the root
            cgroup, or the root of what is visible of it.
    """
    if str(cgroup) in ("", ".", "/"):
        raise HostError(f"attach to {str(cgroup)!r}: expected a cgroup v2 directory")
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise HostError(f"attach to {cgroup}: {(err.strerror or '').lower()}") from err
    try:
        _expect_below_root(fd, cgroup)
        yield fd
    finally:
        os.close(fd)


class _Mounts:
    """What of cgroup v2 is mounted, read again when the kernel says that mounts changed."""

    def __init__(self) -> None:
        self._pid = 0
        self._fd = -1
        self._poll = select.poll()
        self._devices: frozenset[int] = frozenset()
        self._roots: frozenset[tuple[int, int]] = frozenset()

    def devices_and_roots(self) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
        """Return the devices, and the (device, inode) of what lies at each mount point."""
        # A child may have gone into a mount namespace of its own, where this file is not about it.
        if self._pid != os.getpid():
            self._open()
            self._read()
        elif self._poll.poll(0):
            self._read()
        return self._devices, self._roots

    def _open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._pid = os.getpid()
        self._poll = select.poll()
        # Source: proc(5): POLLERR and POLLPRI once after every change.
        self._poll.register(self._fd, select.POLLPRI)
        self._poll.poll(0)

    def _read(self) -> None:
        mounts = read_mounts("cgroup2")
        roots = set()
        for mount in mounts:
            with contextlib.suppress(OSError):  # a mount point may be hidden by another
                root = os.stat(mount.point)
                roots.add((root.st_dev, root.st_ino))
        self._devices = frozenset(mount.device for mount in mounts)
        self._roots = frozenset(roots)


_mounts = _Mounts()


def _expect_below_root(fd: int, cgroup: Path) -> None:
    found = os.fstat(fd)
    devices, roots = _mounts.devices_and_roots()
    if found.st_dev not in devices:
        raise HostError(f"attach to {cgroup}: expected a cgroup v2 directory")
    if (found.st_dev, found.st_ino) in roots:
        raise HostError(f"attach to {cgroup}: refusing the root cgroup")
    # Every cgroup has this file but the real root, whatever is mounted where.
    try:
        os.stat("cgroup.events", dir_fd=fd)
    except OSError as err:
        raise HostError(f"attach to {cgroup}: refusing the root cgroup") from err


def id_of(fd: int) -> int:
    """Return the id that the kernel's cgroup storage knows a cgroup by: its directory's inode."""
    return os.fstat(fd).st_ino


@contextlib.contextmanager
def temporary_cgroup(name: str = "agentwall-probe") -> Iterator[Path]:
    """Make an empty cgroup below this process's own, and remove it at the end.

    Raises:
        HostError: It cannot be made: not root, no cgroup v2, or mounted read-only.
    """
    path = own_cgroup() / f"{name}-{os.getpid()}-{next(_serial)}"
    try:
        path.mkdir()
    except OSError as err:
        raise HostError(f"{path}: make a cgroup: {(err.strerror or '').lower()}") from err
    try:
        yield path
    finally:
        path.rmdir()
