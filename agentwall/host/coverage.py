# SPDX-License-Identifier: Apache-2.0
"""How much of a sandbox the wall covers: ``full``, or ``partial`` with the roads that stay open.

:func:`assess_coverage` is pure; ``exposure`` collects its facts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

_FORGERS = frozenset({"NET_RAW", "NET_ADMIN"})
"""Send a packet as another, or have one's own listener answer in another's place."""

_NOT_KNOWN = "not known"


class CoverageLevel(enum.Enum):
    """DESIGN's scale; ``network-only`` is for sandboxes that have no socket in a cgroup."""

    FULL = "full"
    PARTIAL = "partial"
    NETWORK_ONLY = "network-only"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides about coverage."""

    is_attached: bool
    """At least one hook judges the sandbox."""
    missing_hooks: tuple[str, ...]
    """Hooks that are not in force: optional ones, and others under ``on_error: degrade``."""
    has_own_netns: bool
    has_own_pidns: bool
    kept_capabilities: tuple[str, ...]
    kept_descriptors: tuple[str, ...]
    """Descriptors handed in that lead out, ``3 (inet socket)``."""
    host_sockets: tuple[str, ...]
    """Unix sockets of host services that the command's user may connect to."""
    filters_families: bool
    """No socket can be made of a family that no hook sees."""
    has_vsock: bool
    """AF_VSOCK sockets reach another machine, or the host of this one."""
    can_type_for_others: bool
    """The command may push input into a terminal that it shares."""
    kept_deputies: tuple[str, ...] = ()
    """Sockets of services that resolve names or start programs outside, kept on request."""
    loopback_resolvers: tuple[str, ...] = ()
    """Declared DNS servers on loopback."""
    own_stack: tuple[str, ...] = ()
    """What makes packets past every hook, ``gVisor`` or ``qemu-system-x86_64``."""
    has_belt: bool = False
    """Packets are judged outside as well, where they leave the sandbox's network namespace."""
    kernel_filesystems: tuple[str, ...] = ()
    """Mounts by which it leaves its cgroup or takes programs off, ``bpf on /sys/fs/bpf``."""
    sockets_outside: tuple[str, ...] = ()
    """Sockets that it holds and that the wall does not judge: others made them."""
    unseen_families: tuple[str, ...] = ()
    """Families of this host that no hook sees, where they are known by name."""
    family_filter: str = ""
    """What is known of its seccomp filter."""
    unknown: tuple[str, ...] = ()
    """What could not be looked at: it never counts as closed."""


@dataclass(frozen=True, slots=True)
class OpenRoad:
    """One way out that the wall does not close."""

    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


@dataclass(frozen=True, slots=True)
class Coverage:
    """The verdict."""

    level: CoverageLevel
    roads: tuple[OpenRoad, ...]

    @property
    def is_final(self) -> bool:
        """Whether everything could be looked at. If not, another look later may say more."""
        # Asked of every sandbox every second, so it makes no generator.
        return _NOT_KNOWN not in [road.code for road in self.roads]


def assess_coverage(facts: Facts) -> Coverage:
    """Return the coverage that *facts* come to."""
    roads = tuple(_open_roads(facts))
    if not facts.is_attached:
        return Coverage(CoverageLevel.NONE, roads)
    if facts.own_stack:
        level = CoverageLevel.NETWORK_ONLY if facts.has_belt else CoverageLevel.NONE
        return Coverage(level, roads)
    return Coverage(CoverageLevel.PARTIAL if roads else CoverageLevel.FULL, roads)


def _open_roads(facts: Facts) -> list[OpenRoad]:
    roads = []
    if facts.own_stack:
        roads.append(OpenRoad("a network stack of its own", ", ".join(facts.own_stack)))
    if facts.missing_hooks:
        roads.append(OpenRoad("hooks not in force", ", ".join(facts.missing_hooks)))
    if not facts.has_own_netns:
        roads.append(OpenRoad("the host's network namespace", "no second belt on its way out"))
    if facts.kept_capabilities:
        roads.append(OpenRoad("capabilities kept", ", ".join(facts.kept_capabilities)))
    if facts.kept_descriptors:
        roads.append(OpenRoad("descriptors kept", ", ".join(facts.kept_descriptors)))
    if facts.host_sockets:
        roads.append(OpenRoad("unix sockets of host services", ", ".join(facts.host_sockets)))
    if facts.kept_deputies:
        roads.append(OpenRoad("sockets kept", ", ".join(facts.kept_deputies)))
    if facts.loopback_resolvers and not _FORGERS.isdisjoint(facts.kept_capabilities):
        servers = ", ".join(facts.loopback_resolvers)
        detail = f"could forge answers of a DNS server on loopback: {servers}"
        roads.append(OpenRoad("names", detail))
    if not facts.filters_families:
        roads.append(OpenRoad("socket families", _families(facts)))
    if not facts.has_own_pidns:
        roads.append(OpenRoad("processes of the same user", "no PID namespace of its own"))
    if facts.can_type_for_others:
        roads.append(OpenRoad("the terminal", "the command can type into it (TIOCSTI)"))
    if facts.kernel_filesystems:
        roads.append(OpenRoad("kernel file systems", ", ".join(facts.kernel_filesystems)))
    if facts.sockets_outside:
        roads.append(OpenRoad("sockets made elsewhere", ", ".join(facts.sockets_outside)))
    if facts.unknown:
        roads.append(OpenRoad(_NOT_KNOWN, ", ".join(facts.unknown)))
    return roads


def _families(facts: Facts) -> str:
    if facts.unseen_families:
        reachable = ", ".join(facts.unseen_families)
    else:
        reachable = "vsock and others" if facts.has_vsock else "RDS, SMC and others"
    words = f"{reachable} that no hook sees"
    return f"{words}; {facts.family_filter}" if facts.family_filter else words
