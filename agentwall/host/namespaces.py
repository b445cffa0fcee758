# SPDX-License-Identifier: Apache-2.0
"""A mount and a PID namespace from which a command reaches neither cgroups, pins nor the host's
processes, even as uid 0.

The command has no CAP_SYS_ADMIN, so it can undo none of these mounts; in a user namespace of its
own the kernel locks them (mount_namespaces(7), "Restrictions on mount namespaces").
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.errors import HostError
from agentwall.host import libc
from agentwall.host.mountinfo import Mount, read_mounts
from agentwall.host.mounting import PLAIN, bind_read_only, cover_file, hide, remount_read_only
from agentwall.host.veil import Veil, draw_veil

_CGROUP_FILESYSTEMS = frozenset({"cgroup", "cgroup2"})
_KERNEL_FILESYSTEMS = frozenset(
    {"sysfs", "debugfs", "tracefs", "securityfs", "configfs", "efivarfs", "pstore", "binfmt_misc"}
)
"""Where uid 0, without any capability, changes what the kernel does or starts as a helper."""
_KERNEL_KNOBS = ("sys", "sysrq-trigger", "irq", "bus", "fs")
"""The same below /proc: core_pattern alone starts a program of choice as root, outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a command must not see or must not write."""

    hidden: tuple[Path, ...]
    """Directories under an empty file system."""
    read_only: tuple[Path, ...]
    """Files and directories that cannot be written, renamed or removed."""
    guards_kernel: bool
    """Kernel knobs in /proc and /sys are read-only: needed for uid 0, whom files do not refuse."""
    veils: tuple[Veil, ...] = ()
    """Directories made anew without some of their entries; where there is none, none is made."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Read-only content, ASCII, that the command sees in place of a file's own."""


@contextlib.contextmanager
def children_in_new_pid_namespace() -> Iterator[None]:
    """Let the first process forked inside be process 1 of a PID namespace of its own.

    Raises:
        OSError: The kernel or a missing capability does not permit it.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWPID)
        parent = os.getpid()
        try:
            yield
        finally:
            # Only in the parent: the child is where it should be.
            if os.getpid() == parent:
                libc.setns(own, libc.CLONE_NEWPID)
    finally:
        os.close(own)


def enter_confinement(confinement: Confinement) -> None:
    """Give the caller a mount namespace of its own, confined.

    The caller must be process 1 of a new PID namespace: /proc becomes that namespace's, so the
    same user's processes outside cannot be reached through it.

    Raises:
        HostError: Something that must be out of reach still is not.
        OSError: A mount was refused.
    """
    here = _working_directory()
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(None, "/", None, libc.MS_REC | libc.MS_PRIVATE)
    mounts = read_mounts()
    for mount in mounts:
        # A mount that another covers cannot be reached by path, so it needs nothing.
        if _is_reachable(mount):
            _confine_mount(mount, guards_kernel=confinement.guards_kernel)
    for path in confinement.hidden:
        if path.is_dir():
            hide(str(path))
    for path in confinement.read_only:
        bind_read_only(str(path))
    # Last: what they bind is confined already.
    _draw_veils(confinement)
    _leave_covered(here, confinement)
    _check_cgroups(mounts)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _draw_veils(confinement: Confinement) -> None:
    left = {Path(os.path.realpath(path)): text for path, text in confinement.files.items()}
    for veil in confinement.veils:
        if veil.directory.is_dir():
            inside = [path for path in left if path.is_relative_to(veil.directory)]
            files = {path.relative_to(veil.directory).parts: left.pop(path) for path in inside}
            draw_veil(veil, files)
    for path, text in left.items():
        if not path.is_file():
            raise HostError(f"{path}: expected a file, to put another over it")
        cover_file(str(path), text)


def _leave_covered(here: str | None, confinement: Confinement) -> None:
    # A working directory stays where it was, below the mounts, and .. leads on from there.
    covered = (*confinement.hidden, *(veil.directory for veil in confinement.veils))
    if here is None or any(Path(here).is_relative_to(each) for each in covered):
        try:
            os.chdir(here or "/")
        except OSError as err:
            raise HostError(f"working directory {here}: not in the sandbox") from err


def _is_reachable(mount: Mount) -> bool:
    return os.path.lexists(mount.point)


def _confine_mount(mount: Mount, *, guards_kernel: bool) -> None:
    if mount.fstype in _CGROUP_FILESYSTEMS:
        remount_read_only(mount.point, mount.options)
    elif mount.fstype == "bpf":
        hide(mount.point)
    elif mount.fstype == "proc" and mount.root == "/":
        _renew_proc(mount.point, guards_kernel=guards_kernel)
    elif mount.fstype in _KERNEL_FILESYSTEMS and guards_kernel:
        remount_read_only(mount.point, mount.options)


def _renew_proc(point: str, *, guards_kernel: bool) -> None:
    libc.mount("proc", point, "proc", PLAIN)
    if guards_kernel:
        for name in _KERNEL_KNOBS:
            if os.path.exists(knob := f"{point}/{name}"):
                bind_read_only(knob)


def _check_cgroups(mounts: tuple[Mount, ...]) -> None:
    for mount in filter(_is_reachable, mounts):
        is_writable = not os.statvfs(mount.point).f_flag & os.ST_RDONLY
        if mount.fstype in _CGROUP_FILESYSTEMS and is_writable:
            raise HostError(f"{mount.point}: expected a read-only cgroup file system")
        if mount.fstype == "bpf" and os.listdir(mount.point):
            raise HostError(f"{mount.point}: expected an empty directory over bpffs")
