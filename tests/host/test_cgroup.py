# SPDX-License-Identifier: Apache-2.0
"""Cgroups: where they are found, made and removed, and which are refused."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup

from agentwall.errors import HostError
from agentwall.host.cgroup import (
    SLICE,
    Cgroup,
    Place,
    choose_place,
    find,
    locate,
    parse_membership,
    path_of,
)
from agentwall.host.mountinfo import Mount, read_mounts


def mount_of(tmp_path: Path, root: str = "/", options: str = "rw") -> Mount:
    return Mount(root=root, point=str(tmp_path), options=frozenset({options}), fstype="cgroup2")


def real_root() -> Path:
    return next(Path(mount.point) for mount in read_mounts() if mount.fstype == "cgroup2")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/user.slice/x\n", "/user.slice/x"),
        ("9:name=systemd:/a\n4:memory:/b\n0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("4:memory:/b\n", None),
        ("", None),
    ],
)
def test_membership(text, path):
    """Only the line of version 2 counts, and its path may hold colons."""
    assert parse_membership(text) == path


def test_locate_below_mounted_directory(tmp_path):
    """A mount that shows only a part of the hierarchy is used for what lies below that part."""
    (tmp_path / "c").mkdir()

    assert locate("/a/b/c", (mount_of(tmp_path, "/a/b"),)) == tmp_path / "c"


@pytest.mark.parametrize("path", ["/a/bc", "/x", "/../x", "/a/b/gone"])
def test_locate_nothing(tmp_path, path):
    """A cgroup that no mount shows is an error, never a neighbour of similar name."""
    with pytest.raises(HostError, match="no cgroup2 mount shows it"):
        locate(path, (mount_of(tmp_path, "/a/b"),))


def test_locate_without_hierarchy():
    """Without a cgroup2 mount the error says what to mount."""
    with pytest.raises(HostError, match="mount -t cgroup2"):
        locate("/x", ())


def test_locate_prefers_writable(tmp_path):
    """Of two mounts that show a cgroup the writable one is taken."""
    (tmp_path / "ro").mkdir()
    (tmp_path / "rw").mkdir()
    mounts = (mount_of(tmp_path / "rw"), mount_of(tmp_path / "ro", options="ro"))

    assert locate("/", mounts) == tmp_path / "rw"


@pytest.mark.parametrize("directory", ["", ".", "/", "/tmp"])
def test_not_a_cgroup(directory):
    """An empty path, the file system's root and a plain directory are refused."""
    with pytest.raises(HostError, match="expected a cgroup below the root"):
        Cgroup("/", Path(directory))


def test_root_cgroup():
    """The root of the hierarchy is refused: a wall there would be around the host."""
    with pytest.raises(HostError, match="expected a cgroup below the root"):
        Cgroup("/", real_root())


@pytest.mark.kernel
def test_place_below_own_cgroup():
    """A place lies below the caller's own cgroup, or in the slice if that is the root."""
    own = path_of("self")

    place = choose_place("agentwall-x")

    assert place.path == ("/agentwallrun.slice" if own == "/" else own) + "/agentwall-x"


@pytest.mark.kernel
def test_add_and_remove(own_cgroup):
    """A process that is added is a member; while it lives there, removing is refused."""
    with subprocess.Popen(["sleep", "60"]) as child:
        own_cgroup.add(child.pid)

        assert own_cgroup.pids() == (child.pid,)
        assert own_cgroup.is_populated()
        with pytest.raises(HostError, match="removing"):
            own_cgroup.remove()
        assert own_cgroup.kill(60)
        assert child.wait() == -9
    assert not own_cgroup.is_populated()


@pytest.mark.kernel
def test_add_vanished(own_cgroup):
    """Adding a process that has ended is an error, not a success."""
    child = subprocess.Popen(["true"])
    child.wait()

    with pytest.raises(HostError, match=f"adding process {child.pid}"):
        own_cgroup.add(child.pid)


@pytest.mark.kernel
def test_children_go_along(own_cgroup):
    """Cgroups that were made below count as part of it, for members and for removal."""
    below = own_cgroup.directory / "a" / "b"
    below.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as child:
        (below / "cgroup.procs").write_text(str(child.pid))

        assert own_cgroup.pids() == (child.pid,)
        assert own_cgroup.kill(60)

    own_cgroup.remove()
    assert not own_cgroup.directory.exists()


@pytest.mark.kernel
def test_make_twice(own_cgroup):
    """A cgroup that exists is never taken over."""
    with pytest.raises(HostError, match="making a cgroup"):
        Place(own_cgroup.path, own_cgroup.directory).make()


@pytest.mark.kernel
def test_the_slice_goes_meanwhile(monkeypatch):
    """A run that ends may take the slice away between its making and that of a cgroup in it."""
    mkdir, made = os.mkdir, []

    def after_another(path, *arguments):
        made.append(Path(path).name)
        if len(made) == 2:
            Path(path).parent.rmdir()
        mkdir(path, *arguments)

    with temp_cgroup("slice") as root:
        place = Place("/x", root / SLICE / "run")
        monkeypatch.setattr(os, "mkdir", after_another)
        cgroup = place.make()
        monkeypatch.undo()
        is_there = cgroup.directory.is_dir()
        cgroup.remove()

        assert is_there
        assert not (root / SLICE).exists()
    assert made == [SLICE, "run", SLICE, "run"]


@pytest.mark.kernel
def test_find(own_cgroup):
    """A cgroup is found by its path, the root and what is gone are not."""
    assert find(own_cgroup.path) == own_cgroup
    assert find(f"{own_cgroup.path}-gone") is None
    assert find("/") is None


def test_path_of_self():
    """The path of a process is read from /proc, None when there is no such process."""
    assert path_of(os.getpid()) == path_of("self")
    assert path_of(2**22 + 1) is None


@pytest.mark.kernel
def test_ids():
    """A cgroup is known to the kernel by the inode of its directory, and so is each below it."""
    with temp_cgroup("ids") as directory:
        below = directory / "below"
        below.mkdir()
        found = Cgroup("/ids", directory).ids()
        expected = {directory.stat().st_ino, below.stat().st_ino}
        below.rmdir()

    assert found == expected


@pytest.mark.kernel
def test_freeze(own_cgroup):
    """Who is frozen stands still and can be killed all the same; what is gone is an error."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as child:
        own_cgroup.add(child.pid)
        before = own_cgroup.is_frozen()
        stands = own_cgroup.freeze(60.0)
        used = Path(f"/proc/{child.pid}/stat").read_text().split()[13:15]
        time.sleep(0.1)
        later = Path(f"/proc/{child.pid}/stat").read_text().split()[13:15]

        assert (before, stands, own_cgroup.is_frozen()) == (False, True, True)
        assert used == later
        assert own_cgroup.kill(60)
        assert child.wait() == -9
    own_cgroup.remove()
    with pytest.raises(FileNotFoundError):
        own_cgroup.freeze(0.1)
