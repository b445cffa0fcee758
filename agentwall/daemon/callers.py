# SPDX-License-Identifier: Apache-2.0
"""Who asks on the control socket, and what that gives a right to.

The kernel says who connected (``SO_PEERCRED``) and, message by message, who sent it
(``SCM_CREDENTIALS``): a descriptor that a sandbox inherited is worth no more than the sandbox.
/proc says the rest, supplementary groups and cgroup, at each request anew, for both may change.

A pid may be another process's by the time /proc is read. So a descriptor of the process is held
from the connection's first moment on, and what /proc says counts only if that process still lives
after it was read. Since Linux 6.5 the kernel gives that descriptor with the connection
(``SO_PEERPIDFD``, commit 7b26952a91cf, "net: core: add getsockopt SO_PEERPIDFD"). Before, it is
opened by the pid: whoever connects, passes the connection on and ends, all before it is accepted,
could lend its identity to a later process of the same pid and user. Either way, a caller that has
ended has no rights.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agentwall.daemon.config_groups import Groups
from agentwall.host.cgroup import path_of

_SO_PEERPIDFD = 77
"""include/uapi/asm-generic/socket.h; the socket module does not know it."""
_UCRED = struct.Struct("iII")
_CONTROL_SIZE = socket.CMSG_SPACE(_UCRED.size)
_MAX_STATUS_BYTES = 1 << 20
"""Of /proc/PID/status: the kernel lists up to 65 536 groups."""

IsInside = Callable[[str], bool]
"""Whether a cgroup, as /proc/PID/cgroup spells it, lies in a sandbox or below an owned scope."""


class Rights(enum.IntEnum):
    """What a caller may ask for; each holds what the lower ones hold."""

    NONE = 0
    READ = 1
    """Members of ``control.readers``."""
    OPERATE = 2
    """Members of ``control.operators``."""
    ALL = 3
    """Root."""


NEEDED = {
    "status": Rights.READ,
    "sandbox-list": Rights.READ,
    "sandbox-show": Rights.READ,
    "denials": Rights.READ,
    "sandbox-label": Rights.OPERATE,
    "sandbox-mode": Rights.ALL,
    "admit": Rights.ALL,
    "release": Rights.ALL,
    "reload": Rights.ALL,
    "stop": Rights.ALL,
    "detach": Rights.ALL,
}
"""Every request there is, and who may make it."""


class Credentials(NamedTuple):
    """``struct ucred``; ids as the daemon's namespaces number them."""

    pid: int
    """0 where it is in none of the daemon's PID namespace."""
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A process that asks."""

    pid: int
    uid: int
    gids: frozenset[int]
    """Supplementary ones too."""
    cgroup: str
    """As /proc/PID/cgroup spells it; chosen by whoever made it: escape before printing."""

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid})"


def rights_of(caller: Caller, groups: Groups, is_inside: IsInside) -> Rights:
    """Return what *caller* may ask for: nothing where it is in a sandbox, root or not."""
    if is_inside(caller.cgroup):
        return Rights.NONE
    if caller.uid == 0:
        return Rights.ALL
    if groups.operators in caller.gids:
        return Rights.OPERATE
    return Rights.READ if groups.readers in caller.gids else Rights.NONE


def permits(rights: Rights, request: str) -> bool:
    """Say whether *rights* are enough for *request*; what does not exist takes the least."""
    return rights >= NEEDED.get(request, Rights.READ)


class Peer:
    """The process at the other end of a connection; holds a descriptor of it."""

    def __init__(self, connection: socket.socket) -> None:
        """Take hold of whoever connected; do so as soon as the connection is accepted."""
        option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.credentials = Credentials(*_UCRED.unpack(option))
        self._pidfd = _peer_pidfd(connection, self.credentials.pid)

    def look(self) -> Caller | None:
        """Return who it is now, or None if it has ended or cannot be told."""
        return _look(self.credentials, self._pidfd)

    def close(self) -> None:
        """Let go of the process."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def find_sender(credentials: Credentials) -> Caller | None:
    """Return who sent a message, or None if it has ended or cannot be told."""
    pidfd = _open_pidfd(credentials.pid)
    try:
        return _look(credentials, pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def receive(connection: socket.socket, size: int) -> tuple[bytes, Credentials | None]:
    """Return at most *size* bytes and who sent them; never of two senders together.

    Raises:
        OSError: BlockingIOError where there is nothing yet.
    """
    # Room for the credentials alone: descriptors that come along are dropped by the kernel.
    data, control, _, _ = connection.recvmsg(size, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return data, Credentials(*_UCRED.unpack(content))
    return data, None


def _peer_pidfd(connection: socket.socket, pid: int) -> int | None:
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as err:
        # Otherwise it has ended, and the pid may be another's.
        return _open_pidfd(pid) if err.errno == errno.ENOPROTOOPT else None
    os.set_inheritable(pidfd, False)
    return pidfd


def _open_pidfd(pid: int) -> int | None:
    if pid <= 0:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _look(credentials: Credentials, pidfd: int | None) -> Caller | None:
    if pidfd is None:
        return None
    groups = _supplementary_groups(credentials.pid)
    cgroup = _cgroup_of(credentials.pid)
    # Last: what was read is of this process only if it had not ended by now.
    if groups is None or cgroup is None or _has_ended(pidfd):
        return None
    return Caller(
        pid=credentials.pid,
        uid=credentials.uid,
        gids=groups | {credentials.gid},
        cgroup=cgroup,
    )


def _cgroup_of(pid: int) -> str | None:
    try:
        return path_of(pid)
    except OSError:
        return None


def _supplementary_groups(pid: int) -> frozenset[int] | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read(_MAX_STATUS_BYTES)
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(b"Groups:"):
            return frozenset(map(int, line.split()[1:]))
    return None


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
