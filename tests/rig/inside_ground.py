# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS at work behind a real wall, without the loop around it."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from agentwall.daemon.config import TlsSettings
from agentwall.daemon.enclosure import Enclosure
from agentwall.daemon.inside import Inside
from agentwall.daemon.plan import RunRequest, new_run_id, plan_enclosure
from agentwall.daemon.side_thread import SideThread
from agentwall.flow.record import Process, SandboxKey
from agentwall.flow.tls import HelloSeen, TlsReading
from agentwall.host.cgroup import path_of
from agentwall.host.identity import resolve_identity
from agentwall.host.process import living
from agentwall.policy.load import load_policy
from agentwall.probes import compiling
from agentwall.probes.mapped import MappedFiles
from rig.cgroup import in_cgroup
from rig.process import stop

POLICY = "version: 1\nallow: [{cidr: 127.0.0.1, ports: [any]}]\n"
PATIENCE_S = 60.0
LONG_S = 120.0
"""For many processes, and for what hangs."""
_RING_BYTES = 8 << 20
"""For what all processes of the machine map while a test waits for something else: a loop does not,
and has less."""


@dataclass(slots=True)
class Ground:
    """One sandbox, and what reads inside its TLS."""

    enclosure: Enclosure
    inside: Inside
    told: list[tuple[HelloSeen, TlsReading | None]] = field(default_factory=list)
    """Hellos, in the order in which they were told."""

    @property
    def key(self) -> SandboxKey:
        """The sandbox's."""
        return self.enclosure.key

    @property
    def cgroup(self) -> Path:
        """The sandbox's."""
        return self.enclosure.cgroup.directory

    def go_on(self, until: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Do what the loop does until something holds.

        Raises:
            TimeoutError: It did not.
        """
        deadline_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline_s:
                raise TimeoutError("expected something to hold, and it does not")
            select.select([self.inside.fileno()], [], [], 0.05)
            self.inside.step()
            self.inside.tick()

    def keep_up(self, until: Callable[[], object]) -> None:
        """:meth:`go_on`, with one round of upkeep after another: else they are seconds apart."""

        def has_come() -> object:
            self.inside._next_s = 0.0
            return until()

        self.go_on(has_come)

    def settle(self) -> None:
        """Go on until all is done that was asked for so far, however busy the machine is.

        Then hellos that were to be told by then have been.
        """
        done: list[bool] = []
        self.inside._thread.run(lambda: True, done.append)
        self.go_on(lambda: done and not self.inside._speakers.is_settling)
        self.inside.settle()

    def see_who_is_gone(self) -> None:
        """Have processes forgotten that have ended, without waiting for a round of upkeep."""
        self.settle()
        self.inside._speakers.see_who_is_gone(living())
        self.settle()

    def hear(self) -> None:
        """Take the hellos that have left."""
        for each in self.enclosure.wall.excerpts():
            if isinstance(each, HelloSeen):
                self.inside.hello(each, None)

    def reading_of(self, pid: int) -> TlsReading | None:
        """Return what is known of a process; None: nothing."""
        found = self.inside.readings(self.key)
        known = {each.pid: each.reading for each in found.processes} if found else {}
        return known.get(pid)

    @contextmanager
    def running(self, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Run a command in the sandbox until the block ends; it has said a line by then."""
        child = subprocess.Popen(
            in_cgroup(self.cgroup, *map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert child.stdout is not None, "it is a pipe"
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            stop(child)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()


@contextmanager
def hanging(thread: SideThread) -> Iterator[threading.Event]:
    """Have *thread* hang until the event is set; whoever waits for it all the same waits long."""
    begun, gate = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait(LONG_S)

    thread.run(hang)
    try:
        assert begun.wait(LONG_S), "it does nothing else"
        yield gate
    finally:
        gate.set()


def make_enclosure(directory: Path) -> Enclosure:
    """Build the enclosure of a run of nothing."""
    path = directory / f"policy-{time.monotonic_ns()}.yaml"
    path.write_text(POLICY)
    request = RunRequest(
        argv=("/bin/true",),
        environment=dict(os.environ),
        policy=load_policy(path),
        mode=None,
        identity=resolve_identity(None, {}),
        labels={},
        kept_capabilities=(),
        inherited=(),
        events=str(path.with_suffix(".jsonl")),
        report=None,
        requires_full=False,
    )
    return Enclosure(plan_enclosure(new_run_id(), request, path.with_suffix(".jsonl")))


@contextmanager
def inside_ground(directory: Path) -> Iterator[Ground]:
    """Put a sandbox behind a wall; reading inside its TLS is for the caller to start."""
    enclosure = make_enclosure(directory)
    try:
        with reading_inside(enclosure, enclosure.pin_dir, TlsSettings()) as ground:
            yield ground
    finally:
        enclosure.remove()


@contextmanager
def ground_that_reads(directory: Path) -> Iterator[Ground]:
    """Put a sandbox behind a wall, whose TLS is read; skip the test where it cannot be."""
    if reason := compiling.why_not():
        pytest.skip(reason)
    with inside_ground(directory) as ground:
        ground.inside.start()
        ground.inside.wait()
        yield ground


@contextmanager
def reading_inside(enclosure: Enclosure, place: Path, settings: TlsSettings) -> Iterator[Ground]:
    """Make what reads inside the TLS of an enclosure, whose pins are taken to be at *place*."""
    path = enclosure.cgroup.path

    def sandbox_of(pid: int) -> SandboxKey | None:
        return enclosure.key if f"{path_of(pid)}/".startswith(f"{path}/") else None

    inside = Inside(enclosure.wall, place, settings, sandbox_of=sandbox_of)
    ground = Ground(enclosure, inside)
    roomy = partial(MappedFiles, ring_bytes=_RING_BYTES)

    def tell(hello: HelloSeen, process: Process | None, reading: TlsReading | None) -> None:
        ground.told.append((hello, reading))

    inside.tell = tell
    inside.admit(enclosure.key, ())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("agentwall.daemon.inside.MappedFiles", roomy)
            yield ground
    finally:
        inside.close(keep=False)
