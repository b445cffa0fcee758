# SPDX-License-Identifier: Apache-2.0
"""``denier.py flood CGROUP RATE SECONDS``: is refused so many times a second, and counts it.

``denier.py watch SECONDS``: how late a timer of 5 ms is meanwhile. Only the standard library.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from pathlib import Path

_REFUSED = "203.0.113.250"
_BEAT_S = 0.01
_TIMER_S = 0.005


def flood(cgroup: str, rate: int, duration_s: float) -> dict[str, int]:
    """Join *cgroup* and try *rate* connections a second that nothing permits.

    Returns:
        ``denied``, and ``wrong``: those that were not.
    """
    Path(cgroup, "cgroup.procs").write_text("0")
    denied = wrong = number = 0
    begun_s = time.monotonic()
    with socket.socket() as one:
        while (passed_s := time.monotonic() - begun_s) < duration_s:
            while number < rate * passed_s:
                number += 1
                is_denied = one.connect_ex((_REFUSED, 1 + number % 60_000)) == errno.EPERM
                denied += is_denied
                wrong += not is_denied
            time.sleep(_BEAT_S)
    return {"denied": denied, "wrong": wrong}


def watch(duration_s: float) -> dict[str, float]:
    """Sleep again and again; return how many ms too long: ``median``, ``p99`` and ``most``."""
    late = []
    end_s = time.monotonic() + duration_s
    while (begun_s := time.monotonic()) < end_s:
        time.sleep(_TIMER_S)
        late.append((time.monotonic() - begun_s - _TIMER_S) * 1e3)
    late.sort()
    return {
        "median": late[len(late) // 2],
        "p99": late[int(len(late) * 0.99)],
        "most": late[-1],
    }


if __name__ == "__main__":
    if sys.argv[1] == "flood":
        found: object = flood(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        found = watch(float(sys.argv[2]))
    print(json.dumps(found))
