# SPDX-License-Identifier: Apache-2.0
"""The daemon: one loop that waits for the kernel, for runtimes, for people, and for files.

It starts with whatever an earlier daemon left standing and takes that over; it ends leaving the
wall as it is, unless it is told to take it down. Between the two nothing it does, or fails to do,
stands between a sandbox's packet and its verdict.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from agentwall.daemon.arguments import read_keep, read_wait
from agentwall.daemon.arrivals import Arrivals
from agentwall.daemon.building import build
from agentwall.daemon.callers import Caller
from agentwall.daemon.clock import boot_ns, offset_ns
from agentwall.daemon.connections import Deferred, Result
from agentwall.daemon.control import ControlServer
from agentwall.daemon.describe import Vitals
from agentwall.daemon.edition import Edition, Rejected, Request
from agentwall.daemon.refusals import Refusal
from agentwall.daemon.reload import EditionReader, Outcome
from agentwall.daemon.requests import Requests
from agentwall.daemon.snapshot import take_snapshot
from agentwall.daemon.watching import FileWatch
from agentwall.daemon.worker import Worker
from agentwall.engine.events import (
    Event,
    HostChanged,
    SandboxFinished,
    SandboxInspected,
    SandboxStarted,
)
from agentwall.errors import AgentwallError, ControlCode, ControlError, HostError
from agentwall.host import systemd

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_CLOCK_STEP_NS = 100_000_000
"""By which the wall clock was set, and not merely read a moment later."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Service:
    """The running daemon."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._reader = EditionReader(request)
        self._stack = ExitStack()
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._waiting: list[Deferred] = []
        self._later: list[Deferred] = []
        self._leaving: list[Deferred] = []
        self._again = False
        self._ending: str | None = None
        self._outcome: Outcome | None = None
        self._next_tick_s = 0.0
        self._watchdog_s = systemd.watchdog_interval_s(os.environ, os.getpid())
        self._next_beat_s = 0.0
        self._offset_ns = offset_ns()
        self._started_ns = time.time_ns()

    def run(self) -> Rejected | None:
        """Serve until told to stop.

        Returns:
            Why there is no edition to start with: what stood before stands.

        Raises:
            HostError: Another daemon runs; not root; no cgroup v2.
            KernelError: The wall cannot be loaded, or cannot take over an earlier one.
        """
        found = self._reader.wait()
        if isinstance(found, Rejected):
            return found
        with self._stack:
            self._start(found)
            while self._ending is None:
                self._step()
            self._stop()
        return None

    # --- Start and end ------------------------------------------------------------------------

    def _start(self, edition: Edition) -> None:
        self._listen_to_signals()
        self._stack.callback(self._reader.close)
        self._parts = parts = build(edition, self._stack)
        self._say("started", parts.report)
        worker = Worker()
        self._stack.callback(worker.close)
        self._watch(worker.fileno(), worker.step)
        self._inside = parts.inside
        self._watch(self._inside.fileno(), self._inside.step)
        self._begin_inside()
        self._arrivals = Arrivals(parts, edition.config, worker)
        self._stack.callback(self._arrivals.close)
        self._watch(self._arrivals.fileno(), self._arrivals.step)
        self._requests = Requests(parts, self._arrivals, self.vitals, self._inside)
        self._server = ControlServer(
            [each.socket for each in parts.sockets],
            parts.groups,
            self._handle,
            is_inside=parts.is_inside,
            on_refusal=self._refused,
        )
        self._stack.callback(self._server.close)
        self._server.register(self._poller)
        self._files = FileWatch(edition)
        self._stack.callback(self._files.close)
        self._watch(self._files.fileno(), self._files_changed)
        self._poller.register(parts.keeper.wall.fileno(), select.POLLIN)
        self._arrivals.begin()
        parts.pump.drain()
        parts.outlets.flush()
        systemd.notify(ready=True, status=self._summary())
        logger.info("ready: %s", self._summary())

    def _begin_inside(self) -> None:
        """Begin to read inside TLS, once the wall's maps are pinned where they stay."""
        keeper, inside = self._parts.keeper, self._inside
        if inside.is_begun or not keeper.is_settled:
            return
        emit = keeper.emit

        def hear(event: Event) -> None:
            emit(event)
            match event:
                case SandboxStarted() | SandboxInspected():
                    member = keeper.members.get(event.key)
                    inside.admit(event.key, member.cgroup.pids() if member is not None else ())
                case SandboxFinished():
                    inside.release(event.key)

        keeper.emit = hear
        for member in keeper.members:
            inside.admit(member.key, member.cgroup.pids())
        inside.start()
        inside.require()

    def _listen_to_signals(self) -> None:
        receive, send = socket.socketpair()
        for end in (receive, send):
            end.setblocking(False)
            self._stack.callback(end.close)
        self._received: set[int] = set()
        before = {each: signal.signal(each, self._note_signal) for each in _SIGNALS}
        signal.set_wakeup_fd(send.fileno(), warn_on_full_buffer=False)
        self._stack.callback(lambda: [signal.signal(*each) for each in before.items()])
        self._stack.callback(signal.set_wakeup_fd, -1)
        self._wakeups = receive
        self._watch(receive.fileno(), self._woken)

    def _woken(self) -> None:
        self._wakeups.recv(4096)

    def _note_signal(self, number: int, _frame: object) -> None:
        self._received.add(number)

    def _stop(self) -> None:
        systemd.notify(stopping=True)
        parts = self._parts
        parts.pump.settle()
        self._inside.settle()
        parts.pump.drain_totals()
        if self._ending == "detach":
            parts.take_down()
        self._say("stopped", {"wall": "taken down" if self._ending == "detach" else "stands"})
        for deferred in self._leaving:
            deferred.complete({"stopped": True})
        logger.info("stopped; the wall %s", "is down" if self._ending == "detach" else "stands")

    # --- The loop ------------------------------------------------------------------------------

    def _step(self) -> None:
        parts = self._parts
        wall, rest_s = parts.keeper.wall.fileno(), parts.pump.rest_s()
        # While it rests, events wait in the kernel, and everybody else is served.
        self._poller.modify(wall, 0 if rest_s else select.POLLIN)
        rest_s = rest_s or (0.0 if parts.pump.is_holding else _TICK_S)
        wait_s = min(rest_s, max(0.0, self._next_tick_s - time.monotonic()))
        found = self._poller.poll(wait_s * 1000 + 1)
        self._inside.give_way(True)
        for fd, events in found:
            if fd == wall:
                parts.pump.drain()
            elif fd in self._handlers:
                self._guarded(self._handlers[fd])
            elif self._server.owns(fd):
                self._server.ready(fd, events)
        if parts.pump.is_holding and not parts.pump.rest_s():
            parts.pump.drain()
        self._act_on_signals()
        now_s = time.monotonic()
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + _TICK_S
            self._tick(now_s)
        parts.outlets.flush()
        self._inside.give_way(False)

    def _guarded(self, action: Callable[[], None]) -> None:
        # What one source does wrong must not keep the others from being served.
        try:
            action()
        except (AgentwallError, OSError) as err:
            logger.warning("%s", err)
            self._say("problem", {"what": str(err)})

    def _tick(self, now_s: float) -> None:
        parts = self._parts
        self._guarded(parts.upkeep.tick)
        self._guarded(self._arrivals.tick)
        self._guarded(self._begin_inside)
        self._guarded(self._inside.tick)
        if parts.sinks.is_scraped:
            parts.sinks.published = take_snapshot(
                parts.keeper, self.vitals(), parts.sinks, self._inside
            )
        parts.responder.poll()
        self._see_clock()
        reading = self._reader.fileno()
        late = self._reader.expire(now_s)
        if late is not None:
            self._unwatch(reading)
            self._take(late)
        if self._files.is_due(now_s):
            self._begin_reload("files changed")
        if self._watchdog_s is not None and now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self._watchdog_s / 2
            systemd.notify(watchdog=True, status=self._summary())

    def _see_clock(self) -> None:
        """Tell when somebody has set the clock: times of events are UTC again from then on."""
        before, self._offset_ns = self._offset_ns, offset_ns()
        moved_ns = self._offset_ns - before
        if abs(moved_ns) > _CLOCK_STEP_NS:
            logger.warning("the clock was set by %.3f s", moved_ns / 1e9)
            self._say("clock-set", {"by_s": round(moved_ns / 1e9, 3)})

    def _act_on_signals(self) -> None:
        received, self._received = self._received, set()
        if received & {signal.SIGTERM, signal.SIGINT}:
            self._ending = "stop"
        if signal.SIGHUP in received:
            self._begin_reload("SIGHUP")

    def _watch(self, fd: int, action: Callable[[], None]) -> None:
        self._handlers[fd] = action
        self._poller.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poller.unregister(fd)

    # --- Reload --------------------------------------------------------------------------------

    def _files_changed(self) -> None:
        self._files.read()

    def _begin_reload(self, why: str) -> None:
        if self._reader.is_busy:
            self._again = True
            return
        logger.info("reload: %s", why)
        systemd.notify(reloading=True)
        self._files.settle()
        try:
            self._reader.start()
        except HostError as err:
            self._take(Rejected(problems=(str(err),), is_usage=False))
            return
        fd = self._reader.fileno()
        self._watch(fd, lambda: self._read_on(fd))

    def _read_on(self, fd: int) -> None:
        found = self._reader.step()
        if found is not None:
            self._unwatch(fd)
            self._take(found)

    def _take(self, found: Edition | Rejected) -> None:
        self._parts.pump.settle()  # it was said under the edition before
        outcome = self._outcome = self._parts.install(found)
        detail = {"what": outcome.what, "problems": list(outcome.problems)}
        self._say("reloaded" if outcome.applied else "reload-failed", detail)
        if isinstance(found, Edition) and outcome.applied:
            self._files.renew(found)
            self._guarded(lambda: self._arrivals.renew(found.config))
        log = logger.info if outcome.applied else logger.warning
        log("reload: %s", "; ".join((outcome.what, *outcome.problems)))
        systemd.notify(ready=True, status=self._summary())
        waiting, self._waiting = self._waiting, self._later
        self._later = []
        for deferred in waiting:
            deferred.complete(
                {
                    "applied": outcome.applied,
                    "what": outcome.what,
                    "problems": list(outcome.problems),
                }
            )
        if self._again:
            self._again = False
            self._begin_reload("asked again meanwhile")

    # --- Requests ------------------------------------------------------------------------------

    def _handle(
        self, caller: Caller, name: str, arguments: Mapping[str, object]
    ) -> Result | Deferred:
        match name:
            case "reload":
                return self._reload(caller, wait=read_wait(arguments))
            case "stop":
                if not read_keep(arguments):
                    raise ControlError(
                        ControlCode.INVALID, "keep: expected true; detach takes down"
                    )
                return self._end("stop", caller)
            case "detach":
                return self._end("detach", caller)
            case _:
                return self._requests.answer(caller, name, arguments)

    def _reload(self, caller: Caller, *, wait: bool) -> Result | Deferred:
        # What is being read by now may have been read before it was changed.
        queue = self._later if self._reader.is_busy else self._waiting
        deferred = Deferred()
        if wait:
            queue.append(deferred)
        self._begin_reload(f"{caller} asked")  # which may be over at once
        return deferred if wait else {"applied": None, "what": "begun", "problems": []}

    def _end(self, how: str, caller: Caller) -> Deferred:
        logger.info("%s: %s asked", how, caller)
        self._say("ending", {"how": how, "by": str(caller)})
        self._ending = how
        deferred = Deferred()
        self._leaving.append(deferred)
        return deferred

    def _refused(self, refusal: Refusal) -> None:
        self._say("request-refused", {"what": str(refusal)})

    # --- What is said of it ---------------------------------------------------------------------

    def vitals(self) -> Vitals:
        """Return what status needs to know of the daemon."""
        parts = self._parts
        return Vitals(
            started_ns=self._started_ns,
            lost=parts.outlets.lost,
            log=parts.describe_log(),
            last_check_ns=parts.upkeep.last_ns,
            problems={
                **parts.upkeep.problems,
                **parts.problems,
                **self._arrivals.problems,
                **self._files.problems,
            },
            reload=self._outcome,
            unbound=self._arrivals.unbound(),
            scope_problems=parts.scope_problems,
        )

    def _summary(self) -> str:
        keeper = self._parts.keeper
        total = sum(1 for _ in keeper.members.sandboxes())
        return f"{total} sandboxes, {len(keeper.rules.edition.policies)} policies"

    def _say(self, state: str, detail: Mapping[str, object]) -> None:
        now_ns = boot_ns()
        self._parts.pump.emit(
            HostChanged(
                mono_ns=now_ns,
                clock_offset_ns=offset_ns(),
                state=state,
                detail=detail,
            )
        )
