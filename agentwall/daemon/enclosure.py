# SPDX-License-Identifier: Apache-2.0
"""A cgroup behind a wall: made in the order that fails closed, and taken away without a trace.

Whatever of it cannot be taken away stays whole, record and pins included, as a leftover that
``leftovers`` finds: a sandbox may lose its agentwall, never its wall.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agentwall.daemon.belt import put_on
from agentwall.daemon.cutting import ending_sockets
from agentwall.daemon.inspection import Search, begin_search
from agentwall.errors import AgentwallError, HostError
from agentwall.flow.record import SandboxKey
from agentwall.host import state
from agentwall.host.cgroup import Cgroup, Place
from agentwall.kernel import pins
from agentwall.kernel.belt import Belt
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.names import count_names
from agentwall.kernel.wall import Wall
from agentwall.policy.tables import RuleTables

GENERATION = 1
"""A run has one policy, and so one generation of rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Everything an enclosure is made of."""

    record: state.RunRecord
    place: Place
    key: SandboxKey
    tables: RuleTables
    settings: SandboxSettings
    degrade: bool
    """Do without hooks that cannot be attached (``on_error: degrade``)."""
    search: Search


class Enclosure:
    """A cgroup, the wall around it and the record of both."""

    def __init__(self, blueprint: Blueprint) -> None:
        """Build it; on an error nothing is left.

        Raises:
            HostError: No cgroup, no bpffs.
            KernelError: A program was refused, or the rules or signatures do not fit.
        """
        self.key = blueprint.key
        self._wall: Wall | None = None
        self._cgroup: Cgroup | None = None
        self._belt: Belt | None = None
        self.pin_dir = pins.BPFFS / blueprint.record.id
        """Where its wall is pinned."""
        # First, so that whatever is made can be found, should this process be killed.
        self._held = state.hold(blueprint.record)
        with self._undone_on_error():
            self._raise_wall(blueprint)

    def _raise_wall(self, blueprint: Blueprint) -> None:
        # Another run that ends now must not unmount the bpffs under this one, nor take away the
        # slice; but it need not wait until the verifier has looked at the programs.
        self._wall = wall = Wall.load(
            pin_dir=self.pin_dir,
            capacity=_capacity_for(blueprint.tables),
            degrade=blueprint.degrade,
            pinning=state.exclusive(),
        )
        with state.exclusive():
            self._cgroup = cgroup = blueprint.place.make()
        # Attached first: from here on, and until the last step, everything is refused.
        wall.attach(cgroup.directory, self.key)
        wall.apply(GENERATION, blueprint.tables)
        inspection = begin_search(wall, blueprint.search, GENERATION)
        wall.bind(self.key, replace(blueprint.settings, inspection=inspection))
        self._belt = put_on(wall, blueprint.settings)
        wall.activate(cgroup.directory, self.key)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._dismantle()
            raise

    @property
    def wall(self) -> Wall:
        """The wall that stands."""
        assert self._wall is not None
        return self._wall

    @property
    def cgroup(self) -> Cgroup:
        """The cgroup inside."""
        assert self._cgroup is not None
        return self._cgroup

    def remove(self) -> None:
        """Take everything away.

        Raises:
            HostError: A process inside could not be killed; the wall stays, as a leftover.
            KernelError: Something else stays, as a leftover.
        """
        try:
            # While the wall stands: the dead may have something to send still.
            with ending_sockets(self.cgroup):
                if self.cgroup.is_populated() and not self.cgroup.kill():
                    pids = ", ".join(map(str, self.cgroup.pids()))
                    raise HostError(f"processes that cannot be killed stay behind the wall: {pids}")
            self._dismantle()
        except AgentwallError:
            self._held.close()
            raise

    def damage(self) -> str | None:
        """Say which hook no longer judges the sandbox, or None while all do that once did."""
        if self._belt is not None:
            self._belt.standing()  # forgets interfaces that have gone
        gone = [n for n, link in self.wall.hooks(self.key).items() if link.info().cgroup_id == 0]
        return f"detached: {', '.join(gone)}" if gone else None

    def missing_hooks(self) -> dict[str, str]:
        """Return why each hook that could not be attached could not, by its program's name."""
        return self.wall.missing_hooks(self.key)

    def _dismantle(self) -> None:
        if self._wall is not None:
            with contextlib.closing(self._wall):
                self._wall.detach(self.key)
                if self._belt is not None:
                    self._belt.close()
        with state.exclusive():
            pins.clear_pins(self.pin_dir)
            pins.unmount_bpffs()
            if self._cgroup is not None:
                self._cgroup.remove()
        self._held.remove()


def _capacity_for(tables: RuleTables) -> Capacity:
    defaults = Capacity()
    intervals = sum(map(len, tables.interval_sets))
    return Capacity(
        prefixes=max(defaults.prefixes, len(tables.outbound) + len(tables.inbound)),
        intervals=max(defaults.intervals, intervals),
        names=max(defaults.names, count_names(tables)),
        sandboxes=8,
    )
