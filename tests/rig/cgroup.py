# SPDX-License-Identifier: Apache-2.0
"""Cgroups of the test's own, below the one it runs in; never the root cgroup itself."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SETTLE_S = 60.0
_numbers = itertools.count(1)


def cgroup_root() -> Path:
    """Return where cgroup v2 is mounted.

    Raises:
        RuntimeError: It is not.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, filesystem = line.partition(" - ")
        if filesystem.startswith("cgroup2 "):
            return Path(fields.split()[4])
    raise RuntimeError("/proc/self/mountinfo: expected a cgroup2 mount, got none")


def own_cgroup() -> Path:
    """Return the cgroup this process is in, as a path below :func:`cgroup_root`."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            return cgroup_root() / line.removeprefix("0::/")
    raise RuntimeError("/proc/self/cgroup: expected a cgroup v2 line, got none")


@contextmanager
def temp_cgroup(name: str | None = None) -> Iterator[Path]:
    """Make a cgroup below our own; kill what is left in it at the end and remove it.

    *name* is appended to the unique name ``agentwall-test-<pid>-<n>``. Cgroups that were made
    below it go with it.
    """
    path = _make(f"-{name}" if name else "")
    try:
        yield path
    finally:
        _remove(path)


def _make(suffix: str) -> Path:
    while True:
        path = own_cgroup() / f"agentwall-test-{os.getpid()}-{next(_numbers)}{suffix}"
        # One may be there still of a process that had this one's id, and was killed.
        with suppress(FileExistsError):
            path.mkdir()
            return path


def in_cgroup(cgroup: Path, *command: str | Path) -> list[str]:
    """Return *command* as run inside *cgroup*: it joins first, and executes then."""
    join = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    return ["/bin/sh", "-c", join, str(cgroup), *map(str, command)]


def members(cgroup: Path) -> list[int]:
    """Return the pids in *cgroup* and below; empty when it is gone."""
    pids: list[int] = []
    for directory in _tree(cgroup):
        with suppress(FileNotFoundError, OSError):
            pids += map(int, (directory / "cgroup.procs").read_text().split())
    return pids


def _tree(cgroup: Path) -> list[Path]:
    # Deepest first: only a cgroup without children can be removed.
    return [Path(directory) for directory, _, _ in os.walk(cgroup, topdown=False)]


def _remove(cgroup: Path) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while cgroup.exists():
        _kill(cgroup)
        for directory in _tree(cgroup):
            # Busy until the last process that was killed is gone.
            with suppress(OSError):
                directory.rmdir()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{cgroup}: expected no processes, got {members(cgroup)}")
        time.sleep(0.01)


def _kill(cgroup: Path) -> None:
    # cgroup.kill also gets a process that is forking just now, but is only there since 5.14.
    kill = cgroup / "cgroup.kill"
    with suppress(OSError):
        if kill.exists():
            kill.write_text("1")
            return
    for pid in members(cgroup):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
