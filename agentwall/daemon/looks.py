# SPDX-License-Identifier: Apache-2.0
"""Looks at processes, one after another on a thread of their own: asked for, bounded, given up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from agentwall.daemon.side_thread import SideThread
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsReading, Unread
from agentwall.probes.finding import Finder, Look
from agentwall.probes.starting import Start

MOST_WAITING = 4096
"""Looks that wait for their turn; what is mapped beyond is looked at when it speaks TLS."""
HANGS_S = 2.0
"""Who starts does not wait for a thread that has been at one thing for so long. Attaching to one
library takes up to 0.7 s on a machine that is overloaded."""
MOST_ASKED = 256
"""Looks that wait when a hello does not get another one: it is told with what is known."""

Then = Callable[[SandboxKey, Look], None]
"""Takes what was seen, in the thread of the loop."""


class Looks:
    """Has a :class:`Finder` look at processes. All methods are for the thread of the loop."""

    def __init__(self, thread: SideThread, finder: Finder) -> None:
        self._thread = thread
        self._finder = finder
        self._queued: set[tuple[SandboxKey, int]] = set()
        self._preparing = 0
        # The first of them is under way.
        self._unhurried: deque[tuple[SandboxKey, int, Callable[[], bool]]] = deque()
        self.overlooked = 0
        """Mappings that found the queue full."""

    @property
    def is_preparing(self) -> bool:
        """Whether :meth:`prepare` is not done yet, of any sandbox."""
        return self._preparing > 0

    @property
    def is_busy(self) -> bool:
        """Whether a hello had better not wait for a look."""
        return self._thread.waiting >= MOST_ASKED

    @property
    def is_hanging(self) -> bool:
        """Whether it may take for ever until anything is done."""
        return self._thread.busy_s() >= HANGS_S

    def look(self, key: SandboxKey, pid: int, then: Then, *, is_awaited: bool = False) -> None:
        """Look at a process; if that fails, what was seen is a process that cannot be read.

        Args:
            key: Of its sandbox.
            pid: Of the process.
            then: Called with what was seen.
            is_awaited: Somebody waits for it.
        """
        finder, asked = self._finder, (key, pid)
        self._queued.add(asked)

        def do() -> Look:
            # What it maps from here on asks for another look.
            self._queued.discard(asked)
            return finder.look(key, pid, time.monotonic())

        self._thread.run(
            do,
            lambda seen: then(key, seen),
            failed=lambda: then(key, _failed(pid)),
            is_awaited=is_awaited,
        )

    def look_once(self, key: SandboxKey, pid: int, then: Then, *, is_awaited: bool = False) -> None:
        """Look at a process that has mapped something, unless that is to be done already."""
        if (key, pid) in self._queued:
            return
        if self._thread.waiting >= MOST_WAITING:
            self.overlooked += 1
            return
        self.look(key, pid, then, is_awaited=is_awaited)

    def prepare(
        self,
        key: SandboxKey,
        pid: int,
        is_wanted: Callable[[], bool],
        *,
        start: Start | None = None,
        prepared: Callable[[], None] | None = None,
    ) -> None:
        """Probe what is installed where a process has its root, one file after another.

        Args:
            key: Of the sandbox.
            pid: Of the process.
            is_wanted: Whether to go on, asked in the other thread.
            start: What the process is about to do.
            prepared: Called when it is done, or has failed: somebody waits, and it comes before
                everything else. None: nobody does, and one process comes after the other.
        """
        self._preparing += 1
        if prepared is not None:
            self._prepare(key, pid, is_wanted, start, prepared, is_urgent=True)
            return
        self._unhurried.append((key, pid, is_wanted))
        if len(self._unhurried) == 1:
            self._prepare_next()

    def _prepare_next(self) -> None:
        key, pid, is_wanted = self._unhurried[0]
        self._prepare(key, pid, is_wanted, None, self._prepared, is_urgent=False)

    def _prepared(self) -> None:
        self._unhurried.popleft()
        if self._unhurried:
            self._prepare_next()

    def _prepare(
        self,
        key: SandboxKey,
        pid: int,
        is_wanted: Callable[[], bool],
        start: Start | None,
        prepared: Callable[[], None],
        *,
        is_urgent: bool,
    ) -> None:
        steps = self._finder.prepare(key, pid, time.monotonic, start)

        def do() -> bool:
            if is_wanted() and next(steps, None) is not None:
                return True
            steps.close()
            return False

        def then(is_more: bool) -> None:
            if is_more:
                go_on()
            else:
                end()

        def end() -> None:
            self._preparing -= 1
            prepared()

        def go_on() -> None:
            self._thread.run(do, then, failed=end, may_wait=not is_urgent, is_urgent=is_urgent)

        go_on()

    def drop(self, ended: Iterable[tuple[SandboxKey, list[int]]]) -> None:
        """Note that processes have ended."""
        found, finder = list(ended), self._finder
        if not found:
            return

        def do() -> None:
            for key, pids in found:
                finder.drop(key, pids, time.monotonic())

        self._thread.run(do)

    def release(self, key: SandboxKey) -> None:
        """Note that a sandbox has ended; looks that were asked for before come before."""
        finder = self._finder
        self._thread.run(lambda: finder.release(key, time.monotonic()))


def _failed(pid: int) -> Look:
    reading = TlsReading(library=None, path=None, unread=Unread.UNREADABLE)
    # Perhaps it is one: its end is waited for.
    return Look(pid=pid, comm="", exe=None, reading=reading, is_user=True)
