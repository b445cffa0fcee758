# SPDX-License-Identifier: Apache-2.0
"""The clock that kernel events are told in, and how far it is from UTC."""

from __future__ import annotations

import time

_LOOKS = 3


def boot_ns() -> int:
    """Return CLOCK_BOOTTIME, nanoseconds: it neither jumps nor stops while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def offset_ns() -> int:
    """Return UTC minus :func:`boot_ns`, as it is now: whoever sets the clock changes it."""
    # Whoever loses the processor between two looks has them apart by as much.
    _, found_ns = min(_looked() for _ in range(_LOOKS))
    return found_ns


def _looked() -> tuple[int, int]:
    """Return how long it took to look at both clocks, and UTC minus boot time; nanoseconds."""
    before_ns, utc_ns, after_ns = boot_ns(), time.time_ns(), boot_ns()
    return after_ns - before_ns, utc_ns - before_ns
