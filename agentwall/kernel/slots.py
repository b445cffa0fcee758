# SPDX-License-Identifier: Apache-2.0
"""Where the settings of each sandbox lie: ``aw_slots`` and ``aw_sandboxes``.

A program that has found the settings of a sandbox reads them for as long as it runs, and all that
it reads must be of one write. So settings are never changed where they lie: each write takes a slot
that no program can hold, and one update of ``aw_slots`` lets it count. A slot that was left is
written again only after :func:`agentwall.kernel.grace.wait_for_programs`; there are twice as many
as sandboxes, so that this is seldom.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.grace import wait_for_programs


class Slots:
    """The only writer of both maps, which are empty at first."""

    def __init__(
        self, slots: BpfMap, sandboxes: BpfMap, wait: Callable[[], None] = wait_for_programs
    ) -> None:
        self._slots = slots
        self._sandboxes = sandboxes
        self._wait = wait
        self._unused = 0
        """The first slot that was never written."""
        self._free: list[int] = []
        self._left: list[int] = []
        """Programs may still read there."""
        self._held: dict[SandboxKey, tuple[int, bytes]] = {}

    def write(self, sandbox: SandboxKey, settings: bytes) -> None:
        """Write ``struct aw_sandbox``; it counts from now on.

        Raises:
            KernelError: E2BIG or ENOSPC: there are too many sandboxes.
        """
        slot = self._take()
        try:
            self._sandboxes.update(_number(slot, 4), settings)
            self._slots.update(_number(sandbox, 8), _number(slot, 4))
        except BaseException:
            self._left.append(slot)
            raise
        self._leave(sandbox)
        self._held[sandbox] = slot, settings

    def is_there(self, sandbox: SandboxKey) -> bool:
        """Say whether *sandbox* has settings, as programs see it."""
        return self._slots.lookup(_number(sandbox, 8)) is not None

    def check(self, sandbox: SandboxKey) -> bool:
        """Write again what is not as it was written; say whether it was.

        Raises:
            KernelError: It cannot be read or written.
        """
        held = self._held.get(sandbox)
        if held is None:
            return True
        slot, settings = held
        if (
            self._slots.lookup(_number(sandbox, 8)) == _number(slot, 4)
            and self._sandboxes.lookup(_number(slot, 4)) == settings
        ):
            return True
        self.write(sandbox, settings)
        return False

    def remove(self, sandbox: SandboxKey) -> None:
        """Take the settings away, where there are some.

        Raises:
            KernelError: The kernel refuses.
        """
        self._slots.delete(_number(sandbox, 8))
        self._leave(sandbox)

    def _leave(self, sandbox: SandboxKey) -> None:
        held = self._held.pop(sandbox, None)
        if held is not None:
            self._left.append(held[0])

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._unused < self._sandboxes.shape.max_entries:
            self._unused += 1
            return self._unused - 1
        if not self._left:
            raise KernelError(
                errno.ENOSPC, f"map {self._slots.shape.name}: no room for another sandbox"
            )
        self._wait()
        self._free, self._left = self._left, self._free
        return self._free.pop()


def _number(number: int, size: int) -> bytes:
    return number.to_bytes(size, sys.byteorder)
