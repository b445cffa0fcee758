# SPDX-License-Identifier: Apache-2.0
"""What a kernel test works on: the ground, a loaded wall, and a cgroup of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure
from rig.ground import Ground, ground
from rig.puppet import PATIENCE_S, Puppet, puppet


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The ground and the wall, shared by a module's tests, and the cgroup of one test."""

    ground: Ground
    enclosure: Enclosure
    cgroup: Path

    @contextmanager
    def puppet(self) -> Iterator[Puppet]:
        """Start a patient puppet in the cgroup."""
        with puppet(self.ground.near, self.cgroup, timeout_s=PATIENCE_S) as actor:
            yield actor


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The shared part of a :class:`Workbench`."""

    ground: Ground
    enclosure: Enclosure

    @contextmanager
    def bench(self) -> Iterator[Workbench]:
        """Make a cgroup for one test, the ground being quiet."""
        with temp_cgroup() as cgroup:
            self.ground.settle()
            yield Workbench(ground=self.ground, enclosure=self.enclosure, cgroup=cgroup)


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Build the ground and load the wall."""
    with enclosure() as wall, ground() as made:
        yield Workshop(ground=made, enclosure=wall)
