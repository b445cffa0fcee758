# SPDX-License-Identifier: Apache-2.0
"""Podman whose containers are made by crun, which takes no cgroups of version 1.

So it runs in mounts of its own, where cgroup v2 alone is at /sys/fs/cgroup, and in a namespace of
cgroups that shows it one cgroup of the test's own: what podman does to the root cgroup of such a
host, moving all its processes, it could do to that one at most. And the rules for devices are taken
out of what crun is given: for them it would raise the limit of locked memory, for which it needs
CAP_SYS_RESOURCE.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rig.cgroup import in_cgroup, own_cgroup
from rig.containers import Engine, podman_engine
from rig.process import running
from rig.scratch import scratch

_MOUNT = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo ready && exec sleep 1000000"
_SPACES = {"mount": "mnt", "cgroup": "cgroup"}
_WITHOUT_DEVICES = """#!/usr/bin/python3 -I
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    config["linux"]["resources"].pop("devices", None)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("{crun}", ["{crun}", *words])
"""


def missing_crun() -> str | None:
    """Return why there is none here, or None if there is."""
    return None if shutil.which("crun") else "no crun here"


@contextmanager
def crun_engine(top: Path, runtime: Path) -> Iterator[Engine]:
    """Prepare podman with crun.

    Args:
        top: A cgroup that is all that it sees: its containers' parents are spelled from there.
        runtime: Of :func:`write_crun`.
    """
    with (
        scratch("crun") as directory,
        _cgroups_below(top, directory / "log") as enter,
        podman_engine(runtime=runtime, enter=enter) as engine,
    ):
        # It would look for their controller, which is one of version 1 here.
        yield replace(engine, run_options=(*engine.run_options, "--pids-limit", "0"))


def write_crun(directory: Path) -> Path:
    """Write the program that becomes crun, and return its path."""
    program = directory / "crun"
    program.write_text(_WITHOUT_DEVICES.format(crun=shutil.which("crun")))
    program.chmod(0o755)
    return program


@contextmanager
def _cgroups_below(top: Path, log: Path) -> Iterator[tuple[str, ...]]:
    """Yield the words that run a command where those are all there are."""
    unshare = ("unshare", "--cgroup", "--mount", "--propagation", "private")
    command = in_cgroup(top, *unshare, "/bin/sh", "-c", _MOUNT)
    with running(command, log=log, ready=lambda: "ready" in log.read_text()) as holder:
        # The namespace stays where it was made.
        (own_cgroup() / "cgroup.procs").write_text(str(holder.pid))
        spaces = (f"--{each}=/proc/{holder.pid}/ns/{name}" for each, name in _SPACES.items())
        yield ("nsenter", *spaces, "--")
