# SPDX-License-Identifier: Apache-2.0
"""Two judges of the same flows: the Python evaluator, and the loaded programs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agree.packets import packet_from, packet_to

from agentwall.detect.dns import name_hash
from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import Direction, Mode, ReasonCode, Verdict
from agentwall.kernel.learned import BOUND, BOUND_KEY, KNOWN, KNOWN_KEY
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.objects import Program
from agentwall.kernel.wall import Wall
from agentwall.net.domain import name_key
from agentwall.net.endpoint import Endpoint, IPAddress, destination, key_bytes
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import DnsSettings, LoopbackScope, Policy
from agentwall.policy.tables import RuleTables

SANDBOX = SandboxKey(0x5EED)
OUTCOME = (Verdict.DENY, Verdict.ALLOW)
"""By the return value of a cgroup program; bit 1 is congestion, which means nothing here."""
SEED = 0x0123456789ABCDEF
"""Programs that judge flows take hashes of names as they find them, so any seed does."""
HOUR_NS = 3600 * 1_000_000_000
NO_SET = bytes(8)


@dataclass(frozen=True, slots=True)
class Binding:
    """A name that an address was learned under."""

    name: str
    live: bool = True
    """Or over, and still there."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge says."""

    verdict: Verdict
    rule: str | None
    code: str
    name: str | None = None
    """By which the rule matched. Events have some name of the remote where no rule did by name."""


def reference(
    policy: Policy, remote: Endpoint, loopback: LoopbackScope, learned: Sequence[Binding] = ()
) -> Opinion:
    """Return what the evaluator says of a flow that the sandbox opens."""
    names = [binding.name for binding in learned if binding.live]
    found = evaluate(policy, direction=Direction.OUT, remote=remote, loopback=loopback, names=names)
    rule = found.rule.id if found.rule else None
    return Opinion(found.verdict, rule, found.code.value, found.name)


class Kernel:
    """The loaded programs, fed one policy after another; each is a generation of its own."""

    def __init__(self, wall: Wall, netns_cookie: int = 1) -> None:
        self._wall = wall
        self._netns_cookie = netns_cookie
        self._programs: dict[str, Program] = {p.name: p for p in wall.programs()}
        self._generation = 0
        self._tables: RuleTables | None = None
        self.verdicts: Counter[Verdict] = Counter()

    @property
    def generation(self) -> int:
        """The one in force."""
        return self._generation

    def use(
        self, tables: RuleTables, loopback: LoopbackScope, dns: DnsSettings | None = None
    ) -> None:
        """Judge by *tables* from now on."""
        self._wall.apply(self._generation + 1, tables)
        settings = SandboxSettings(
            generation=self._generation + 1,
            mode=Mode.ENFORCE,
            loopback=loopback,
            refuse_errno=1,
            protocols=tables.protocols,
            netns_cookie=self._netns_cookie,
            dns=dns,
            has_names=bool(tables.names),
        )
        self._wall.bind(SANDBOX, settings)
        self._wall.forget(self._generation)
        self._generation += 1
        self._tables = tables
        self._wall.totals()

    def learn(self, address: IPAddress, bindings: Sequence[Binding]) -> None:
        """Have the sandbox know *address* under these names, at most 8, and under no others."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        maps = self._wall.maps()
        numbers: list[int] = []
        for binding in bindings:
            hashed, text = name_hash(binding.name, SEED), name_key(binding.name)
            numbers += (hashed, now_ns + HOUR_NS if binding.live else now_ns - 1)
            known = KNOWN.pack(0, NO_SET, now_ns, 1, len(text), text)
            # What is there stays: another address may have the name, and programs wrote to it.
            maps["aw_known"].add(KNOWN_KEY.pack(SANDBOX, hashed), known)
        numbers += [0] * (16 - len(numbers))
        key = BOUND_KEY.pack(SANDBOX, key_bytes(destination(address)))
        maps["aw_bound"].update(key, BOUND.pack(*numbers))

    def forget_names(self) -> None:
        """Know no names and no addresses."""
        for name in ("aw_known", "aw_bound"):
            found = self._wall.maps()[name]
            found.delete_batch(b"".join(found.keys()))

    def send(self, remote: Endpoint, said: bytes = b"data") -> Opinion:
        """Return what egress says of a packet to *remote*."""
        event = self.send_raw(packet_to(remote, said=said))
        assert self._tables is not None
        rule = None if event.rule is None else self._tables.rules[event.rule].id
        return Opinion(event.verdict, rule, event.code.value, event.name)

    def send_raw(self, frame: bytes) -> Attempt:
        """Return what egress reported of *frame*; its verdict is what it returned.

        But for what goes to a declared DNS server: the way there is open, and then the question is
        judged. prog_test_run makes a socket of no sandbox, so that is refused.
        """
        run = self._programs["aw_egress"].test_run(frame)
        verdict = OUTCOME[run.retval & 1]
        self._wall.totals()  # so that each permitted flow is a first sight
        *refused, event = self._wall.attempts()
        if event.code is ReasonCode.RESOLVER:
            assert [(one.code, verdict) for one in refused] == [(ReasonCode.NETNS, Verdict.DENY)]
        else:
            assert (refused, event.verdict) == ([], verdict)
        self.verdicts[event.verdict] += 1
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
