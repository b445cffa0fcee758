# SPDX-License-Identifier: Apache-2.0
"""What the kernel reports goes to the engine, and what the engine says is carried out.

Nothing here decides about a packet. Where sandboxes report faster than this process reads, events
are lost and counted in the kernel. The daemon never spends more than half its time on reading them
(:meth:`Pump.rest_s`), so that the host, and whoever asks it something, gets the other half.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.cutting import FlowCutter
from agentwall.engine.commands import KillFlow, Report, StopSandbox
from agentwall.engine.cutting import CUTTING
from agentwall.engine.engine import Engine
from agentwall.engine.events import (
    AttemptSeen,
    Event,
    ExcerptsSeen,
    HelloRead,
    Lost,
    TotalsRead,
)
from agentwall.engine.tls_sessions import TlsCounts
from agentwall.errors import EventDecodeError, KernelError
from agentwall.flow.record import Attempt, Excerpt, Process, Record, SandboxKey, Task
from agentwall.flow.tls import HelloSeen, TlsReading
from agentwall.flow.verdict import Hook, Verdict
from agentwall.host.argv import ArgvReader
from agentwall.host.process import ProcessReader
from agentwall.kernel.wall import Wall

logger = logging.getLogger(__name__)

_NO_SANDBOX = SandboxKey(0)
_LONGEST_PAUSE_S = 0.2
_AT_ONCE = 4096
TOLD_AT_ONCE = 512
"""Attempts that the daemon's engine hears of at a time: nobody else is served for some 50 ms."""
_MAX_READERS = 256
"""Sandboxes whose processes are remembered at a time."""


class Outlet(Protocol):
    """Where records go."""

    def write(self, record: Record) -> None:
        """Take one. It never raises, whatever the medium behind it."""


