# SPDX-License-Identifier: Apache-2.0
"""Links that no longer hold are found, and put back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import temp_cgroup

from agentwall.errors import HostError, KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import pins
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import AttachType, ProgramType
from agentwall.kernel.links import Link, effective_programs, program_id
from agentwall.kernel.probe import loaded
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

_keys = itertools.count(1)


@dataclass(frozen=True)
class Guarded:
    """A sandbox behind the wall of this module."""

    wall: Wall
    key: SandboxKey
    cgroup: Path
    links: Path

    def pin_of(self, program: str) -> Path:
        return self.links / f"{self.key:016x}-{program}"


@pytest.fixture(scope="module")
def wall(tmp_path_factory) -> Iterator[Wall]:
    """One wall for all tests, pinned on a bpffs of its own."""
    point = tmp_path_factory.mktemp("attachments") / "bpf"
    with Wall.load(pin_dir=point / "daemon", adopt=True) as made:
        yield made
    pins.clear_pins(point / "daemon")
    assert pins.unmount_bpffs(point)


@pytest.fixture
def guarded(wall) -> Iterator[Guarded]:
    with temp_cgroup() as cgroup:
        key = SandboxKey(next(_keys))
        wall.attach(cgroup, key)
        yield Guarded(wall, key, cgroup, wall._pin_dir / pins.LINKS)
        wall.detach(key)


def detach(guarded: Guarded) -> str:
    guarded.wall.hooks(guarded.key)["aw_connect4"].detach()
    return "aw_connect4: it was detached"


def unpin(guarded: Guarded) -> str:
    guarded.pin_of("aw_egress").unlink()
    return "aw_egress: its pin has gone"


@pytest.mark.parametrize("harm", [detach, unpin])
def test_repair(guarded, harm):
    """What is wrong is named, put back once, and then nothing is wrong."""
    before = guarded.wall.damage(guarded.key)
    expected = harm(guarded)
    found = guarded.wall.damage(guarded.key)
    repaired = guarded.wall.repair(guarded.key, guarded.cgroup)

    assert (before, found, repaired) == ([], [expected], [expected])
    assert guarded.wall.damage(guarded.key) == []
    assert guarded.wall.repair(guarded.key, guarded.cgroup) == []
    with attachable(guarded.cgroup) as fd:
        for program in guarded.wall.programs():
            assert program_id(program.fd) in effective_programs(fd, program.attach_type)
            with closing(Link.open(guarded.pin_of(program.name))) as pinned:
                assert pinned.info().program_id == program_id(program.fd)


def test_another_program_in_its_place(guarded):
    """A link that somebody updated to a program of his own gets ours again."""
    link = guarded.wall.hooks(guarded.key)["aw_sock_create"]
    with loaded(ProgramType.CGROUP_SOCK, AttachType.SOCK_CREATE) as permits:
        try:
            link.update(permits)
        except KernelError:
            pytest.skip("this kernel takes no program with another storage map")
        found = guarded.wall.damage(guarded.key)
        repaired = guarded.wall.repair(guarded.key, guarded.cgroup)

    assert found == repaired == ["aw_sock_create: another program stands in its place"]
    assert guarded.wall.damage(guarded.key) == []


def test_a_cgroup_that_has_gone(wall):
    """Where the cgroup was removed no link holds, and nothing can be put back."""
    key = SandboxKey(next(_keys))
    with temp_cgroup() as cgroup:
        wall.attach(cgroup, key)
    found = wall.damage(key)
    with pytest.raises(HostError, match="no such file or directory"):
        wall.repair(key, cgroup)
    wall.detach(key)

    assert found == [f"{program.name}: its cgroup has gone" for program in wall.programs()]


def test_another_cgroup_of_that_name(wall):
    """A cgroup that was made again under the same name is not behind the links of the old one."""
    key = SandboxKey(next(_keys))
    with temp_cgroup() as parent:
        cgroup = parent / "again"
        cgroup.mkdir()
        wall.attach(cgroup, key)
        cgroup.rmdir()
        cgroup.mkdir()
        found = wall.damage(key)
        wall.detach(key)

    assert len(found) == len(wall.programs())


def test_pins_in_the_way(wall):
    """A pin that a sandbox left whose cgroup has gone is replaced."""
    key = SandboxKey(next(_keys))
    links = wall._pin_dir / pins.LINKS
    with temp_cgroup() as cgroup:
        wall.attach(cgroup, key)
        left = {path: Link.open(path) for path in links.glob(f"{key:016x}-*")}
        wall.detach(key)
    for path, link in left.items():
        link.pin(path)
        link.close()
    with temp_cgroup() as cgroup:
        wall.attach(cgroup, key)
        found = wall.damage(key)
        wall.detach(key)

    assert len(left) == len(wall.programs())
    assert found == []
    assert list(links.glob(f"{key:016x}-*")) == []
