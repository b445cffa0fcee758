# SPDX-License-Identifier: Apache-2.0
"""Probes that an earlier daemon has left: they read on until new ones are there, and then go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from agentwall.daemon.side_thread import SideThread
from agentwall.errors import KernelError
from agentwall.probes.uprobes import Probe, remove_pinned, take_over_pinned

PINS = "probes"
"""The directory of the probes' pins, below the wall's; each daemon has one of its own in it."""


def directories(place: Path) -> list[Path]:
    """Return the directories with pins of probes, whoever made them.

    Args:
        place: The directory of the wall's pins.
    """
    try:
        return [each for each in (place / PINS).iterdir() if each.is_dir()]
    except OSError:
        return []


def take_off(former: Iterable[Path], thread: SideThread) -> None:
    """Have the probes pinned in *former* taken off by *thread*, one whenever it has nothing to do..

    Where all go at once the kernel is at it for 0.1 s each, and whoever attaches meanwhile waits.
    """

    def close(probes: list[Probe]) -> None:
        for each in probes:
            thread.run(each.close, may_wait=True)

    for each in former:
        thread.run(lambda each=each: take_over_pinned(each), close)  # type: ignore[misc]


def remove(place: Path) -> None:
    """Take off all at once what is pinned below *place*, as far as it goes."""
    for each in directories(place):
        with contextlib.suppress(KernelError):
            remove_pinned(each)