class Pump:
    """Moves events from the wall through the engine to the outlet."""

    def __init__(
        self,
        wall: Wall,
        cgroup_of: Callable[[SandboxKey], str | None],
        outlet: Outlet,
        stop: Callable[[StopSandbox], None],
        *,
        told_at_once: int | None = None,
        losing: SandboxKey = _NO_SANDBOX,
    ) -> None:
        """Nothing is taken before :meth:`drain`.

        Args:
            wall: Whose events.
            cgroup_of: The cgroup of a sandbox, as /proc/PID/cgroup spells it; None: of none that is
                known, and nothing is found out of its processes.
            outlet: Gets every record.
            stop: Stops a sandbox whose policy says so.
            told_at_once: At most so many attempts of a drain are told, shared out among sandboxes;
                the others are counted as lost. None: all are told.
            losing: Whose the loss is where nobody understands an event.
        """
        self._wall = wall
        self._cgroup_of = cgroup_of
        self._outlet = outlet
        self._stop = stop
        self._told_at_once = told_at_once
        self._losing = losing
        self._engine = Engine()
        self._cutter = FlowCutter()
        self._argv = ArgvReader()
        self._readers: dict[SandboxKey, ProcessReader] = {}
        self._rests_until_s = 0.0
        self._later: list[tuple[Excerpt, Process | None]] = []
        self.on_hello: Callable[[HelloSeen, Process | None], None] = self._pass_hello
        """Takes each ClientHello, and has it told by :meth:`tell_hello`, at once or later."""

    def _pass_hello(self, hello: HelloSeen, process: Process | None) -> None:
        self.tell_hello(hello, process, None)

    def emit(self, event: Event) -> None:
        """Let the engine know of *event*, and carry out what it says."""
        for command in self._engine.handle(event):
            match command:
                case Report():
                    self._outlet.write(command.record)
                case KillFlow():
                    self._cut(command)
                case StopSandbox():
                    self._stop(command)

    def rest_s(self) -> float:
        """Return for how long events should be left alone."""
        return max(0.0, self._rests_until_s - time.monotonic())

    def drain(self) -> bool:
        """Take the events that are there, up to a limit; say whether there were any."""
        begun_s = time.monotonic()
        excerpts = [*self._later, *self._take_excerpts()]
        self._later = []
        is_lost = False
        try:
            attempts = self._wall.attempts(_AT_ONCE)
        except EventDecodeError as err:
            self._lose(err)
            attempts, is_lost = [], True
        if any(each.hook is Hook.PLAIN for each in attempts):
            # Their hellos may have come since. What is for the decoders waits, for a match that is
            # older than it may be to come.
            self._later = self._take_excerpts()
        for attempt in self._shared(attempts):
            process = self._process(attempt.sandbox, attempt.task)
            self.emit(AttemptSeen(attempt=attempt, process=process))
        self._tell_excerpts(excerpts)
        ended_s = time.monotonic()
        self._rests_until_s = ended_s + min(ended_s - begun_s, _LONGEST_PAUSE_S)
        return bool(attempts or is_lost or excerpts or self._later)

    @property
    def is_holding(self) -> bool:
        """Whether something waits for the next :meth:`drain`, though the wall may have no news."""
        return bool(self._later)

    def settle(self) -> None:
        """:meth:`drain`, and keep nothing back: for whom it is may be another afterwards, or gone.

        To be called before a sandbox, its policy or this process ends.
        """
        self.drain()
        self._deliver()

    def _deliver(self) -> None:
        later, self._later = self._later, []
        self._tell_excerpts(later)

    def _tell_excerpts(self, excerpts: list[tuple[Excerpt, Process | None]]) -> None:
        if excerpts:
            self.emit(ExcerptsSeen(excerpts=tuple(excerpts)))

    def _shared(self, attempts: list[Attempt]) -> list[Attempt]:
        """Return what there is time for: of each sandbox as many, whatever it reports.

        What the kernel matched or cut is always among it. The rest is counted as lost.
        """
        if self._told_at_once is None or len(attempts) <= self._told_at_once:
            return attempts
        share = max(1, self._told_at_once // len({each.sandbox for each in attempts}))
        told: list[Attempt] = []
        seen: Counter[SandboxKey] = Counter()
        lost: Counter[tuple[SandboxKey, str]] = Counter()
        for each in attempts:
            seen[each.sandbox] += 1
            if seen[each.sandbox] <= share or each.match is not None or each.code in CUTTING:
                told.append(each)
            else:
                where = "flows" if each.verdict is Verdict.ALLOW else "denials"
                lost[each.sandbox, where] += 1
        for (key, where), count in lost.items():
            self.emit(Lost(key=key, mono_ns=attempts[-1].mono_ns, where=where, lost=count))
        return told

    def _take_excerpts(self) -> list[tuple[Excerpt, Process | None]]:
        """Return what the decoders are to see, after the matches; hellos are passed on at once.

        A hello says of a match inside TLS whom it was said to, so it has to be known before.
        """
        seen: list[tuple[Excerpt, Process | None]] = []
        try:
            excerpts = self._wall.excerpts()
        except EventDecodeError as err:
            self._lose(err)
            return seen
        for each in excerpts:
            process = self._process(each.attempt.sandbox, each.attempt.task)
            if isinstance(each, HelloSeen):
                self.on_hello(each, process)
            else:
                seen.append((each, process))
        return seen

    def tell_hello(
        self, hello: HelloSeen, process: Process | None, reading: TlsReading | None
    ) -> None:
        """Let the engine know of a hello, and of what was found of its process."""
        self.emit(HelloRead(hello=hello, process=process, reading=reading))

    def tls_counts(self, key: SandboxKey) -> TlsCounts | None:
        """Return how many TLS sessions a sandbox began; None: not one, or nobody knows it."""
        return self._engine.tls_counts(key)

    def drain_totals(self) -> None:
        """Take what permitted flows have moved."""
        try:
            found = self._wall.totals()
        except (EventDecodeError, KernelError) as err:
            self._lose(err)
            return
        for totals in found:
            process = self._process(totals.sandbox, totals.task)
            self.emit(TotalsRead(totals=totals, process=process))

    def forget(self, key: SandboxKey) -> None:
        """Forget the processes of a sandbox that has ended."""
        self._readers.pop(key, None)

    def close(self) -> None:
        """Tell what was kept back, whatever this ends for, and give back what was opened."""
        self._deliver()
        self._cutter.close()
        self._argv.close()

    def _process(self, key: SandboxKey, task: Task) -> Process | None:
        reader = self._readers.get(key)
        if reader is None:
            cgroup = self._cgroup_of(key)
            if cgroup is None:
                return None
            while len(self._readers) >= _MAX_READERS:
                del self._readers[next(iter(self._readers))]
            reader = self._readers[key] = ProcessReader(cgroup, self._argv)
        return reader.read(task)

    def _lose(self, error: EventDecodeError | KernelError) -> None:
        logger.warning("events lost: %s", error)
        now_ns = boot_ns()
        self.emit(Lost(key=self._losing, mono_ns=now_ns, where="decode", lost=1))

    def _cut(self, command: KillFlow) -> None:
        hanging = self._cutter.carry_out(command)
        if hanging is not None:
            self.emit(hanging)
