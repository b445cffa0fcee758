# SPDX-License-Identifier: Apache-2.0
"""Which sockets processes hold, and what those are that the socket monitor does not list.

Read from /proc alone: nothing is taken out of a process, and no file of its making is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

MAX_PROCESSES = 4096
MAX_DESCRIPTORS = 65536
_MAX_TABLE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Holder:
    """Where a socket was found first."""

    pid: int
    descriptor: int


@dataclass(slots=True)
class Held:
    """The sockets that processes hold, by inode."""

    holders: dict[int, Holder] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    """What could not be looked at, and why; empty: everything was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSocket:
    """A socket that is neither TCP nor UDP."""

    inode: int
    family: str
    """``packet``, ``netlink``, ``raw``, ``ping``, ``udplite`` or ``unix``."""
    detail: str = ""
    """Of netlink: its protocol's number."""


def sockets_held_by(pids: Collection[int]) -> Held:
    """Return the sockets among the open descriptors of *pids*.

    A process that ends meanwhile holds nothing any more; one that forks or is handed a socket
    meanwhile may hold more than is found.
    """
    held = Held()
    left = MAX_DESCRIPTORS
    for pid in list(pids)[:MAX_PROCESSES]:
        try:
            for descriptor, target in _descriptors(pid):
                left -= 1
                if left < 0:
                    break
                if target.startswith("socket:["):
                    held.holders.setdefault(int(target[8:-1]), Holder(pid, descriptor))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as err:
            held.unread.append(f"descriptors of process {pid}: {err.strerror}")
    if len(pids) > MAX_PROCESSES:
        held.unread.append(f"descriptors of {len(pids) - MAX_PROCESSES} more processes")
    if left < 0:
        held.unread.append(f"more than {MAX_DESCRIPTORS} descriptors")
    return held


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    directory = f"/proc/{pid}/fd"
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                yield int(entry.name), os.readlink(entry.path)
            except FileNotFoundError:
                continue


_TABLES = (
    # Name below /proc/PID/net, family, column of the inode, column of the detail.
    ("packet", "packet", 8, None),
    ("netlink", "netlink", 9, 1),
    ("raw", "raw", 9, None),
    ("raw6", "raw", 9, None),
    ("icmp", "ping", 9, None),
    ("icmp6", "ping", 9, None),
    ("udplite", "udplite", 9, None),
    ("udplite6", "udplite", 9, None),
    # Last: a host may have thousands.
    ("unix", "unix", 6, None),
)


def other_sockets(pid: int | str, wanted: Iterable[int]) -> dict[int, OtherSocket]:
    """Return what the sockets *wanted*, by inode, are in the network namespace of *pid*.

    Those of other namespaces and families are left out. Tables that are not there, or of more than
    8 MiB, have what is found in them.
    """
    left = set(wanted)
    found: dict[int, OtherSocket] = {}
    for name, family, inode_at, detail_at in _TABLES:
        if not left:
            break
        for columns in _rows(f"/proc/{pid}/net/{name}"):
            if len(columns) <= inode_at or not columns[inode_at].isdigit():
                continue
            inode = int(columns[inode_at])
            if inode in left:
                left.discard(inode)
                detail = columns[detail_at].decode("ascii") if detail_at is not None else ""
                found[inode] = OtherSocket(inode=inode, family=family, detail=detail)
    return found


def _rows(path: str) -> Iterator[list[bytes]]:
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_TABLE_BYTES)
    except OSError:
        return
    for line in text.splitlines()[1:]:
        yield line.split()
