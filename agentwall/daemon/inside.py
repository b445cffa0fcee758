# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS: probes compiled, libraries found, and who is read and who is not.

The kernel reads and cuts off; what is here only puts the probes where libraries are, and they stay
there when this process ends. What may wait (files of a sandbox, taking probes off) another thread
does, which may hang without anybody else doing so. If bcc or the kernel refuses, that is said, and
everything else works.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from agentwall.daemon import former_probes
from agentwall.daemon.config import TlsSettings
from agentwall.daemon.inside_state import InsideState, KeptUp, SandboxReadings, TlsUse
from agentwall.daemon.looks import Looks
from agentwall.daemon.preparations import Then
from agentwall.daemon.probed import probed_libraries, with_counts, with_probed
from agentwall.daemon.provision import Provision
from agentwall.daemon.side_thread import SideThread
from agentwall.daemon.speakers import Speakers, Told
from agentwall.errors import AgentwallError, KernelError, ProbesRefusedError
from agentwall.flow.record import Process, SandboxKey
from agentwall.flow.tls import HelloSeen, TlsReading
from agentwall.host.process import living
from agentwall.kernel import pins
from agentwall.kernel.wall import Wall
from agentwall.probes.attached import Attached
from agentwall.probes.finding import Finder
from agentwall.probes.loading import Programs
from agentwall.probes.mapped import MappedFiles
from agentwall.probes.starting import Start

logger = logging.getLogger(__name__)

_AT_ONCE = 256
"""Mappings taken at a time."""
_UPKEEP_S = 5.0
_CLOSED_EACH_TIME = 8
"""Probes taken off after one round of upkeep, 0.1 s each; whatever else there is comes before."""
_PATIENCE_S = 3.0
"""For what a sandbox may delay."""
_SETTLED_S = 30.0
"""For all that is installed where a sandbox is: a second or two."""
_HANGS_S = 10.0
"""So long at one thing, and it is said that nothing goes on."""


