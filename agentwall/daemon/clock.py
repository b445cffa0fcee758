# SPDX-License-Identifier: Apache-2.0
"""The clock that kernel events are told in, and how far it is from UTC."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Return CLOCK_BOOTTIME, nanoseconds: it neither jumps nor stops while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def offset_ns() -> int:
    """Return UTC minus :func:`boot_ns`, as it is now: whoever sets the clock changes it."""
    return time.time_ns() - boot_ns()
