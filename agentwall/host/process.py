# SPDX-License-Identifier: Apache-2.0
"""Describe the processes of one sandbox from /proc, while they live.

The kernel's event says who at the hook; what is read here came later, so it counts only if the
pid still is in the sandbox's cgroup.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict

from agentwall.flow.record import Process, ProcessSource, Task
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import parse_membership

_MAX_CACHED = 1024
_FRESH_S = 1.0
"""How long a description is used again: an exec in between goes unnoticed that long."""
_MAX_ARGUMENTS = 256
_MAX_STATUS_BYTES = 4096
_EXITING = 0x4
"""PF_EXITING of include/linux/sched.h, in the flags of /proc/PID/stat (proc(5), field 9)."""
_MAX_CGROUP_BYTES = 65536


def living() -> set[int]:
    """Return the ids of all processes there are: much faster than asking for each.

    Who lived before the call and is not among them has ended.
    """
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def is_ending(pid: int) -> bool:
    """Say whether a process has ended, or is about to: it may have closed its files by now."""
    try:
        stat = _read_bytes(f"/proc/{pid}/stat", _MAX_STATUS_BYTES)
    except OSError:
        return True
    return bool(int(stat.rpartition(b")")[2].split()[6]) & _EXITING)


class ProcessReader:
    """Reads processes of the cgroup *path* and those below it; none of them can make it wait."""

    def __init__(self, path: str, argv: ArgvReader) -> None:
        self._path = path
        self._argv = argv
        self._cache: OrderedDict[int, tuple[float, Process | None]] = OrderedDict()

    def read(self, task: Task) -> Process | None:
        """Return what /proc says of *task*, or None if it is gone or not in the sandbox.

        Every string in it was chosen by the sandbox; sizes are bounded.
        """
        if not task.pid:
            return None
        now_s = time.monotonic()
        cached = self._cache.get(task.pid)
        if cached and now_s - cached[0] < _FRESH_S:
            return cached[1]
        found = self._read(task)
        self._cache[task.pid] = (now_s, found)
        self._cache.move_to_end(task.pid)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return found

    def _read(self, task: Task) -> Process | None:
        directory = f"/proc/{task.pid}"
        try:
            argv = self._argv.read(task.pid, self._path)
            status = _read_bytes(f"{directory}/status", _MAX_STATUS_BYTES)
            exe = _read_link(f"{directory}/exe")
            # Last: had the pid been reused before, this would not be the sandbox's.
            cgroup = _read_bytes(f"{directory}/cgroup", _MAX_CGROUP_BYTES)
            if not self._holds(parse_membership(cgroup.decode("utf-8", "surrogateescape"))):
                return None
        except OSError:
            return None
        return Process(
            pid=task.pid,
            ppid=_parent(status),
            uid=task.uid,
            comm=_text(task.comm),
            exe=exe,
            argv=_arguments(argv),
            source=ProcessSource.PROC,
        )

    def _holds(self, path: str | None) -> bool:
        return path is not None and (path + "/").startswith(self._path + "/")


def _read_bytes(path: str, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def _read_link(path: str) -> str | None:
    try:
        return _text(os.readlink(os.fsencode(path)))
    except FileNotFoundError:
        return None  # A kernel thread, or a process that is just ending.


def _arguments(raw: bytes | None) -> tuple[str, ...] | None:
    # A process that is ending has no memory any more, and so no arguments; of one that lets nobody
    # read its memory there are none in time.
    if not raw:
        return None
    return tuple(map(_text, raw.removesuffix(b"\0").split(b"\0")[:_MAX_ARGUMENTS]))


def _parent(status: bytes) -> int | None:
    for line in status.splitlines():
        if line.startswith(b"PPid:"):
            return int(line.split()[1])
    return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