class Inside:
    """Reads inside TLS, or says why not. All but its own thread's work is for one thread."""

    def __init__(
        self,
        wall: Wall,
        place: Path,
        settings: TlsSettings,
        *,
        sandbox_of: Callable[[int], SandboxKey | None],
        why_off: str = "tls.inspect: off",
        provision: Provision | None = None,
    ) -> None:
        """Nothing is compiled or probed before :meth:`start`.

        Args:
            wall: Loaded and pinned.
            place: The directory of its pins.
            settings: Whether at all, and how many libraries.
            sandbox_of: In which sandbox a process is; None: in none.
            why_off: What is said where *settings* turn it off.
            provision: Started by somebody who knew early; None: :meth:`start` starts one.
        """
        self._wall = wall
        self._place = place
        self._settings = settings
        self.tell: Told = _untold
        """Called with each hello, at once or later."""
        self._thread = SideThread("agentwall-inside")
        self._speakers = Speakers(sandbox_of, lambda *told: self.tell(*told))
        self._poller = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.is_begun = False
        """:meth:`start` was called."""
        self._provision = provision
        self._mapped: MappedFiles | None = None
        self._finder: Finder | None = None
        self._programs: Programs | None = None
        self._is_upkept = True
        self._next_s = 0.0
        self._clock_offset_ns = time.time_ns() - time.monotonic_ns()
        self._state = InsideState(
            state="off" if settings.inspect is TlsUse.OFF else "starting",
            reason=why_off if settings.inspect is TlsUse.OFF else None,
            max_libraries=settings.max_libraries,
        )

    # --- Start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load, or to compile; :meth:`step` goes on with it. Never raises."""
        self.is_begun = True
        self._on(self._thread.fileno(), self._thread.step)
        if self._settings.inspect is TlsUse.OFF:
            former_probes.take_off(former_probes.directories(self._place), self._thread)
            return
        try:
            self._wall.plain.open()
            # Before all else: what is mapped while it compiles is looked at afterwards.
            self._watch_mappings()
            provision = self._provision
            if provision is None:
                provision = self._provision = Provision()
                provision.start()
            provision.load_for(self._place / pins.MAPS)
        except AgentwallError as err:
            self._end_provision()
            self._refuse(str(err))
            return
        self._on(provision.fileno(), self._provided)

    def _watch_mappings(self) -> None:
        try:
            self._mapped = MappedFiles(users=self._speakers.readings.pids)
        except KernelError as err:
            logger.warning("inside TLS: libraries are found when they are used: %s", err)
            return
        self._on(self._mapped.fileno(), lambda: None)  # read at each step

    def wait(self) -> None:
        """Wait until it reads, or cannot; a compilation that hangs is ended by its own limit."""
        while self._state.state == "starting":
            self._poller.poll(0.2)
            self.step()

    def settle(self) -> None:
        """Wait until what was asked for so far is done, unless a sandbox delays it.

        Hellos that were to be told by then have been.
        """
        if self._finder is not None:
            done: list[bool] = []
            deadline_s = time.monotonic() + _SETTLED_S
            self._thread.run(lambda: True, done.append)
            while not done or self._speakers.is_settling:
                if self._thread.busy_s() > _PATIENCE_S or time.monotonic() > deadline_s:
                    break
                self._poller.poll(0.2)
                self.step()
        self._speakers.waiting.tell_all()
        self._speakers.preparations.tell_all()

    def require(self) -> None:
        """Wait, and raise if it does not read though the settings require it.

        Raises:
            ProbesRefusedError: Why it does not.
        """
        if self._settings.inspect is not TlsUse.REQUIRE:
            return
        self.wait()
        if self._state.state != "on":
            raise ProbesRefusedError(f"inside TLS: {self._state.reason}")

    def _provided(self) -> None:
        provision = self._provision
        if provision is None:
            return
        try:
            programs = provision.result()
            if programs is None:
                return
            self._end_provision()
            self._begin(programs, is_kept=provision.is_kept)
        except AgentwallError as err:
            self._end_provision()
            self._refuse(str(err))

    def _begin(self, programs: Programs, *, is_kept: bool) -> None:
        """Probe what is mapped, and what will be.

        Raises:
            KernelError: Probes cannot be pinned.
        """
        former = former_probes.directories(self._place)
        own = self._place / former_probes.PINS / str(time.monotonic_ns())
        try:
            own.parent.mkdir(mode=0o700, exist_ok=True)
            attached = Attached(programs.fds, max_libraries=self._settings.max_libraries, pins=own)
        except (KernelError, OSError) as err:
            programs.close()
            raise KernelError(err.errno or 0, f"{own}: {err}") from err
        self._programs, self._finder = programs, Finder(attached)
        compile_s = None if is_kept else programs.compile_s
        self._state = replace(self._state, state="on", bcc=programs.bcc, compile_s=compile_s)
        logger.info("inside TLS: read (bcc %s%s)", programs.bcc, ", kept" if is_kept else "")
        self._speakers.begin(Looks(self._thread, self._finder))
        # An earlier daemon's probes go when the new ones are there: until then each call that both
        # see is counted once.
        former_probes.take_off(former, self._thread)

    def _refuse(self, why: str) -> None:
        if former_probes.directories(self._place):
            # Better than nothing, and nobody could put them back.
            why = f"{why}; what an earlier daemon probed is read on"
        self._state = replace(self._state, state="refused", reason=why)
        self._speakers.give_up()
        if self._mapped is not None:
            self._off(self._mapped.fileno())
            self._mapped.close()
            self._mapped = None
        logger.info("inside TLS: not read: %s", why)

    def _end_provision(self) -> None:
        if self._provision is not None:
            self._off(self._provision.fileno())
            self._provision.close()
            self._provision = None

    def close(self, *, keep: bool) -> None:
        """Give everything back; *keep*: probes stay where they are, for whoever comes next.

        A thread that hangs keeps what it uses until this process ends.
        """
        if self._poller.closed:
            return
        self._end_provision()
        has_ended = self._thread.close(_PATIENCE_S)
        if self._finder is not None and has_ended:
            if keep:
                self._finder.attached.keep()
            else:
                self._finder.attached.close()
        elif self._finder is not None and not keep:
            former_probes.remove(self._place)
        if self._mapped is not None:
            self._mapped.close()
        if self._programs is not None and has_ended:
            self._programs.close()
        self._poller.close()

    # --- The loop -----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something for :meth:`step`."""
        return self._poller.fileno()

    def step(self) -> None:
        """Go on with whatever is ready; does not block."""
        for fd, _ in self._poller.poll(0):
            if fd in self._handlers:
                self._handlers[fd]()
        # perf tells each look at its descriptor apart, also those of a poller at another poller's:
        # whoever called this may have been told what is not told here again.
        if self._mapped is not None:
            self._read_mapped()
        if self._provision is not None and time.monotonic() > self._provision.deadline_s:
            self._provided()

    def give_way(self, is_busy: bool) -> None:
        """Take whether the loop has something to do: what nobody waits for gives way to it."""
        self._thread.is_loop_busy = is_busy

    def tick(self) -> None:
        """:meth:`step`, and do what is due every few seconds."""
        self.step()
        now_s = time.monotonic()
        self._speakers.waiting.tell_overdue(now_s)
        self._speakers.preparations.tell_overdue(now_s)
        if now_s < self._next_s:
            return
        self._next_s = now_s + _UPKEEP_S
        if self._is_upkept and self._state.state == "on":
            self._is_upkept = False
            self._thread.run(self._keep_up, self._kept_up, failed=self._keep_up_failed)

    def _on(self, fd: int, action: Callable[[], None]) -> None:
        self._handlers[fd] = action
        self._poller.register(fd, select.EPOLLIN)

    def _off(self, fd: int) -> None:
        # Whoever has closed it has taken it out of the poller as well.
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._poller.unregister(fd)

    def _read_mapped(self) -> None:
        assert self._mapped is not None
        mapped = self._mapped.read(_AT_ONCE)
        self._speakers.see(mapped={each.pid for each in mapped}, ended=self._mapped.ended())

    def _keep_up(self) -> KeptUp:
        finder, mapped = self._finder, self._mapped
        assert finder is not None
        # Before processes are listed: what is lost meanwhile, and may be of a new one, is for the
        # next time.
        lost = mapped.lost if mapped is not None else 0
        try:
            self._wall.plain.sweep(living)
        except KernelError as err:
            logger.warning("inside TLS: connections of ended processes not forgotten: %s", err)
        finder.attached.expire(time.monotonic())
        there = living()
        return KeptUp(
            libraries=probed_libraries(finder.attached, self._clock_offset_ns),
            changed=finder.attached.take_changed(),
            there=there,
            missed=self._speakers.missed(lost, there),
        )

    def _kept_up(self, found: KeptUp) -> None:
        assert self._finder is not None
        for _ in range(_CLOSED_EACH_TIME if self._finder.attached.close_some(0) else 0):
            self._thread.run(self._finder.attached.close_some, may_wait=True)
        self._is_upkept = True
        self._speakers.see_who_is_gone(found.there)
        self._speakers.look_again(found.changed)
        self._speakers.see(mapped=found.missed)
        if displaced := self._finder.attached.displaced - self._state.displaced:
            what = "inside TLS: libraries gave way to those of sandboxes with fewer: %d of %d"
            logger.warning(what, displaced, self._state.max_libraries)
        self._state = with_probed(self._state, found.libraries, self._finder)

    def _keep_up_failed(self) -> None:
        self._is_upkept = True

    # --- Sandboxes and processes ----------------------------------------------------------------

    def admit(self, key: SandboxKey, pids: Iterable[int]) -> None:
        """Look at the processes of a sandbox that is behind the wall now."""
        self._speakers.admit(key, pids)

    def prepare(
        self, key: SandboxKey, pid: int, start: Start | None, then: Then | None = None
    ) -> bool:
        """Probe what a process of a sandbox is likely to map, before it goes on.

        Args:
            key: Of a sandbox that was admitted.
            pid: Of the process, which waits.
            start: What it is about to do, where that is known.
            then: Called once, soon: a file that hangs is not waited for.

        Returns:
            Whether *then* is going to be called, or was: not where nothing is read inside TLS.
        """
        if not self.is_begun or self._state.state not in ("on", "starting"):
            return False
        self._speakers.prepare(key, pid, start, then or (lambda _: None))
        return True

    def release(self, key: SandboxKey) -> None:
        """Forget a sandbox."""
        self._speakers.release(key)

    def hello(self, hello: HelloSeen, process: Process | None) -> None:
        """Take a ClientHello that left a sandbox; it is told with what is found of its process.

        At once where it is read, so that a match that follows can say whom it was said to; else
        when its process has been looked at, or a few seconds later if that takes longer.
        """
        self._speakers.hello(hello, process)

    # --- What is said of it ---------------------------------------------------------------------

    def state(self) -> InsideState:
        """Return how it stands."""
        state = self._state
        hangs_s = self._thread.busy_s()
        if state.state == "on" and hangs_s >= _HANGS_S:
            why = f"a file or process of a sandbox has kept the search waiting for {hangs_s:.0f} s"
            state = replace(state, reason=f"nothing new is read: {why}")
        with contextlib.suppress(KernelError):
            state = with_counts(state, self._wall.plain.counts())
        return state

    def readings(self, key: SandboxKey) -> SandboxReadings | None:
        """Return whose text is read in a sandbox; None: nobody has spoken or mapped anything."""
        return self._speakers.readings.describe(key)


def _untold(_hello: HelloSeen, _process: Process | None, _reading: TlsReading | None) -> None:
    pass
