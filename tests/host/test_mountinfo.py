# SPDX-License-Identifier: Apache-2.0
"""Reading /proc/<pid>/mountinfo."""

from __future__ import annotations

import pytest

from agentwall.host.mountinfo import parse_mounts, read_mounts

CGROUP = "41 31 0:38 / /sys/fs/cgroup/unified rw,nosuid,relatime shared:9 - cgroup2 x rw,foo"


def test_fields():
    """Root, mount point, options of the mount, device and type of the file system are taken."""
    [mount] = parse_mounts(CGROUP)

    assert (mount.root, mount.point, mount.fstype) == ("/", "/sys/fs/cgroup/unified", "cgroup2")
    assert mount.options == {"rw", "nosuid", "relatime"}
    assert mount.device == "0:38"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b", "/a\tb"),
        (r"/a\012b", "/a\nb"),
        (r"/a\134040", r"/a\040"),
        ("/ü", "/ü"),
    ],
)
def test_escapes(written, meant):
    """Blanks, line ends and backslashes in a mount point are put back, once."""
    [mount] = parse_mounts(f"1 2 0:3 / {written} rw - tmpfs tmpfs rw")

    assert mount.point == meant


@pytest.mark.parametrize("line", ["", "1 2 0:3 / /x rw", "1 2 - tmpfs x rw", "nonsense"])
def test_odd_line(line):
    """A line that is no mount is left out, and the others are kept."""
    assert [mount.point for mount in parse_mounts(f"{line}\n{CGROUP}\n")] == [
        "/sys/fs/cgroup/unified"
    ]


def test_own_mounts():
    """The mounts of this process hold /proc, through which they are read."""
    assert "proc" in {mount.fstype for mount in read_mounts() if mount.point == "/proc"}
