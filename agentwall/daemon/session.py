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
from agentwall.daemon.enclosure import GENERATION, Enclosure
from agentwall.daemon.inside import Inside
from agentwall.daemon.inspection import Search
from agentwall.daemon.pump import Pump
from agentwall.daemon.response import Responder
from agentwall.engine.commands import StopSandbox
from agentwall.engine.events import (
    CountersRead,
    RulesApplied,
    SandboxFinished,
    SandboxStarted,
    SignaturesApplied,
    WallDamaged,
)
from agentwall.engine.severity import severity_of
from agentwall.errors import KernelError
from agentwall.flow.record import Record, Sandbox
from agentwall.flow.severity import Severity
from agentwall.host.coverage import Coverage
from agentwall.host.launch import Sandboxed
from agentwall.host.messages import Word
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


class _Ledger:
    """Where the records go, and the worst of them."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self.worst = Severity.INFO

    def write(self, record: Record) -> None:
        self.worst = max(self.worst, severity_of(record))
        for sink in self._sinks:
            sink.write(record)

    def flush(self) -> None:
        for sink in self._sinks:
            sink.flush()


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
        self._ledger = _Ledger(sinks)
        path = enclosure.cgroup.path
        self._pump = Pump(
            enclosure.wall, lambda _: path, self._ledger, self._stop, losing=enclosure.key
        )
        self.tell_hello = self._pump.tell_hello
        """Lets the engine know of a hello, and of what was found of its process."""
        if inside is not None:
            self._pump.on_hello = inside.hello
        self._is_damaged = False
        self._next_check_s = self._next_totals_s = self._next_expire_s = 0.0

    def begin(self) -> None:
        """Log the start and the rules; the wall stands, and the command has not run yet."""
        subject = self._subject
        now_ns = boot_ns()
        self._pump.emit(
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
        self._pump.emit(
            RulesApplied(
                key=self._enclosure.key,
                mono_ns=now_ns,
                generation=GENERATION,
                policy=subject.policy,
                tables=subject.tables,
            )
        )
        self._pump.emit(
            SignaturesApplied(
                key=self._enclosure.key,
                signatures=subject.search.signatures,
                table=self._enclosure.wall.signatures.generation,
                accepts=subject.search.accepts,
            )
        )
        self._ledger.flush()

    def run(self, sandboxed: Sandboxed, signals: SignalQueue) -> Ending:
        """Start the command, see it through, and log the end."""
        sandboxed.start()
        poller = select.poll()
        for source in (self._enclosure.wall, sandboxed, signals):
            poller.register(source.fileno(), select.POLLIN)
        if self._inside is not None:
            poller.register(self._inside.fileno(), select.POLLIN)
        while sandboxed.exit_code is None:
            wait_s = 0.0 if self._pump.is_holding else _CHECK_S
            ready = {descriptor for descriptor, _ in poller.poll(wait_s * 1000)}
            if signals.fileno() in ready:
                _pass_on(signals, sandboxed)
            if sandboxed.fileno() in ready:
                _mirror_stop(sandboxed)
            self._step()
        left_behind = self._name_others(sandboxed.pid)
        sandboxed.end()
        self._finish(sandboxed.exit_code, left_behind)
        return Ending(
            exit_code=sandboxed.exit_code,
            worst=self._ledger.worst,
            not_executed=sandboxed.not_executed,
            left_behind=left_behind,
        )

    def _step(self) -> None:
        self._pump.drain()
        if self._inside is not None:
            self._inside.tick()
        now_s = time.monotonic()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + _CHECK_S
            self._check()
        if now_s >= self._next_totals_s:
            self._next_totals_s = now_s + _TOTALS_S
            self._pump.drain_totals()
        if now_s >= self._next_expire_s:
            self._next_expire_s = now_s + _EXPIRE_S
            self._expire()
        self._responder.poll(now_s)
        self._ledger.flush()

    def _expire(self) -> None:
        # Only about room: what is over counts no longer, and the next time may do better.
        try:
            self._enclosure.wall.expire(boot_ns())
        except KernelError as err:
            logger.warning("learned addresses not cleared: %s", err)

    def _check(self) -> None:
        """Look at the counters and the links; that this fails is itself worth a record."""
        try:
            self._read_counters()
            what = self._enclosure.damage()
        except KernelError as err:
            what = str(err)
        if what and not self._is_damaged:
            self._is_damaged = True
            self._pump.emit(WallDamaged(key=self._enclosure.key, mono_ns=boot_ns(), what=what))

    def _read_counters(self) -> None:
        counters = self._enclosure.wall.counters(self._enclosure.key)
        self._pump.emit(
            CountersRead(key=self._enclosure.key, mono_ns=boot_ns(), **asdict(counters))
        )

    def _finish(self, exit_code: int, left_behind: Sequence[str]) -> None:
        # The kernel has no more to add once every process is gone, so this comes to an end.
        while self._pump.drain():
            self._ledger.flush()
        if self._inside is not None:
            self._inside.settle()
        self._pump.drain_totals()
        self._check()
        detail = {"exit_code": exit_code, "left_behind": list(left_behind)}
        self._pump.emit(SandboxFinished(key=self._enclosure.key, mono_ns=boot_ns(), detail=detail))
        self._ledger.flush()
        self._pump.close()
        self._responder.close()

    def _name_others(self, warden: int) -> tuple[str, ...]:
        pids = (pid for pid in self._enclosure.cgroup.pids() if pid != warden)
        return tuple(_name(pid) for pid in pids)

    def _stop(self, command: StopSandbox) -> None:
        stopped = self._responder.stop(command, self._enclosure.cgroup, time.monotonic())
        self._pump.emit(stopped)
        self._ledger.flush()
        thaw = stopped.detail.get("thaw")
        if thaw is not None:
            self._say(f"the command is frozen, for whoever looks into it; to let it go on: {thaw}")


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
