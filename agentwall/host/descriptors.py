# SPDX-License-Identifier: Apache-2.0
"""Judge the descriptors a command would inherit: one that leads out needs no connect()."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError

STANDARD = (0, 1, 2)

_HARMLESS_MAJORS = frozenset({1, 5})
"""null, zero, full, random; tty, console, ptmx."""
_KERNEL_FILESYSTEMS = frozenset({"cgroup", "cgroup2", "bpf", "proc", "sysfs"})
"""Writing to a file of these acts with the rights of whoever opened it."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """One open descriptor."""

    number: int
    what: str
    """``file``, ``pipe``, ``terminal``, ``unix socket``, ``inet socket``, ``directory``, ..."""
    leads_out: bool
    """It is a way around the wall, or may be one."""


def inspect_descriptor(number: int) -> Inherited | None:
    """Say what *number* is, or return None if it is not open."""
    try:
        mode = os.fstat(number).st_mode
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return None
    what, leads_out = _classify(number, mode, target)
    return Inherited(number, what, leads_out)


def _classify(number: int, mode: int, target: str) -> tuple[str, bool]:
    if stat.S_ISSOCK(mode):
        family = _family_of(number)
        return f"{family} socket", family != "unix"
    if stat.S_ISDIR(mode):
        # openat() from a directory of the caller's mount namespace passes read-only cgroupfs.
        return "directory", True
    if stat.S_ISFIFO(mode):
        return "pipe", False
    if stat.S_ISCHR(mode) and os.isatty(number):
        return "terminal", False
    if stat.S_ISCHR(mode):
        return "device", os.major(os.fstat(number).st_rdev) not in _HARMLESS_MAJORS
    if stat.S_ISREG(mode) and target.startswith("/"):
        kind = _kernel_filesystem(number)
        return (f"file of {kind}", True) if kind else ("file", False)
    # A process, namespace, BPF object, io_uring, ... (a memfd is a file, though its name is not).
    return ("file", False) if target.startswith("/memfd:") else (target.split(":")[0], True)


def _family_of(number: int) -> str:
    with socket.socket(fileno=os.dup(number)) as duplicate:
        family = duplicate.family
    names = {
        int(socket.AF_UNIX): "unix",
        int(socket.AF_INET): "inet",
        int(socket.AF_INET6): "inet6",
        int(socket.AF_NETLINK): "netlink",
        int(socket.AF_PACKET): "packet",
        int(socket.AF_VSOCK): "vsock",
    }
    return names.get(int(family), f"family {int(family)}")


def _kernel_filesystem(number: int) -> str | None:
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return None
    device = os.fstat(number).st_dev
    mounted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        if fields[2] == mounted and kind in _KERNEL_FILESYSTEMS:
            return kind
    return None


def judge_descriptors(kept: Collection[int]) -> tuple[Inherited, ...]:
    """Return 0-2 and *kept* as far as they are open, each one fit to be inherited.

    Raises:
        HostError: One of 0-2 leads out and is not in *kept*, or one of *kept* is not open.
    """
    found = []
    for number in sorted({*STANDARD, *kept}):
        inherited = inspect_descriptor(number)
        if inherited is None:
            _require_standard(number)
            continue
        if inherited.leads_out and number not in kept:
            raise HostError(
                f"descriptor {number}: {inherited.what} leads around the wall; "
                f"--keep-fd {number} hands it to the command all the same"
            )
        found.append(inherited)
    return tuple(found)


def _require_standard(number: int) -> None:
    if number not in STANDARD:
        raise HostError(f"descriptor {number}: expected an open one to keep")


def kept_open(found: Iterable[Inherited]) -> tuple[int, ...]:
    """Return the numbers to leave open."""
    return tuple(inherited.number for inherited in found)
