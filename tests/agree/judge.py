# SPDX-License-Identifier: Apache-2.0
"""Two judges of the same flows: the Python evaluator, and the loaded programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from agree.packets import packet_from, packet_to

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import Direction, Mode, Verdict
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.objects import Program
from agentwall.kernel.wall import Wall
from agentwall.net.endpoint import Endpoint
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import LoopbackScope, Policy
from agentwall.policy.tables import RuleTables

SANDBOX = SandboxKey(0x5EED)
OUTCOME = (Verdict.DENY, Verdict.ALLOW)
"""By the return value of a cgroup program; bit 1 is congestion, which means nothing here."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge says."""

    verdict: Verdict
    rule: str | None
    code: str


def reference(policy: Policy, remote: Endpoint, loopback: LoopbackScope) -> Opinion:
    """Return what the evaluator says of a flow that the sandbox opens."""
    found = evaluate(policy, direction=Direction.OUT, remote=remote, loopback=loopback)
    return Opinion(found.verdict, found.rule.id if found.rule else None, found.code.value)


class Kernel:
    """The loaded programs, fed one policy after another; each is a generation of its own."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._programs: dict[str, Program] = {p.name: p for p in wall.programs()}
        self._generation = 0
        self._tables: RuleTables | None = None
        self.verdicts: Counter[Verdict] = Counter()

    def use(self, tables: RuleTables, loopback: LoopbackScope) -> None:
        """Judge by *tables* from now on."""
        self._wall.apply(self._generation + 1, tables)
        settings = SandboxSettings(
            generation=self._generation + 1,
            mode=Mode.ENFORCE,
            loopback=loopback,
            refuse_errno=1,
            protocols=tables.protocols,
        )
        self._wall.bind(SANDBOX, settings)
        self._wall.forget(self._generation)
        self._generation += 1
        self._tables = tables
        self._wall.totals()

    def send(self, remote: Endpoint) -> Opinion:
        """Return what egress says of a packet to *remote*."""
        event = self.send_raw(packet_to(remote))
        assert self._tables is not None
        rule = None if event.rule is None else self._tables.rules[event.rule].id
        return Opinion(event.verdict, rule, event.code.value)

    def send_raw(self, frame: bytes) -> Attempt:
        """Return what egress reported of *frame*; its verdict is what it returned."""
        run = self._programs["aw_egress"].test_run(frame)
        verdict = OUTCOME[run.retval & 1]
        self.verdicts[verdict] += 1
        self._wall.totals()  # so that each permitted flow is a first sight
        (event,) = self._wall.attempts()
        assert event.verdict is verdict
        return event

    def receive(self, remote: Endpoint, local_port: int) -> Verdict:
        """Return what ingress says of a datagram from *remote* to *local_port*."""
        packet = packet_from(remote, local_port=local_port)
        run = self._programs["aw_ingress"].test_run(packet)
        verdict = OUTCOME[run.retval & 1]
        self.verdicts[verdict] += 1
        self._wall.totals()
        self._wall.attempts()
        return verdict
