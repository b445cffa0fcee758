# SPDX-License-Identifier: Apache-2.0
"""Open roads: what of this host leads around a wall, whoever stands behind it.

``exposure`` judges one sandbox; here the host itself is looked at, with the eyes of a user without
rights. Each road has a remedy, which is the administrator's to weigh.
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentwall.host.deputies import DEPUTIES, Deputy, present
from agentwall.host.exposure import has_vsock, reachable_sockets
from agentwall.host.identity import Identity
from agentwall.host.mountinfo import Mount, read_mounts
from agentwall.host.seccomp import knows_machine

SYSCTL = Path("/proc/sys")
_OWN = Path("/run/agentwall")
_NOBODY = Identity(uid=65534, gid=65534, groups=(), environment={})
_SAFE_RELEASE = (5, 15)
"""Since Linux kernel commit 8520e224f547 ("bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed
mode") (in v5.15) the use of net_cls or net_prio no longer takes sockets out of cgroup v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """One way out that a wall does not close, or that run has to close."""

    name: str
    detail: str
    remedy: str


def find_roads() -> list[Road]:
    """Look at this host and return its open roads.

    Raises:
        HostError: /proc is not readable.
    """
    mounts = read_mounts()
    return [
        *bpffs_roads(mounts),
        *_socket_roads(),
        *deputy_roads(DEPUTIES),
        *_vsock_roads(),
        *namespace_roads(SYSCTL),
        *io_uring_roads(SYSCTL),
        *hybrid_roads(mounts, os.uname().release),
    ]


def bpffs_roads(mounts: tuple[Mount, ...]) -> Iterator[Road]:
    """Yield each bpffs that other users may enter: who sees a link's pin can detach it."""
    for mount in mounts:
        if mount.fstype == "bpf" and not Path(mount.point).is_relative_to(_OWN):
            mode = _mode_of(mount.point)
            if mode & stat.S_IXOTH:
                yield Road(
                    name="bpffs",
                    detail=f"{mount.point} may be entered by every user ({mode:04o})",
                    remedy=f"chmod 0700 {mount.point}; run hides it from its command",
                )


def _mode_of(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0


def _socket_roads() -> Iterator[Road]:
    for path in reachable_sockets(_NOBODY, {}):
        yield Road(
            name="host service",
            detail=f"{path} answers every user, and acts outside their cgroups",
            remedy="give the socket a group, or keep it out of sandboxes' mounts",
        )


def deputy_roads(deputies: Iterable[Deputy]) -> Iterator[Road]:
    """Yield each of *deputies* whose socket is on this host."""
    for deputy in present(deputies):
        yield Road(
            name="deputy",
            detail=f"{deputy.name} socket {deputy.socket}: {deputy.danger}",
            remedy="run masks it; elsewhere do not mount it",
        )


def _vsock_roads() -> Iterator[Road]:
    if has_vsock():
        yield Road(
            name="vsock",
            detail="AF_VSOCK reaches the hypervisor or a guest, and no cgroup hook sees it",
            remedy=f"{_closed_by_run()}unload vhost_vsock where it is not needed",
        )


def _closed_by_run() -> str:
    if not knows_machine(platform.machine()):
        return "refuse it with seccomp; "
    return "run closes it in enforce mode; for others: "


def namespace_roads(sysctl: Path) -> Iterator[Road]:
    """Yield a road if users without rights may make user namespaces.

    Args:
        sysctl: ``/proc/sys``. Debian and Ubuntu have switches of their own below it.
    """
    switches = {
        "user/max_user_namespaces": "0",
        "kernel/unprivileged_userns_clone": "0",
        "kernel/apparmor_restrict_unprivileged_userns": "1",
    }
    if all(_read(sysctl / name) != closed for name, closed in switches.items()):
        yield Road(
            name="user namespaces",
            detail="every user can make one, and have NET_RAW and NET_ADMIN inside it",
            remedy="sysctl user.max_user_namespaces=0, where no container tool needs them",
        )


def io_uring_roads(sysctl: Path) -> Iterator[Road]:
    """Yield a road if users without rights may use io_uring.

    Args:
        sysctl: ``/proc/sys``. Before Linux 6.6 there is no switch, and io_uring is open.
    """
    if _read(sysctl / "kernel/io_uring_disabled") not in ("1", "2"):
        yield Road(
            name="io_uring",
            detail="IORING_OP_SOCKET makes sockets of every family past a filter on socket(2)",
            remedy=f"{_closed_by_run()}sysctl kernel.io_uring_disabled=2 (Linux 6.6 and later)",
        )


def hybrid_roads(mounts: tuple[Mount, ...], release: str) -> Iterator[Road]:
    """Yield a road if cgroup v1 may take sockets out of cgroup v2 here.

    Args:
        mounts: Of this mount namespace.
        release: As ``uname -r`` says it. Only here is a version asked: to try it would mean to use
            net_prio, which cannot be undone.
    """
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < _SAFE_RELEASE and any(mount.fstype == "cgroup" for mount in mounts):
        yield Road(
            name="cgroup v1",
            detail=f"on Linux {release} its net_cls and net_prio take sockets out of cgroup v2",
            remedy="Linux 5.15 or later, or boot with systemd.unified_cgroup_hierarchy=1",
        )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
