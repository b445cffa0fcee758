# SPDX-License-Identifier: Apache-2.0
"""One sandbox's life under ``agentwall run``: wall up, command in, events out, everything gone.

Enforcement is the kernel's alone: whatever fails here, a full disk above all, is counted and said
once, and neither the wall nor the command depends on it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from agentwall.daemon.clock import boot_ns, offset_ns
from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.cutting import FlowCutter
from agentwall.daemon.enclosure import GENERATION, Enclosure
from agentwall.daemon.inside import Inside
from agentwall.daemon.inspection import Search
from agentwall.daemon.response import Responder
from agentwall.engine.commands import KillFlow, Report, StopSandbox
from agentwall.engine.engine import Engine
from agentwall.engine.events import (
    AttemptSeen,
    CountersRead,
    Event,
    ExcerptsSeen,
    HelloRead,
    Lost,
    RulesApplied,
    SandboxFinished,
    SandboxStarted,
    SignaturesApplied,
    TotalsRead,
    WallDamaged,
)
from agentwall.engine.severity import severity_of
from agentwall.errors import EventDecodeError, KernelError
from agentwall.flow.record import Excerpt, Process, Sandbox
from agentwall.flow.severity import Severity
from agentwall.flow.tls import HelloSeen, TlsReading
from agentwall.host.coverage import Coverage
from agentwall.host.launch import Sandboxed
from agentwall.host.messages import Word
from agentwall.host.process import ProcessReader
from agentwall.host.signals import SignalQueue
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables
from agentwall.sinks.jsonl import Sink

logger = logging.getLogger(__name__)

_CHECK_S = 2.0
"""Between two looks at the counters and at the links."""
_TOTALS_S = 30.0
"""Between two emptyings of the kernel's table of permitted flows."""
_EXPIRE_S = 5.0
"""Between two clearings of what the sandbox learned from DNS."""
_JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the log says of a sandbox."""

    sandbox: Sandbox
    policy: Policy
    """With the mode that is in force."""
    tables: RuleTables
    search: Search
    coverage: Coverage
    argv: tuple[str, ...]
    detail: Mapping[str, object]
    """Whatever else belongs into the record of the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it went."""

    exit_code: int
    """The command's, as a shell would say it."""
    worst: Severity
    not_executed: str | None
    """Why the command's program could not be executed; then :attr:`exit_code` is 126 or 127."""
    left_behind: tuple[str, ...]
    """Processes the command left in the background and that ended with it, ``pid (name)``."""


