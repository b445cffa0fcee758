# SPDX-License-Identifier: Apache-2.0
"""What each sandbox has in the maps: its settings, its identity at its cgroup, its counters."""

from __future__ import annotations

import errno
import sys
from dataclasses import fields

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi
from agentwall.kernel.adoption import Inheritance
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.counters import Counters, unpack_counters
from agentwall.kernel.slots import Slots

NO_SANDBOX = SandboxKey(0)
"""The entry of ``aw_counters`` for what has no sandbox yet; never a sandbox."""

_NO_COUNTS = bytes(abi.MAP_LAYOUTS["aw_counters"].value_size)


class Entries:
    """``aw_slots``, ``aw_sandboxes``, ``aw_sandbox_id``, ``aw_counters``, ``aw_plain_cgroups``."""

    def __init__(self, maps: dict[str, BpfMap], inheritance: Inheritance | None) -> None:
        self._slots = Slots(maps["aw_slots"], maps["aw_sandboxes"])
        self._identities = maps["aw_sandbox_id"]
        self._counters = maps["aw_counters"]
        self._processes = maps["aw_plain_cgroups"]
        self._inheritance = inheritance
        self._cgroups: dict[SandboxKey, int] = {}
        self._counters.add(_key(NO_SANDBOX), _NO_COUNTS)

    def write(self, sandbox: SandboxKey, settings: bytes) -> None:
        """Write ``struct aw_sandbox``; it counts from now on.

        Raises:
            KernelError: There are too many sandboxes.
        """
        self._counters.add(_key(sandbox), _NO_COUNTS)
        self._slots.write(sandbox, settings)

    def expect_written(self, what: str, sandbox: SandboxKey) -> None:
        """Raise unless *sandbox* has settings.

        Raises:
            KernelError: ENOENT; *what* says what needed them.
        """
        if not self._slots.is_there(sandbox):
            raise KernelError(errno.ENOENT, f"{what}: sandbox {sandbox} is not bound")

    def identify(self, sandbox: SandboxKey, cgroup_id: int) -> bool:
        """Let sockets made in a cgroup be those of *sandbox*; say whether they were not before.

        Raises:
            KernelError: ENOENT: nothing is attached there.
        """
        place = _key(cgroup_id)
        is_new = self._identities.lookup(place) != _key(sandbox)
        if is_new:
            self._identities.update(place, _key(sandbox))
        self._processes.update(place, _key(sandbox))
        self._cgroups[sandbox] = cgroup_id
        return is_new

    def check(self, sandbox: SandboxKey) -> list[str]:
        """Write again what is not as it was written; return what, a line each.

        Raises:
            KernelError: It cannot be read or written.
        """
        drift = []
        if not self._slots.check(sandbox):
            drift.append("aw_sandboxes: the entry was not the one written")
        cgroup_id = self._cgroups.get(sandbox)
        if cgroup_id is not None:
            found = self._identities.lookup(_key(cgroup_id))
            # None: the cgroup has gone, and its storage with it.
            if found is not None and found != _key(sandbox):
                self._identities.update(_key(cgroup_id), _key(sandbox))
                drift.append("aw_sandbox_id: the cgroup was not this sandbox's")
        return drift

    def counters(self, sandbox: SandboxKey) -> Counters:
        """Return what was counted for *sandbox*, by a predecessor's programs as well.

        Raises:
            KernelError: ENOENT: it has no settings.
        """
        raw = self._counters.lookup(_key(sandbox))
        if raw is None:
            raise KernelError(errno.ENOENT, f"counters of sandbox {sandbox}: not bound")
        counters = unpack_counters(raw)
        if self._inheritance is None:
            return counters
        before = self._inheritance.counted(sandbox)
        names = [field.name for field in fields(Counters)]
        return Counters(**{name: getattr(counters, name) + before[name] for name in names})

    def take_counters(self, sandboxes: list[SandboxKey]) -> None:
        """Move what the predecessor's programs counted for *sandboxes* to this wall's counters.

        Raises:
            KernelError: The kernel refuses.
        """
        if self._inheritance is not None:
            self._inheritance.move_counters(self._counters, [NO_SANDBOX, *sandboxes])

    def revoke(self, sandbox: SandboxKey) -> None:
        """Take the settings away: all is refused by links that stand, and no tag counts any more.

        Raises:
            KernelError: The kernel refuses.
        """
        self._slots.remove(sandbox)

    def let_go(self) -> None:
        """Look at the predecessor's counters no more."""
        self._inheritance = None

    def forget(self, sandbox: SandboxKey) -> None:
        """Remove the entries of a sandbox without links: with one it would be refused all.

        Raises:
            KernelError: The kernel refuses.
        """
        cgroup_id = self._cgroups.pop(sandbox, None)
        if cgroup_id is not None:
            self._processes.delete(_key(cgroup_id))
        self._slots.remove(sandbox)
        self._counters.delete(_key(sandbox))


def _key(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder)
