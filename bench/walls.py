# SPDX-License-Identifier: Apache-2.0
"""agentwall as a variant: around the measured command, or around somebody beside it."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentwall.daemon.belt import put_on
from agentwall.daemon.inspection import Search, begin_search
from agentwall.detect.judging import masks_of
from agentwall.detect.packing import pack_table
from agentwall.flow.record import SandboxKey
from agentwall.host.netns import netns_cookie
from agentwall.kernel.abi import Plain
from agentwall.kernel.counters import Counters
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.wall import Wall
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import loopback_scope
from agentwall.policy.load import load_policy
from agentwall.policy.model import REFUSALS, Policy
from agentwall.policy.tables import RuleTables
from bench.ground import FAR_ADDRESS, Ground, make_cgroup, run
from bench.policies import PERMITTED_NAME
from bench.searches import Sought
from bench.variants import PROBE_CPU, Place

SANDBOX = SandboxKey(1)
GENERATION = 1
_FEWEST_LOOKUPS = "32"
_TOTALS_S = 1.0
"""How often the reader takes the flows' counters."""


@dataclass(frozen=True, slots=True)
class Agentwall:
    """The wall itself, with a policy under which the probe's destinations are permitted."""

    policy: Policy
    resolving: Path | None = None
    """The probe, where the sandbox has to resolve the permitted name before it is measured."""
    sought: Sought | None = None
    """What is looked for in flows; None: nothing."""
    inside: Plain = Plain.ALL
    """Whether it is looked for inside TLS too, where the libraries are probed."""
    around: Callable[[Wall], AbstractContextManager[None]] = lambda _: nullcontext()
    """What else there is as long as the wall is loaded."""
    tables: RuleTables = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", compile_policy(self.policy))

    @classmethod
    def from_file(
        cls, path: Path, *, resolving: Path | None = None, sought: Sought | None = None
    ) -> Agentwall:
        """Load and compile the policy at *path*."""
        return cls(load_policy(path), resolving, sought)

    def settings(self) -> SandboxSettings:
        """Return how a sandbox is judged that lives in the caller's network namespace."""
        return SandboxSettings(
            generation=GENERATION,
            mode=self.policy.mode,
            loopback=loopback_scope(self.policy, own_netns=True),
            refuse_errno=REFUSALS[self.policy.refuse_with],
            protocols=self.tables.protocols,
            netns_cookie=netns_cookie(),
            dns=self.policy.dns,
            has_names=bool(self.tables.names),
        )

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Load the programs, write the rules, and read events as the runtime does."""
        settings = ground.call(self.settings)
        # As a run has it: in a network namespace of its own refused questions are answered.
        settings = replace(settings, belt=settings.dns is not None)
        with make_cgroup() as cgroup, Wall.load() as wall, self.around(wall), _reading(wall):
            wall.apply(GENERATION, self.tables)
            settings = self._inspected(wall, settings)
            place = Place(ground, cgroup, lambda: self._measured(wall, place, settings))
            yield place

    def _inspected(self, wall: Wall, settings: SandboxSettings) -> SandboxSettings:
        if self.sought is None:
            return settings
        search = Search(
            signatures=self.sought.signatures,
            table=pack_table(self.sought.automaton, self.sought.signatures),
            masks=masks_of(self.policy, self.tables, self.sought.signatures),
            depth_bytes=self.policy.detect.depth_bytes,
            inside=self.inside,
        )
        return replace(settings, inspection=begin_search(wall, search, GENERATION))

    @contextmanager
    def _measured(self, wall: Wall, place: Place, settings: SandboxSettings) -> Iterator[None]:
        belt = place.ground.call(lambda: put_on(wall, settings))
        try:
            with admitted(wall, place.cgroup, settings):
                # What a sandbox learned goes with it, so every sample begins with questions.
                if self.resolving:
                    resolve(self.resolving, place)
                yield
                _expect_nothing_denied(wall.counters(SANDBOX))
        finally:
            belt.close()


@contextmanager
def admitted(wall: Wall, cgroup: Path, settings: SandboxSettings) -> Iterator[None]:
    """Attach *wall*, which has the rules, to *cgroup* and let the policy decide."""
    wall.attach(cgroup, SANDBOX)
    try:
        wall.bind(SANDBOX, settings)
        wall.activate(cgroup, SANDBOX)
        yield
    finally:
        wall.detach(SANDBOX)


def resolve(probe: Path, place: Place) -> None:
    """Let the sandbox at *place* ask for the permitted name."""
    options = ["--address", FAR_ADDRESS, "--name", PERMITTED_NAME, "--cpu", str(PROBE_CPU)]
    options += ["--cgroup", str(place.cgroup)]
    run(*place.ground.inside(probe, *options, "dns", _FEWEST_LOOKUPS))


# A figure for refused traffic, or for lost events, would be another figure.
def _expect_nothing_denied(counters: Counters) -> None:
    lost = (counters.lost_denials, counters.lost_flows, counters.lost_totals, counters.lost_names)
    if any((counters.denied, counters.probes, counters.matches, counters.lost_excerpts, *lost)):
        raise RuntimeError(f"agentwall: expected nothing denied, matched or lost, got {counters}")


@dataclass(frozen=True, slots=True)
class Beside:
    """Nothing, while the wall stands around somebody else: what the neighbours of a sandbox pay."""

    wall: Agentwall

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Prepare the wall for a cgroup that the measured command does not join."""
        with make_cgroup() as own, self.wall.prepare(ground) as other:
            yield Place(ground, own, other.in_force)


@contextmanager
def _reading(wall: Wall) -> Iterator[None]:
    stop = threading.Event()
    reader = threading.Thread(target=_read_until, args=(wall, stop))
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()


def _read_until(wall: Wall, stop: threading.Event) -> None:
    taken = time.monotonic()
    while not stop.is_set():
        if select.select([wall], [], [], 0.05)[0]:
            wall.attempts()
            wall.excerpts()
        if time.monotonic() - taken > _TOTALS_S:
            wall.totals()
            taken = time.monotonic()
