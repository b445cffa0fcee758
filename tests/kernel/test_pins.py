# SPDX-License-Identifier: Apache-2.0
"""Pins live on a bpffs of agentwall's own that only root may enter, and can all be cleared."""

import stat
import subprocess

import pytest
from rig import temp_cgroup

from agentwall.errors import HostError
from agentwall.kernel import pins
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import AttachType, MapType, ProgramType
from agentwall.kernel.links import Link, effective_programs, open_pin, pin
from agentwall.kernel.probe import loaded

pytestmark = pytest.mark.kernel


@pytest.fixture
def point(tmp_path):
    """A place where the test mounts a bpffs, unmounted afterwards."""
    path = tmp_path / "below" / "bpf"
    yield path
    for pin_dir in pins.pin_dirs(path):
        pins.clear_pins(pin_dir)

    assert pins.unmount_bpffs(path)


def test_mount(point):
    """The mount is made once, with mode 0700."""
    pins.mount_bpffs(point)
    pins.mount_bpffs(point)

    assert stat.S_IMODE(point.stat().st_mode) & 0o777 == 0o700
    assert pins.is_mounted(point)
    assert [m.point for m in pins.read_mounts("bpf")].count(point) == 1


def test_hidden_mount(point):
    """What lies over our mount, as in a mount namespace of its own, is not ours."""
    pins.mount_bpffs(point)
    subprocess.run(["mount", "-t", "tmpfs", "test", point.parent], check=True)
    try:
        hidden = pins.is_mounted(point)
        pins.mount_bpffs(point)
        mounted_anew = pins.is_mounted(point)
        assert pins.unmount_bpffs(point)
    finally:
        subprocess.run(["umount", "--recursive", point.parent], check=True)

    assert (hidden, mounted_anew) == (False, True)
    assert pins.is_mounted(point)


def test_bpffs_that_others_may_enter(point):
    """A bpffs that others than root may enter is refused: its pins would be a trapdoor."""
    pins.mount_bpffs(point)
    point.chmod(0o755)

    with pytest.raises(HostError, match="expected mode 0700 of root, got 0755 of 0"):
        pins.mount_bpffs(point)


def test_pin_dirs(point):
    """Each run has a directory of its own, and its name is taken once."""
    pins.make_pin_dir(point / "run-1")
    pins.make_pin_dir(point / "run-2")

    assert pins.pin_dirs(point) == [point / "run-1", point / "run-2"]
    assert not pins.unmount_bpffs(point)
    with pytest.raises(HostError, match="make a directory: file exists"):
        pins.make_pin_dir(point / "run-1")


@pytest.mark.parametrize("name", ["with.dot", "with space", "..", "ä", "x" * 129])
def test_names(point, name):
    """Names that bpffs refuses, or that lead elsewhere, are refused before anything is made."""
    with pytest.raises(HostError, match="expected letters, digits, - and _"):
        pins.make_pin_dir(point / name)

    assert not point.exists()


def test_nothing_mounted(tmp_path):
    """Where nothing is mounted there are no runs, nothing to unmount, and nothing to clear."""
    assert pins.pin_dirs(tmp_path) == []
    assert pins.unmount_bpffs(tmp_path)
    assert pins.clear_pins(tmp_path / "run-1") == 0


def test_clear(point):
    """Clearing takes a pinned link off its cgroup although somebody still holds it."""
    pin_dir = point / "run-1"
    pins.make_pin_dir(pin_dir)
    with temp_cgroup() as cgroup, attachable(cgroup) as fd:
        with loaded(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4) as program:
            link = Link.attach(program, fd, AttachType.CONNECT4)
            link.pin(pin_dir / pins.LINKS / "one")
            pin(program, pin_dir / pins.PROGRAMS / "one")
        before = effective_programs(fd, AttachType.CONNECT4)
        listed = pins.list_pins(pin_dir)
        cleared = pins.clear_pins(pin_dir)
        after = effective_programs(fd, AttachType.CONNECT4)
        link.close()

    assert listed == [pin_dir / "links" / "one", pin_dir / "programs" / "one"]
    assert (cleared, len(before) - len(after)) == (2, 1)
    assert not pin_dir.exists()


def test_clear_after_the_cgroup_has_gone(point):
    """Pins of links whose cgroup was removed are cleared as well."""
    pin_dir = point / "run-1"
    pins.make_pin_dir(pin_dir)
    with temp_cgroup() as cgroup, attachable(cgroup) as fd:
        with loaded(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4) as program:
            link = Link.attach(program, fd, AttachType.CONNECT4)
        link.pin(pin_dir / pins.LINKS / "one")
        link.close()

    assert pins.clear_pins(pin_dir) == 1


def test_pinned_map_lives_on(point):
    """A pinned map can be opened again after its maker closed it."""
    pin_dir = point / "run-1"
    pins.make_pin_dir(pin_dir)
    shape = MapShape(name="x", type=MapType.HASH, key_size=4, value_size=4, max_entries=1)
    made = BpfMap.create(shape)
    made.update(b"key1", b"val1")
    pin(made.fd, pin_dir / pins.MAPS / "x")
    made.close()
    again = BpfMap(open_pin(pin_dir / pins.MAPS / "x"), shape)

    assert again.lookup(b"key1") == b"val1"
    again.close()
