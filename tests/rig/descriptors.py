# SPDX-License-Identifier: Apache-2.0
"""What this process holds open, for tests that nothing stays open.

Sets to be compared, not numbers: what an earlier test has left to the garbage collector may be
closed at any moment, so that there are fewer than before.
"""

from __future__ import annotations

import os

_OWN = "/proc/self/fd"


def descriptors() -> set[tuple[int, str]]:
    """Return the open descriptors, each with what it leads to."""
    found = set()
    for name in os.listdir(_OWN):
        try:
            found.add((int(name), os.readlink(f"{_OWN}/{name}")))
        except FileNotFoundError:
            continue  # That of the listing itself.
    return found
