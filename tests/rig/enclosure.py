# SPDX-License-Identifier: Apache-2.0
"""A loaded wall and the sandboxes that tests put behind it, each with a policy of its own."""

from __future__ import annotations

import itertools
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import Hook, Verdict
from agentwall.host.netns import netns_cookie
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.wall import Counters, Wall
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import loopback_scope
from agentwall.policy.load import load_policy
from agentwall.policy.model import REFUSALS, LoopbackScope, Policy
from rig.inspection import Inspector
from rig.lending import lent_wall
from rig.namespace import Namespace

EVENT_TIMEOUT_S = 60.0
# Walls are lent, and no number of a wall's is ever used again.
_keys = itertools.count(1)
_generations = itertools.count(1)


def parse_policy(text: str) -> Policy:
    """Load a policy from YAML *text*, indented as it stands in a test; ``version`` is added."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "test.yaml"
        path.write_text("version: 1\n" + textwrap.dedent(text))
        return load_policy(path, search_path=())


class Enclosure:
    """A wall, the events it reported so far, and ways to put cgroups behind it."""

    def __init__(self, wall: Wall, netns: int = 0) -> None:
        self.wall = wall
        self.netns = netns
        """Cookie of the network namespace that sandboxes are admitted with; 0: they have no DNS."""
        self.inspector: Inspector | None = None
        """If set, what is bound is looked into for the signatures of :mod:`rig.inspection`."""
        self._events: list[Attempt] = []

    def attach(self, cgroup: Path) -> SandboxKey:
        """Put the programs at *cgroup*; everything is denied until :meth:`admit`."""
        key = SandboxKey(next(_keys))
        self.wall.attach(cgroup, key)
        return key

    def bind(
        self,
        key: SandboxKey,
        policy: Policy,
        *,
        loopback: LoopbackScope | None = None,
        is_scope: bool = False,
        until_ns: int = 0,
    ) -> int:
        """Write a generation of *policy* and switch *key* over to it; return its number."""
        generation = next(_generations)
        tables = compile_policy(policy)
        self.wall.apply(generation, tables)
        look = self.inspector.inspection(generation, policy, tables) if self.inspector else None
        self.wall.bind(
            key,
            SandboxSettings(
                generation=generation,
                mode=policy.mode,
                loopback=loopback or loopback_scope(policy, own_netns=True),
                refuse_errno=REFUSALS[policy.refuse_with],
                protocols=tables.protocols,
                netns_cookie=self.netns,
                dns=policy.dns,
                has_names=bool(tables.names),
                inspection=look,
                is_scope=is_scope,
                until_ns=until_ns,
            ),
        )
        return generation

    def enclose(
        self, cgroup: Path, policy: Policy, *, loopback: LoopbackScope | None = None
    ) -> SandboxKey:
        """Put *cgroup* behind *policy*, in the order a run does it."""
        key = self.attach(cgroup)
        self.bind(key, policy, loopback=loopback)
        self.wall.activate(cgroup, key)
        return key

    @contextmanager
    def enclosed(
        self, cgroup: Path, policy: Policy, *, loopback: LoopbackScope | None = None
    ) -> Iterator[SandboxKey]:
        """Put *cgroup* behind *policy* for the length of the block."""
        key = self.enclose(cgroup, policy, loopback=loopback)
        try:
            yield key
        finally:
            self.wall.detach(key)

    def events(self, key: SandboxKey, since: int = 0) -> list[Attempt]:
        """Return the events of *key* in order of arrival, but for the first *since*."""
        self._events += self.wall.attempts()
        return [event for event in self._events if event.sandbox == key][since:]

    def refusals(self, key: SandboxKey, since: int = 0) -> list[Attempt]:
        """Return those of :meth:`events` that are not about permitted flows."""
        return [e for e in self.events(key, since) if e.verdict is not Verdict.ALLOW]

    def await_event(
        self, key: SandboxKey, wanted: Callable[[Attempt], bool], since: int = 0
    ) -> Attempt | None:
        """Return the first of :meth:`events` that is *wanted*; None if none comes for a minute."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while True:
            for event in self.events(key, since):
                if wanted(event):
                    return event
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def counters(self, key: SandboxKey) -> Counters:
        """Return what was counted for *key* since it was bound."""
        return self.wall.counters(key)


@contextmanager
def enclosure(near: Namespace | None = None) -> Iterator[Enclosure]:
    """Borrow a wall, unpinned; its sandboxes have DNS in *near*."""
    with lent_wall() as wall:
        yield Enclosure(wall, near.call(netns_cookie) if near else 0)


def describe(event: Attempt) -> str:
    """Return *event* in a few words, for assertion messages."""
    remote = f"{event.remote.address}:{event.remote.port}" if event.remote else "-"
    return (
        f"{event.hook.value} {event.direction.value} {event.verdict.value} {event.code.value} "
        f"{event.protocol} {remote} errno={event.errno}"
    )


def at(hook: str) -> Callable[[Attempt], bool]:
    """Return a condition for :meth:`Enclosure.await_event`: a refusal at *hook*."""
    return lambda event: event.hook is Hook(hook) and event.verdict is not Verdict.ALLOW
