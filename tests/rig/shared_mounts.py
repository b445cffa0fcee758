# SPDX-License-Identifier: Apache-2.0
"""Which mounts of its caller something changes, where those are shared as a host's are."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from agentwall.host.mountinfo import read_mounts
from rig.own_mounts import in_own_mounts
from rig.process import run_checked

T = TypeVar("T")


def mounts_changed_by(call: Callable[[], T]) -> tuple[T, list[str]]:
    """Return what *call* returns, and where mounts came, went or changed of those who call it.

    It is called in mounts of their own that are shared with others, as a host's are: what is
    private nobody could reach.

    Raises:
        AssertionError: As :func:`in_own_mounts`.
    """

    def compare() -> tuple[T, list[str]]:
        run_checked("mount", "--make-rshared", "/")
        before = set(read_mounts())
        answer = call()
        # Where somebody removes a directory, what is mounted there for others goes with it.
        changed = {each.point for each in before ^ set(read_mounts())}
        return answer, sorted(filter(os.path.exists, changed))

    return in_own_mounts(compare)
