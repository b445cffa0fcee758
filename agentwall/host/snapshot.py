# SPDX-License-Identifier: Apache-2.0
"""What runs in a cgroup and which sockets were made there, for whoever looks into it later.

May take long where the host has many sockets: not for the daemon's main loop.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError
from agentwall.flow.record import Process, Task
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import Cgroup
from agentwall.host.netns import netns_id
from agentwall.host.process import ProcessReader
from agentwall.host.sock_diag import SockDiag, SocketSeen

MAX_PROCESSES = 256
MAX_SOCKETS = 1024
_MAX_NAMESPACES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was found. Every string in a process was chosen by the sandbox."""

    processes: tuple[Process, ...]
    """At most :data:`MAX_PROCESSES`, the lowest pids first."""
    process_count: int
    """How many there were."""
    sockets: tuple[SocketSeen, ...]
    """At most :data:`MAX_SOCKETS`, of all network namespaces that its processes are in."""
    socket_count: int
    problems: tuple[str, ...]
    """What could not be looked at, and why."""


def take_snapshot(cgroup: Cgroup, argv: ArgvReader) -> Snapshot:
    """Look into *cgroup* and those below. What cannot be read is named, never raised.

    Of *argv*, which is the calling thread's, there may be nothing more once a process of the
    sandbox makes it wait.
    """
    pids = cgroup.pids()
    reader = ProcessReader(cgroup.path, argv)
    found = [
        process
        for pid in pids[:MAX_PROCESSES]
        if (task := _task(pid)) is not None and (process := reader.read(task)) is not None
    ]
    sockets, problems = _sockets(cgroup, pids)
    return Snapshot(
        processes=tuple(found),
        process_count=len(pids),
        sockets=tuple(sockets[:MAX_SOCKETS]),
        socket_count=len(sockets),
        problems=tuple(problems),
    )


def _task(pid: int) -> Task | None:
    try:
        comm = Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return None
    uids = next((line for line in status.splitlines() if line.startswith(b"Uid:")), b"Uid:\t0")
    return Task(pid=pid, uid=int(uids.split()[1]), comm=comm)


def _sockets(cgroup: Cgroup, pids: tuple[int, ...]) -> tuple[list[SocketSeen], list[str]]:
    # One process for each network namespace; None stands for this process itself.
    namespaces: dict[tuple[int, int] | None, int | None] = {}
    for pid in pids[:MAX_PROCESSES]:
        namespaces.setdefault(netns_id(pid), pid)
    namespaces.pop(None, None)
    namespaces[netns_id("self")] = None
    found: list[SocketSeen] = []
    problems = []
    ids = cgroup.ids()
    for member in list(namespaces.values())[-_MAX_NAMESPACES:]:
        try:
            with contextlib.closing(SockDiag(member)) as monitor:
                found += monitor.list_in(ids)
        except HostError as err:
            problems.append(f"sockets: {err}" if member is None else f"sockets of {member}: {err}")
    if len(namespaces) > _MAX_NAMESPACES:
        problems.append(f"sockets: of {len(namespaces)} network namespaces some were left out")
    return found, problems
