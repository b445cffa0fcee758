# SPDX-License-Identifier: Apache-2.0
"""Time that passes at once, for what the wall's programs keep until a certain time.

Who waits for it instead finds on a busy machine that what was to come before has come after it.
"""

from __future__ import annotations

import sys
import time

from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi
from agentwall.kernel.learned import BOUND
from agentwall.kernel.wall import Wall


def end_mode(wall: Wall, sandbox: SandboxKey) -> None:
    """Let the time be now at which the mode of *sandbox* ends."""
    slots, settings = wall.maps()["aw_slots"], wall.maps()["aw_sandboxes"]
    slot = slots.lookup(sandbox.to_bytes(8, sys.byteorder))
    held = settings.lookup(slot) if slot is not None else None
    if slot is None or held is None:
        raise RuntimeError(f"sandbox {sandbox}: expected settings, got none")
    changed = abi.Sandbox.from_buffer_copy(held)
    changed.until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    settings.update(slot, bytes(changed))


def end_addresses(wall: Wall) -> None:
    """Let every address that was learned be over, of all sandboxes of *wall*."""
    bound = wall.maps()["aw_bound"]
    for key, value in bound.entries(locked=True):
        hashes = BOUND.unpack(value)[::2]
        bound.update(key, BOUND.pack(*(n for each in hashes for n in (each, 1 if each else 0))))
