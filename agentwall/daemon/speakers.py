# SPDX-License-Identifier: Apache-2.0
"""Who is in the sandboxes and may speak TLS: who is looked at when, and what is told of a hello."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Set
from dataclasses import replace
from functools import partial

from agentwall.daemon.looks import Looks
from agentwall.daemon.preparations import Preparations, Then
from agentwall.daemon.probed import reading_of_session
from agentwall.daemon.readings import Readings
from agentwall.daemon.waiting import Waiting
from agentwall.flow.record import Process, SandboxKey
from agentwall.flow.tls import HelloSeen, TlsReading, Unread
from agentwall.probes.finding import Look
from agentwall.probes.starting import Start

MOST_ADMITTED = 1024
"""Processes of a sandbox that are looked at when it is admitted; others when they speak TLS."""
WAIT_S = 5.0
"""How long a hello waits for what is found of its process."""
_OFF = TlsReading(library=None, path=None, unread=Unread.OFF)
_UNSEEN = TlsReading(library=None, path=None, unread=Unread.UNREADABLE)

Told = Callable[[HelloSeen, Process | None, TlsReading | None], None]
"""Takes a hello with what is known of its process."""


class Speakers:
    """The sandboxes that are behind the wall, and those of their processes that are of interest.

    Until :meth:`begin` there is nothing to look with, and it is remembered who is to be looked at.
    """

    def __init__(self, sandbox_of: Callable[[int], SandboxKey | None], tell: Told) -> None:
        """Begin with none.

        Args:
            sandbox_of: In which sandbox a process is; None: in none.
            tell: Called with each hello, once.
        """
        self._sandbox_of = sandbox_of
        self._tell = tell
        self.readings = Readings()
        self.waiting: Waiting[TlsReading] = Waiting(WAIT_S)
        self.preparations = Preparations()
        self._looks: Looks | None = None
        # A process in whose root the sandbox's libraries were looked for; 0: there is none yet.
        self._sandboxes: dict[SandboxKey, int] = {}
        self._early: dict[SandboxKey, dict[int, None]] | None = {}
        self._starts: list[Callable[[Looks], None]] = []
        self._lost = 0

    def begin(self, looks: Looks) -> None:
        """Look at whoever was to be, and from now on at once."""
        early, self._early = self._early or {}, None
        self._looks = looks
        starts, self._starts = self._starts, []
        for each in starts:
            each(looks)
        for key, pids in early.items():
            for pid in pids:
                looks.look_once(key, pid, self._noted)
        for key, pid in self._sandboxes.items():
            if pid:
                looks.prepare(key, pid, lambda key=key: key in self._sandboxes)  # type: ignore[misc]

    @property
    def is_settling(self) -> bool:
        """Whether what is installed somewhere is still being probed."""
        return self._looks is not None and self._looks.is_preparing

    def give_up(self) -> None:
        """Look at nobody."""
        self._early = None
        self._starts.clear()
        self.preparations.tell_all()

    def admit(self, key: SandboxKey, pids: Iterable[int]) -> None:
        """Look at the processes of a sandbox."""
        found = list(pids)[:MOST_ADMITTED]
        self._sandboxes.setdefault(key, 0)
        for pid in found:
            self._see(key, pid)

    def prepare(self, key: SandboxKey, pid: int, start: Start | None, then: Then) -> None:
        """Probe what is installed where a process of a sandbox starts, before anything else.

        Args:
            key: Of the sandbox, which has been admitted.
            pid: Of the process, which waits.
            start: What it is about to do.
            then: Called once: when that is done, or takes too long.
        """
        done = self.preparations.add(then)

        def begin(looks: Looks) -> None:
            is_wanted = partial(self._sandboxes.__contains__, key)
            looks.prepare(key, pid, is_wanted, start=start, prepared=done)

        if self._looks is not None:
            is_hanging = self._looks.is_hanging
            begin(self._looks)
            if is_hanging:
                self.preparations.tell_all()
        elif self._early is not None:
            self._starts.append(begin)
        else:
            self.preparations.tell_all()

    def release(self, key: SandboxKey) -> None:
        """Forget a sandbox."""
        self._sandboxes.pop(key, None)
        if self._early is not None:
            self._early.pop(key, None)
        self.readings.forget(key)
        if self._looks is not None:
            self._looks.release(key)

    def missed(self, lost: int, there: Iterable[int]) -> set[int]:
        """Return which processes to look at because something may have been mapped unseen.

        For the thread that looks: it asks for the cgroup of each.

        Args:
            lost: How many records of mappings were lost so far.
            there: All processes of the host.

        Returns:
            Those of sandboxes, or none where no more were lost than the last time.
        """
        if lost == self._lost:
            return set()
        self._lost = lost
        return {pid for pid in there if self._sandbox_of(pid) is not None}

    def see(self, *, mapped: Collection[int], ended: Collection[int] = ()) -> None:
        """Take which processes have mapped a library, and which have ended."""
        if not (mapped or ended):
            return
        for pid in mapped:
            key = self._sandbox_of(pid)
            # Of a sandbox that is not admitted yet the processes are looked at when it is.
            if key is not None and key in self._sandboxes:
                # It is about to use it, and nothing may have been probed that it uses.
                self._see(key, pid, is_awaited=True)
        self._drop(self.readings.ended(ended))

    def look_again(self, users: Iterable[Hashable]) -> None:
        """Look at processes whose libraries are read no longer, or read now.

        Args:
            users: Of :class:`agentwall.probes.attached.Attached`: sandbox and process.
        """
        for user in users:
            if not isinstance(user, tuple) or self._looks is None:
                continue
            key, pid = user
            if pid and self.readings.pids.get(pid) == key and key in self._sandboxes:
                self._looks.look_once(key, pid, self._noted)

    def see_who_is_gone(self, there: Set[int]) -> None:
        """Forget processes whose end nobody told; *there*: those that there were a moment ago."""
        self._drop(self.readings.gone(there))

    def _see(self, key: SandboxKey, pid: int, *, is_awaited: bool = False) -> None:
        is_first = not self._sandboxes[key]
        if is_first:
            self._sandboxes[key] = pid
        if self._looks is not None:
            self._looks.look_once(key, pid, self._noted, is_awaited=is_awaited)
            if is_first:
                self._looks.prepare(key, pid, lambda: key in self._sandboxes)
        elif self._early is not None:
            early = self._early.setdefault(key, {})
            if len(early) < MOST_ADMITTED:
                early[pid] = None

    def _drop(self, ended: list[tuple[SandboxKey, list[int]]]) -> None:
        if self._looks is not None:
            self._looks.drop(ended)

    def _noted(self, key: SandboxKey, look: Look) -> None:
        # Who maps no library and has said nothing is of no interest yet.
        if key in self._sandboxes and (look.is_user or look.reading.path is not None):
            self._note(key, look)
        if look.is_elsewhere and self._looks is not None:
            # It has another root than when the sandbox was admitted, as a container soon has.
            self._looks.prepare(key, look.pid, partial(self._sandboxes.__contains__, key))

    def _note(self, key: SandboxKey, look: Look) -> None:
        before = self.readings.note(key, look)
        if before is not None:
            self._drop([(before, [look.pid])])

    def hello(self, hello: HelloSeen, process: Process | None) -> None:
        """Take a ClientHello: it is told once, at once where it is read, and is counted."""
        key, pid = hello.attempt.sandbox, hello.attempt.task.pid
        known = self.readings.of(key, pid)
        is_known = known is not None and known.library is hello.library
        if hello.library is not None:
            path = known.path if known is not None and is_known else None
            self._tell(hello, process, TlsReading(library=hello.library, path=path, unread=None))
        looks = self._looks
        if looks is not None and not is_known and key in self._sandboxes and not looks.is_busy:
            self._look(looks, hello, process, known)
            return
        if key in self._sandboxes:
            self.readings.count(key, pid, hello.is_joined)
        if hello.library is None:
            self._tell(hello, process, known or (_OFF if looks is None else _UNSEEN))

    def _look(
        self, looks: Looks, hello: HelloSeen, process: Process | None, known: TlsReading | None
    ) -> None:
        """Look at who said *hello*, and then tell it unless that was done."""
        number = None
        if hello.library is None:
            number = self.waiting.add(
                lambda reading: self._tell(hello, process, reading or known or _UNSEEN)
            )

        def found(key: SandboxKey, look: Look) -> None:
            reading = reading_of_session(look.reading, hello)
            if key in self._sandboxes:
                self._note(key, replace(look, reading=reading))
                self.readings.count(key, look.pid, hello.is_joined)
            if number is not None:
                self.waiting.tell(number, reading)

        key, pid = hello.attempt.sandbox, hello.attempt.task.pid
        looks.look(key, pid, found, is_awaited=number is not None)
