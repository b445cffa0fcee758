# SPDX-License-Identifier: Apache-2.0
"""Looks at real processes that wait until a test lets them go on; nothing is probed in truth."""

from __future__ import annotations

import select
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from agentwall.daemon.looks import Looks
from agentwall.daemon.side_thread import SideThread
from agentwall.flow.record import SandboxKey
from agentwall.probes.attached import Attached
from agentwall.probes.finding import Finder, Look
from rig.places import ALL, Places

PATIENCE_S = 60.0


class Slow(Finder):
    """Does as a finder does, when the gate is open."""

    def __init__(self) -> None:
        super().__init__(Attached(ALL, max_libraries=64, pins=None, attach=Places().attach))
        self.gate = threading.Event()
        self.begun = threading.Event()
        """It is at a first look."""
        self.looked: list[int] = []
        self.error: Exception | None = None

    def look(self, sandbox: Hashable, pid: int, now_s: float) -> Look:
        """Look, and note that."""
        self.begun.set()
        self.gate.wait()
        self.looked.append(pid)
        if self.error is not None:
            raise self.error
        return super().look(sandbox, pid, now_s)


class Bench:
    """Looks at work."""

    def __init__(self) -> None:
        self.thread = SideThread("looks")
        self.finder = Slow()
        self.looks = Looks(self.thread, self.finder)
        self.seen: list[Look] = []

    def note(self, key: SandboxKey, look: Look) -> None:
        """Take what was seen."""
        self.seen.append(look)

    def wait_for_a_look(self) -> None:
        """Wait until the first one is under way."""
        assert self.finder.begun.wait(PATIENCE_S)

    def settle(self) -> None:
        """Step until all is done that was asked for."""
        self.finder.gate.set()
        done: list[bool] = []
        self.thread.run(lambda: True, done.append, may_wait=True)
        while not done or self.looks.is_preparing:
            assert select.select([self.thread.fileno()], [], [], PATIENCE_S)[0]
            self.thread.step()


@contextmanager
def bench() -> Iterator[Bench]:
    """Make one; its thread ends with the block."""
    made = Bench()
    try:
        yield made
    finally:
        made.finder.gate.set()
        made.thread.close(PATIENCE_S)
        made.finder.attached.close()
