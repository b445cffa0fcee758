# SPDX-License-Identifier: Apache-2.0
"""Runs that died, and the walls that still stand around what they started."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentwall.daemon.cutting import ending_sockets
from agentwall.errors import HostError
from agentwall.host import cgroup, state
from agentwall.kernel import pins

CGROUP_PREFIX = "agentwall-"
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}", re.ASCII)


def is_run_id(name: str) -> bool:
    """Say whether *name* is one that ``agentwall run`` gives. Pins of a daemon have another."""
    return _RUN_ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is left of one run."""

    record: state.RunRecord
    pids: tuple[int, ...]
    """Processes that still live behind its wall."""

    def __str__(self) -> str:
        alive = f"processes {', '.join(map(str, self.pids))}" if self.pids else "no process"
        return f"run {self.record.id} of {self.record.start_time}: {alive} behind its wall"


def find_leftovers() -> list[Leftover]:
    """Return what is left of runs that died, oldest first. Changes nothing."""
    return [Leftover(record, _pids(record)) for record in state.leftovers()]


def _pids(record: state.RunRecord) -> tuple[int, ...]:
    found = _cgroup_of(record)
    return found.pids() if found else ()


def _cgroup_of(record: state.RunRecord) -> cgroup.Cgroup | None:
    # Only ever a cgroup that a run made for itself, whatever the record says.
    is_ours = record.cgroup.rsplit("/", 1)[-1] == f"{CGROUP_PREFIX}{record.id}"
    return cgroup.find(record.cgroup) if is_ours else None


def clear_leftover(leftover: Leftover, *, force: bool = False) -> None:
    """Remove the pins, the cgroup and the record of a run that died.

    Args:
        leftover: From :func:`find_leftovers`.
        force: Kill the processes that still live behind its wall; without it they keep the wall.

    Raises:
        HostError: Processes live there and *force* is off, or they cannot be killed.
        KernelError: A pin cannot be removed.
    """
    record = leftover.record
    with state.exclusive():
        if record not in state.leftovers():
            return
        found = _cgroup_of(record)
        if found:
            _end(record, found, force=force)
        pins.clear_pins(pins.BPFFS / record.id)
        pins.unmount_bpffs()
        if found:
            found.remove()
        state.forget(record)


def _end(record: state.RunRecord, found: cgroup.Cgroup, *, force: bool) -> None:
    if found.is_populated() and not force:
        raise HostError(
            f"run {record.id}: processes {', '.join(map(str, found.pids()))} "
            "live behind its wall, and would be free of it"
        )
    # While the wall stands: the dead may have something to send still.
    with ending_sockets(found):
        if found.is_populated() and not found.kill():
            raise HostError(f"run {record.id}: processes cannot be killed: {found.pids()}")
