# SPDX-License-Identifier: Apache-2.0
"""Pins: what keeps maps, programs and links alive after their maker has died.

They live on a bpffs of agentwall's own, mode 0700: whoever can open a link's pin can detach it,
even uid 0 without any capability, so the mount must be out of every sandbox's reach. One directory
a run; bpffs allows no dot in a name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from agentwall.errors import HostError, KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel.cgroup2 import read_mounts
from agentwall.kernel.links import Link, open_pin

BPFFS = Path("/run/agentwall/bpf")
LINKS = "links"
"""The directory of a run's links; what holds the wall up."""
MAPS = "maps"
PROGRAMS = "programs"

_LINK = re.compile(r"([0-9a-f]{16})-[a-z0-9_]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount_bpffs(point: Path = BPFFS) -> Path:
    """Mount a bpffs of our own at *point*, mode 0700, unless it is there; return *point*.

    Raises:
        HostError: It cannot be mounted, or others than root may enter it.
    """
    try:
        point.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise HostError(f"{point}: make a directory: {(err.strerror or '').lower()}") from err
    if not is_mounted(point):
        flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        if _LIBC.mount(b"bpf", os.fsencode(point), b"bpf", flags, b"mode=0700"):
            reason = os.strerror(ctypes.get_errno()).lower()
            raise HostError(f"{point}: mount a bpffs: {reason}")
    found = point.stat()
    if found.st_uid != 0 or stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise HostError(f"{point}: expected mode 0700 of root, got {mode:04o} of {found.st_uid}")
    return point


def is_mounted(point: Path = BPFFS) -> bool:
    """Say whether *point* is a bpffs: one that another mount hides does not count."""
    try:
        device = point.stat().st_dev
    except OSError:
        return False
    return (point, device) in {(mount.point, mount.device) for mount in read_mounts("bpf")}


def unmount_bpffs(point: Path = BPFFS) -> bool:
    """Unmount our bpffs; say whether it is gone. One with runs' directories in it stays."""
    if not is_mounted(point):
        return True
    # Files of the kernel's own, such as maps.debug, do not count (CONFIG_BPF_PRELOAD).
    if pin_dirs(point):
        return False
    return bool(_LIBC.umount2(os.fsencode(point), ctypes.c_int(0)) == 0)


def make_pin_dir(pin_dir: Path) -> None:
    """Make the directory for the pins of one run, and mount our bpffs above it if need be.

    Args:
        pin_dir: :data:`BPFFS` / the run's id. :meth:`Wall.load` calls this for its caller.

    Raises:
        HostError: No bpffs can be mounted, the name does not suit, or it is taken.
    """
    if not _NAME.fullmatch(pin_dir.name):
        raise HostError(f"pin directory {pin_dir.name!r}: expected letters, digits, - and _")
    mount_bpffs(pin_dir.parent)
    try:
        for path in (pin_dir, *(pin_dir / name for name in (LINKS, MAPS, PROGRAMS))):
            path.mkdir(mode=0o700)
    except OSError as err:
        raise HostError(f"{pin_dir}: make a directory: {(err.strerror or '').lower()}") from err


def make_staging(directory: Path) -> None:
    """Make the directory for the maps and programs of a wall that is to take another's place.

    Raises:
        HostError: It cannot be made.
    """
    try:
        for path in (directory, directory / MAPS, directory / PROGRAMS):
            path.mkdir(mode=0o700)
    except OSError as err:
        raise HostError(f"{directory}: make a directory: {(err.strerror or '').lower()}") from err


def pin_dirs(point: Path = BPFFS) -> list[Path]:
    """Return the runs' pin directories that exist, sorted; none where nothing is mounted."""
    if not is_mounted(point):
        return []
    return sorted(path for path in point.iterdir() if path.is_dir())


def list_pins(pin_dir: Path) -> list[Path]:
    """Return what is pinned below *pin_dir*, sorted."""
    found = [Path(base) / name for base, _, names in os.walk(pin_dir) for name in names]
    return sorted(found)


def clear_pins(pin_dir: Path) -> int:
    """Take a wall down: detach and unpin its links, then everything else; return how many pins.

    What lives in the cgroup is free of the wall afterwards. A directory that is not there has no
    pins.

    Raises:
        KernelError: Something could not be removed.
    """
    pins = list_pins(pin_dir)
    try:
        for path in pins:
            if path.parent.name == LINKS:
                _detach(path)
            path.unlink(missing_ok=True)
        for base, _, _ in os.walk(pin_dir, topdown=False):
            os.rmdir(base)
    except OSError as err:
        code = err.errno or errno.EIO
        raise KernelError(code, f"{pin_dir}: clear pins: {os.strerror(code).lower()}") from err
    return len(pins)


def pinned_links(pin_dir: Path) -> dict[SandboxKey, list[Path]]:
    """Return the pins of links at cgroups, by the sandbox that each was made for."""
    found: dict[SandboxKey, list[Path]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(pin_dir / LINKS)):
            match = _LINK.fullmatch(name)
            if match:
                found.setdefault(SandboxKey(int(match[1], 16)), []).append(pin_dir / LINKS / name)
    return found


def remove_stale_links(pin_dir: Path, sandboxes: Collection[SandboxKey]) -> list[SandboxKey]:
    """Remove pins of links whose cgroup has gone.

    Args:
        pin_dir: Of a wall.
        sandboxes: Whose pins are known to be right, and are not looked at.

    Returns:
        Other sandboxes, whose links stand.

    Raises:
        KernelError: A link cannot be looked at.
    """
    standing = []
    for sandbox, paths in pinned_links(pin_dir).items():
        if sandbox in sandboxes:
            continue
        for path in paths:
            with contextlib.closing(Link.open(path)) as link:
                if link.info().cgroup_id:
                    standing.append(sandbox)
                else:
                    path.unlink()
    return sorted(set(standing))


def detach_links(pin_dir: Path, sandbox: SandboxKey) -> None:
    """Detach and unpin the links of one sandbox, whoever made them.

    Raises:
        KernelError: A link cannot be opened.
    """
    for path in pinned_links(pin_dir).get(sandbox, []):
        _detach(path)
        path.unlink()


def _detach(path: Path) -> None:
    link = Link(open_pin(path), f"{path}")
    try:
        # ENOLINK: its cgroup has been removed and the kernel has detached the link already.
        with contextlib.suppress(KernelError):
            link.detach()
    finally:
        link.close()