class Session:
    """Feeds the engine with what the kernel reports, and the sinks with what the engine says."""

    def __init__(
        self,
        enclosure: Enclosure,
        subject: Subject,
        sinks: Sequence[Sink],
        *,
        say: Callable[[str], None] = logger.warning,
        settings: ResponseSettings | None = None,
        inside: Inside | None = None,
    ) -> None:
        """Prepare; nothing is logged before :meth:`begin`.

        Args:
            enclosure: With its wall up.
            subject: Who is in it.
            sinks: Get every record.
            say: Told what a person must do for the command to go on.
            settings: How a freeze or a kill is carried out; None: as by default.
            inside: Reads inside TLS; what it tells is for :meth:`tell_hello`.
        """
        self._enclosure = enclosure
        self._inside = inside
        self._say = say
        self._responder = Responder(settings or ResponseSettings())
        self._subject = subject
        self._sinks = sinks
        self._engine = Engine()
        self._cutter = FlowCutter()
        self._processes = ProcessReader(enclosure.cgroup.path)
        self._worst = Severity.INFO
        self._is_damaged = False
        self._next_check_s = self._next_totals_s = self._next_expire_s = 0.0

    def begin(self) -> None:
        """Log the start and the rules; the wall stands, and the command has not run yet."""
        subject = self._subject
        now_ns = boot_ns()
        self._handle(
            SandboxStarted(
                key=self._enclosure.key,
                sandbox=subject.sandbox,
                mono_ns=now_ns,
                clock_offset_ns=offset_ns(),
                mode=subject.policy.mode,
                coverage=subject.coverage.level.value,
                open_roads=tuple(map(str, subject.coverage.roads)),
                command=subject.argv,
                detail=subject.detail,
            )
        )
        self._handle(
            RulesApplied(
                key=self._enclosure.key,
                mono_ns=now_ns,
                generation=GENERATION,
                policy=subject.policy,
                tables=subject.tables,
            )
        )
        self._handle(
            SignaturesApplied(
                key=self._enclosure.key,
                signatures=subject.search.signatures,
                table=self._enclosure.wall.signatures.generation,
                accepts=subject.search.accepts,
            )
        )
        self._flush()

    def run(self, sandboxed: Sandboxed, signals: SignalQueue) -> Ending:
        """Start the command, see it through, and log the end."""
        sandboxed.start()
        poller = select.poll()
        for source in (self._enclosure.wall, sandboxed, signals):
            poller.register(source.fileno(), select.POLLIN)
        if self._inside is not None:
            poller.register(self._inside.fileno(), select.POLLIN)
        while sandboxed.exit_code is None:
            ready = {descriptor for descriptor, _ in poller.poll(_CHECK_S * 1000)}
            if signals.fileno() in ready:
                _pass_on(signals, sandboxed)
            if sandboxed.fileno() in ready:
                _mirror_stop(sandboxed)
            self._pump()
        left_behind = self._name_others(sandboxed.pid)
        sandboxed.end()
        self._finish(sandboxed.exit_code, left_behind)
        return Ending(
            exit_code=sandboxed.exit_code,
            worst=self._worst,
            not_executed=sandboxed.not_executed,
            left_behind=left_behind,
        )

    def _pump(self) -> None:
        self._drain()
        if self._inside is not None:
            self._inside.tick()
        now_s = time.monotonic()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + _CHECK_S
            self._check()
        if now_s >= self._next_totals_s:
            self._next_totals_s = now_s + _TOTALS_S
            self._drain_totals()
        if now_s >= self._next_expire_s:
            self._next_expire_s = now_s + _EXPIRE_S
            self._expire()
        self._responder.poll(now_s)
        self._flush()

    def _expire(self) -> None:
        # Only about room: what is over counts no longer, and the next time may do better.
        try:
            self._enclosure.wall.expire(boot_ns())
        except KernelError as err:
            logger.warning("learned addresses not cleared: %s", err)

    def _drain(self) -> bool:
        """Take the events that are there; say whether there were any."""
        excerpts = self._take_excerpts()
        any_attempts = self._drain_attempts()
        if excerpts:
            self._handle(ExcerptsSeen(excerpts=tuple(excerpts)))
        return any_attempts or bool(excerpts)

    def _drain_attempts(self) -> bool:
        try:
            attempts = self._enclosure.wall.attempts()
        except EventDecodeError as err:
            self._lose(err)
            return True
        for attempt in attempts:
            self._handle(AttemptSeen(attempt=attempt, process=self._processes.read(attempt.task)))
        return bool(attempts)

    def _take_excerpts(self) -> list[tuple[Excerpt, Process | None]]:
        """Return what the decoders are to see, after the matches; hellos are passed on at once.

        A hello says of a match inside TLS whom it was said to, so it has to be known before.
        """
        seen: list[tuple[Excerpt, Process | None]] = []
        try:
            excerpts = self._enclosure.wall.excerpts()
        except EventDecodeError as err:
            self._lose(err)
            return seen
        for each in excerpts:
            process = self._processes.read(each.attempt.task)
            if not isinstance(each, HelloSeen):
                seen.append((each, process))
            elif self._inside is not None:
                self._inside.hello(each, process)
            else:
                self.tell_hello(each, process, None)
        return seen

    def tell_hello(
        self, hello: HelloSeen, process: Process | None, reading: TlsReading | None
    ) -> None:
        """Let the engine know of a hello, and of what was found of its process."""
        self._handle(HelloRead(hello=hello, process=process, reading=reading))

    def _drain_totals(self) -> None:
        try:
            found = self._enclosure.wall.totals()
        except (EventDecodeError, KernelError) as err:
            self._lose(err)
            return
        for totals in found:
            self._handle(TotalsRead(totals=totals, process=self._processes.read(totals.task)))

    def _lose(self, error: EventDecodeError | KernelError) -> None:
        logger.warning("events lost: %s", error)
        now_ns = boot_ns()
        self._handle(Lost(key=self._enclosure.key, mono_ns=now_ns, where="decode", lost=1))

    def _check(self) -> None:
        """Look at the counters and the links; that this fails is itself worth a record."""
        try:
            self._read_counters()
            what = self._enclosure.damage()
        except KernelError as err:
            what = str(err)
        if what and not self._is_damaged:
            self._is_damaged = True
            self._handle(WallDamaged(key=self._enclosure.key, mono_ns=boot_ns(), what=what))

    def _read_counters(self) -> None:
        counters = self._enclosure.wall.counters(self._enclosure.key)
        self._handle(CountersRead(key=self._enclosure.key, mono_ns=boot_ns(), **asdict(counters)))

    def _finish(self, exit_code: int, left_behind: Sequence[str]) -> None:
        # The kernel has no more to add once every process is gone, so this comes to an end.
        while self._drain():
            self._flush()
        if self._inside is not None:
            self._inside.settle()
        self._drain_totals()
        self._check()
        detail = {"exit_code": exit_code, "left_behind": list(left_behind)}
        self._handle(SandboxFinished(key=self._enclosure.key, mono_ns=boot_ns(), detail=detail))
        self._flush()
        self._cutter.close()
        self._responder.close()

    def _name_others(self, warden: int) -> tuple[str, ...]:
        pids = (pid for pid in self._enclosure.cgroup.pids() if pid != warden)
        return tuple(_name(pid) for pid in pids)

    def _handle(self, event: Event) -> None:
        for command in self._engine.handle(event):
            match command:
                case Report():
                    self._worst = max(self._worst, severity_of(command.record))
                    for sink in self._sinks:
                        sink.write(command.record)
                case KillFlow():
                    self._cut(command)
                case StopSandbox():
                    self._stop(command)

    def _cut(self, command: KillFlow) -> None:
        hanging = self._cutter.carry_out(command)
        if hanging is not None:
            self._handle(hanging)

    def _stop(self, command: StopSandbox) -> None:
        stopped = self._responder.stop(command, self._enclosure.cgroup, time.monotonic())
        self._handle(stopped)
        self._flush()
        thaw = stopped.detail.get("thaw")
        if thaw is not None:
            self._say(f"the command is frozen, for whoever looks into it; to let it go on: {thaw}")

    def _flush(self) -> None:
        for sink in self._sinks:
            sink.flush()


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return f"{pid} ({file.read().rstrip()})"
    except OSError:
        return str(pid)


def _pass_on(signals: SignalQueue, sandboxed: Sandboxed) -> None:
    # What the terminal sent went to the whole foreground process group, the command included.
    for received in signals.read():
        if received.number != signal.SIGCHLD and not received.is_from_kernel:
            sandboxed.pass_on(received.number)


def _mirror_stop(sandboxed: Sandboxed) -> None:
    message = sandboxed.read()
    if message and message.word is Word.STOPPED and message.number in _JOB_CONTROL:
        # The shell waits for agentwall, not for the command: it must see the job stop.
        os.kill(os.getpid(), signal.SIGSTOP)
