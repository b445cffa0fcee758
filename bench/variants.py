# SPDX-License-Identifier: Apache-2.0
"""What is compared: each variant puts its own thing in force for a cgroup and takes it away."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentwall.flow.record import SandboxKey
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.links import Link
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.wall import Wall
from agentwall.policy.compile import compile_policy
from agentwall.policy.evaluate import loopback_scope
from agentwall.policy.load import load_policy
from agentwall.policy.model import REFUSALS, Policy
from agentwall.policy.tables import RuleTables
from bench.ground import FAR_ADDRESS, LOCAL_ADDRESS, Ground, lay_ground, make_cgroup, run

PROBE_CPU = 1
"""Where the measured command runs."""
OTHER_CPU = 0
"""Where its peer and the event reader run."""

_NFT_ELEMENTS = 10_000
_SANDBOX = SandboxKey(1)
GENERATION = 1
_TOTALS_S = 1.0
"""How often the reader takes the flows' counters."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variant can be put in force at once."""

    ground: Ground
    cgroup: Path
    """For the measured command to join."""
    in_force: Callable[[], AbstractContextManager[None]]
    """Puts the variant in force for the cgroup, and takes it away."""


class Variant(Protocol):
    """Something that stands between a command and the network, or nothing."""

    def prepare(self, ground: Ground) -> AbstractContextManager[Place]:
        """Make everything ready that takes long."""


@contextmanager
def prepare_all(variants: Mapping[str, Variant]) -> Iterator[Mapping[str, Place]]:
    """Prepare every variant, each on a ground of its own.

    A shared machine changes its speed from one second to the next, so samples that are compared
    must lie milliseconds apart. Yet only one variant may be in force at a time: programs at one
    cgroup slow down every other, because the kernel then looks for programs in all of them.
    """
    with ExitStack() as stack:
        places = {}
        for name, variant in variants.items():
            ground = stack.enter_context(lay_ground())
            places[name] = stack.enter_context(variant.prepare(ground))
        yield places


class Bare:
    """Nothing at all."""

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Make a cgroup, to which nothing will be attached."""
        with make_cgroup() as cgroup:
            yield Place(ground, cgroup, nullcontext)


@dataclass(frozen=True, slots=True)
class EmptyPrograms:
    """Programs that permit everything, at the hooks agentwall uses."""

    object_path: Path

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Load them."""
        with make_cgroup() as cgroup, BpfObject.open(self.object_path) as loaded:
            loaded.load()
            yield Place(ground, cgroup, lambda: _attached(loaded, cgroup))


@contextmanager
def _attached(loaded: BpfObject, cgroup: Path) -> Iterator[None]:
    with ExitStack() as held:
        with attachable(cgroup) as cgroup_fd:
            for program in loaded.programs():
                link = Link.attach(program.fd, cgroup_fd, program.attach_type)
                held.callback(link.close)
        yield


@dataclass(frozen=True, slots=True)
class Nftables:
    """The firewall a host would use otherwise: one set of permitted addresses, the rest dropped."""

    elements: int = _NFT_ELEMENTS

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Add a table to the near namespace, which goes with it: there it is always in force."""
        run(*ground.inside("nft", "-f", "-"), text=_nft_table(self.elements))
        with make_cgroup() as cgroup:
            yield Place(ground, cgroup, nullcontext)


def _nft_table(elements: int) -> str:
    # 44.0.0.0/8 is amateur radio's: ordinary addresses that nobody here connects to.
    others = (f"44.{n >> 8}.{n & 0xFF}.1" for n in range(elements - 3))
    members = ", ".join([LOCAL_ADDRESS, FAR_ADDRESS, "127.0.0.1", *others])
    return f"""table inet bench {{
        set permitted {{ type ipv4_addr; elements = {{ {members} }}; }}
        chain output {{
            type filter hook output priority filter; policy drop;
            ip daddr @permitted accept
        }}
    }}"""


class Agentwall:
    """The wall itself, with a policy under which the probe's destinations are permitted."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tables: RuleTables = compile_policy(policy)
        self.settings = SandboxSettings(
            generation=GENERATION,
            mode=policy.mode,
            loopback=loopback_scope(policy, own_netns=True),
            refuse_errno=REFUSALS[policy.refuse_with],
            protocols=self.tables.protocols,
        )

    @classmethod
    def from_file(cls, path: Path) -> Agentwall:
        """Load and compile the policy at *path*."""
        return cls(load_policy(path))

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Load the programs, write the rules, and read events as the runtime does."""
        with make_cgroup() as cgroup, Wall.load() as wall, _reading(wall):
            wall.apply(GENERATION, self.tables)
            yield Place(ground, cgroup, lambda: self.admitted(wall, cgroup))

    @contextmanager
    def admitted(self, wall: Wall, cgroup: Path) -> Iterator[None]:
        """Attach *wall*, which has the rules, to *cgroup* and let the policy decide."""
        wall.attach(cgroup, _SANDBOX)
        try:
            wall.bind(_SANDBOX, self.settings)
            wall.activate(cgroup, _SANDBOX)
            yield
            _expect_nothing_denied(wall)
        finally:
            wall.detach(_SANDBOX)


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
        if time.monotonic() - taken > _TOTALS_S:
            wall.totals()
            taken = time.monotonic()


# A figure for refused traffic, or for lost events, would be another figure.
def _expect_nothing_denied(wall: Wall) -> None:
    counters = wall.counters(_SANDBOX)
    if any((counters.denied, counters.probes, counters.lost_flows, counters.lost_totals)):
        raise RuntimeError(f"agentwall: expected nothing denied and nothing lost, got {counters}")


def write_policy(directory: Path, more_rules: int) -> Path:
    """Write a policy that permits the probe's destinations and *more_rules* other addresses."""
    directory.mkdir()
    lines = ["version: 1", "name: bench", "allow:"]
    for prefix in (f"{LOCAL_ADDRESS}/32", f"{FAR_ADDRESS}/32"):
        lines += [f"  - cidr: {prefix}", "    ports: [tcp/*, udp/*]"]
    if more_rules:
        # Spread over 44.0.0.0/8, each once: 40 503 is odd, so it generates all of 2^24.
        places = (n * 40_503 & 0xFF_FFFF for n in range(more_rules))
        addresses = [f"44.{n >> 16}.{n >> 8 & 0xFF}.{n & 0xFF}" for n in places]
        (directory / "more.txt").write_text("\n".join(addresses) + "\n")
        lines += ["  - cidr_file: more.txt", "    ports: [443]"]
    path = directory / "bench.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
