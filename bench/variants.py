# SPDX-License-Identifier: Apache-2.0
"""What is compared: each variant puts its own thing in force for a cgroup and takes it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.links import Link
from agentwall.kernel.objects import BpfObject
from bench.course import NFT_ENTRIES
from bench.ground import (
    FAR_ADDRESS,
    LOCAL_ADDRESS,
    LOOPBACK_ADDRESS,
    Ground,
    lay_ground,
    make_cgroup,
    run,
)
from bench.policies import other_addresses
from bench.resolver import name_server

PROBE_CPU = 1
"""Where the measured command runs."""
OTHER_CPU = 0
"""Where its peer and the event reader run."""

# Joins the cgroup given first, then becomes the rest: the shell never sends a packet.
_JOIN_AND_EXEC = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variant can be put in force at once."""

    ground: Ground
    cgroup: Path
    """For the measured command to join."""
    in_force: Callable[[], AbstractContextManager[None]]
    """Puts the variant in force for the cgroup, and takes it away."""

    def within(self, *command: str | Path) -> list[str]:
        """Return *command* as run in the near namespace and in the cgroup."""
        return self.ground.inside("sh", "-c", _JOIN_AND_EXEC, "sh", self.cgroup, *command)


class Variant(Protocol):
    """Something that stands between a command and the network, or nothing."""

    def prepare(self, ground: Ground) -> AbstractContextManager[Place]:
        """Make everything ready that takes long."""


@contextmanager
def prepare_all(variants: Mapping[str, Variant]) -> Iterator[Mapping[str, Place]]:
    """Prepare every variant, each on a ground of its own with a DNS server.

    A shared machine changes its speed from one second to the next, so samples that are compared
    must lie milliseconds apart. Yet only one variant may be in force at a time: programs at one
    cgroup slow down every other, because the kernel then looks for programs in all of them.
    """
    with ExitStack() as stack:
        places = {}
        for name, variant in variants.items():
            ground = stack.enter_context(lay_ground())
            stack.enter_context(name_server(ground))
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

    elements: int = NFT_ENTRIES

    @contextmanager
    def prepare(self, ground: Ground) -> Iterator[Place]:
        """Add a table to the near namespace, which goes with it: there it is always in force."""
        run(*ground.inside("nft", "-f", "-"), text=_nft_table(self.elements))
        with make_cgroup() as cgroup:
            yield Place(ground, cgroup, nullcontext)


def _nft_table(elements: int) -> str:
    others = other_addresses(elements - 3)
    members = ", ".join([LOCAL_ADDRESS, FAR_ADDRESS, LOOPBACK_ADDRESS, *others])
    return f"""table inet bench {{
        set permitted {{ type ipv4_addr; elements = {{ {members} }}; }}
        chain output {{
            type filter hook output priority filter; policy drop;
            ip daddr @permitted accept
        }}
    }}"""
