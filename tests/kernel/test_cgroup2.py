# SPDX-License-Identifier: Apache-2.0
"""Only a cgroup below the root is ever opened for attaching."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rig import cgroup_root, temp_cgroup

from agentwall.errors import HostError
from agentwall.kernel import cgroup2

ROOT = Path(__file__).parents[2]
LINE = r"55 27 0:39 /a\040b /mnt/c\134d rw,nosuid,relatime shared:1 - bpf bpf rw,mode=700"
UNDER_A_NAMESPACE = """
import sys
from pathlib import Path
from agentwall.errors import HostError
from agentwall.kernel.cgroup2 import attachable

try:
    with attachable(Path(sys.argv[1])):
        print("opened")
except HostError as error:
    print(error)
"""
MOUNTED_MEANWHILE = """
import subprocess, sys
from pathlib import Path
from agentwall.errors import HostError
from agentwall.kernel.cgroup2 import attachable

cgroup, point = map(Path, sys.argv[1:])

def attempt():
    try:
        with attachable(cgroup):
            print("opened")
    except HostError as error:
        print(error)

attempt()
subprocess.run(["mount", "--bind", cgroup, point], check=True)
attempt()
subprocess.run(["umount", point], check=True)
attempt()
"""


def test_mountinfo_line():
    """A line of mountinfo is taken apart, escaped blanks and all."""
    mount = cgroup2._parse_mount(LINE)

    assert (mount.root, mount.point, mount.kind) == ("/a b", Path("/mnt/c\\d"), "bpf")
    assert mount.device == os.makedev(0, 39)
    assert mount.options == {"rw", "nosuid", "relatime"}


@pytest.mark.kernel
def test_own_cgroup():
    """The own cgroup is a directory that lists this process."""
    pids = (cgroup2.own_cgroup() / "cgroup.procs").read_text().split()

    assert str(os.getpid()) in pids


@pytest.mark.kernel
def test_attachable():
    """A cgroup below the root is opened, and known by its inode."""
    with temp_cgroup() as cgroup, cgroup2.attachable(cgroup) as fd:
        assert cgroup2.id_of(fd) == cgroup.stat().st_ino


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["", ".", "/", "/proc", "/tmp"])
def test_no_cgroup(name):
    """An empty path, the root directory and other file systems are refused."""
    with (
        pytest.raises(HostError, match="expected a cgroup v2 directory"),
        cgroup2.attachable(Path(name)),
    ):
        pytest.fail("opened")


@pytest.mark.kernel
def test_symbolic_link_to_the_root(tmp_path):
    """The root cgroup is refused under whatever name it comes."""
    (tmp_path / "link").symlink_to(cgroup_root())

    with (
        pytest.raises(HostError, match="refusing the root cgroup"),
        cgroup2.attachable(tmp_path / "link"),
    ):
        pytest.fail("opened")


@pytest.mark.kernel
def test_root_under_another_mount(tmp_path):
    """The root cgroup is refused where a second mount shows it and the first is hidden."""
    point = tmp_path / "other"
    point.mkdir()
    script = f'mount -t cgroup2 none {point} && umount -l {cgroup_root()} && exec "$@"'
    command = [sys.executable, "-c", UNDER_A_NAMESPACE, str(point)]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "refusing the root cgroup" in done.stdout


@pytest.mark.kernel
def test_mounted_meanwhile(tmp_path):
    """A cgroup that becomes the root of a mount is refused from then on, and not for ever."""
    command = [sys.executable, "-c", MOUNTED_MEANWHILE]
    with temp_cgroup() as cgroup:
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", *command, str(cgroup), str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )

    before, meanwhile, after = done.stdout.splitlines()
    assert (before, after) == ("opened", "opened")
    assert "refusing the root cgroup" in meanwhile


@pytest.mark.kernel
def test_temporary_cgroup():
    """The cgroup for probing stands below the own one and is gone afterwards."""
    with cgroup2.temporary_cgroup() as cgroup:
        parent, there = cgroup.parent, cgroup.is_dir()

    assert (parent, there) == (cgroup2.own_cgroup(), True)
    assert not cgroup.exists()
