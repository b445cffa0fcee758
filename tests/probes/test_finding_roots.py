# SPDX-License-Identifier: Apache-2.0
"""Where a sandbox's processes have several root directories, each is looked into, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.objects import functions, shared_object
from rig.places import ALL, Places
from rig.process import wait_until

from agentwall.probes.attached import Attached
from agentwall.probes.command import Command
from agentwall.probes.finding import MAX_ROOTS, Finder
from agentwall.probes.mappings import executable_mappings

OPENSSL, _ = functions(["SSL_write", "SSL_read", "SSL_free"])

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")


@pytest.fixture
def finder():
    """A finder that may probe as much as there is."""
    attached = Attached(ALL, max_libraries=64, pins=None, attach=Places().attach)
    yield Finder(attached)
    attached.close()


@pytest.fixture
def root(tmp_path):
    """A root directory with a library that is installed, and one that is not."""
    for place in ("root/usr/lib64", "root/own"):
        (tmp_path / place).mkdir(parents=True)
        shared_object(tmp_path / place / "libssl.so.3", OPENSSL)
    shutil.copy("/usr/bin/busybox", tmp_path / "root" / "sleep")
    return tmp_path / "root"


@contextmanager
def mounted(root: Path) -> Iterator[int]:
    """Run a process that has *root* as its root, as a mount of its own."""
    script = f"mount --bind {root} {root} && exec chroot {root} /sleep 1000"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script]) as child:
        try:
            wait_until(lambda: programs(child.pid) == ["sleep"], what="the process")
            yield child.pid
        finally:
            child.kill()


def programs(pid: int) -> list[str]:
    """Return the names of what *pid* has mapped to execute: /proc names its program earlier."""
    return [os.path.basename(os.fsdecode(each.path)) for each in executable_mappings(pid)]


def prepare(finder: Finder, pid: int, start: Command | None = None) -> list[str]:
    """Probe what is installed where *pid* is; return the paths."""
    return list(finder.prepare("a", pid, lambda: 0.0, start))


@needs_root
def test_each_root_once(finder, root):
    """A root is looked into once, unless somebody says what starts there; till the sandbox ends."""
    start = Command(program="x", library_path="/own")
    with mounted(root) as pid:
        found = prepare(finder, pid)
        again = prepare(finder, pid)
        started = prepare(finder, pid, start)
        finder.release("a", 0.0)
        anew = prepare(finder, pid)

    assert found == anew == ["/usr/lib64/libssl.so.3"]
    assert again == []
    assert started == ["/own/libssl.so.3", *found]


@needs_root
def test_another_root(finder, root):
    """Who has moved to another root, as a container does, is told of until that is looked into."""
    with mounted(root) as pid:
        unknown = finder.look("a", pid, 0.0).is_elsewhere
        prepare(finder, os.getpid())
        moved = finder.look("a", pid, 0.0).is_elsewhere
        found = prepare(finder, pid)
        then = finder.look("a", pid, 0.0).is_elsewhere

    assert (unknown, moved, then) == (False, True, False)
    assert found == ["/usr/lib64/libssl.so.3"]


@needs_root
def test_many_roots(finder, root):
    """Of a sandbox that makes itself ever new ones only so many are looked into."""
    seen = []
    for _ in range(MAX_ROOTS + 2):
        with mounted(root) as pid, mounted(root) as other:
            seen += [len(prepare(finder, pid)), len(prepare(finder, other))]
    with mounted(root) as pid:
        last = finder.look("a", pid, 0.0).is_elsewhere

    assert sum(seen) <= MAX_ROOTS
    assert seen[-1] == 0
    assert not last
