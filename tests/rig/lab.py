# SPDX-License-Identifier: Apache-2.0
"""Two namespaces joined by a veth: ``near`` for the sandbox, ``far`` for the rest of the world.

Every address that is not the near side's own is local to the far side, so a server there can
listen on any address at all, and what arrives for an address without a server is seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.cgroup import temp_cgroup
from rig.namespace import Namespace, temp_netns
from rig.process import run_checked

NEAR4 = "192.0.2.2"
FAR4 = "192.0.2.1"
NEAR6 = "2001:db8::2"
FAR6 = "2001:db8::1"
PERMITTED = "203.0.113.10"
"""By custom the address that a policy of the test permits; nothing enforces that here."""
PERMITTED6 = "2001:db8:a::10"
OUTSIDE = "198.51.100.7"
OUTSIDE_OTHER = "203.0.113.66"
OUTSIDE6 = "2001:db8:b::66"
INTERNAL = "10.77.0.20"
INTERNAL_NETWORK = "10.77.0.0/24"
METADATA = "169.254.169.254"
NEAR_DEVICE = "near0"
FAR_DEVICE = "far0"
NEAR_MAC = "02:00:00:00:00:02"
FAR_MAC = "02:00:00:00:00:01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Both sides, and a cgroup in which the far side's processes run."""

    near: Namespace
    far: Namespace
    services: Path

    def far_command(self, *command: str | Path) -> list[str]:
        """Return *command* as run on the far side, where the lab's end also ends it."""
        return self.far.command(*command, cgroup=self.services)


@contextmanager
def lab() -> Iterator[Lab]:
    """Build a lab with routes, IPv4 and IPv6; take everything down at the end."""
    with (
        temp_netns("near") as near,
        temp_netns("far") as far,
        temp_cgroup("services") as services,
    ):
        _join(near, far)
        _address(near, NEAR_DEVICE, (NEAR4, NEAR6), (FAR4, FAR6, FAR_MAC))
        _address(far, FAR_DEVICE, (FAR4, FAR6), (NEAR4, NEAR6, NEAR_MAC))
        near.ip("route", "add", "default", "via", FAR4)
        near.ip("-6", "route", "add", "default", "via", FAR6)
        # In the main table, where the veth's own prefix is longer and so still leads back.
        far.ip("route", "add", "local", "default", "dev", "lo", "table", "main")
        far.ip("-6", "route", "add", "local", "default", "dev", "lo", "table", "main")
        # IPv6 lets a server listen on such an address only when told so.
        far.set("net/ipv6/ip_nonlocal_bind", 1)
        # Ping sockets are there for the taking, so that only the wall can refuse them.
        near.set("net/ipv4/ping_group_range", "0 2147483647")
        yield Lab(near=near, far=far, services=services)


@contextmanager
def netns_pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Build a lab and give its near and its far side."""
    with lab() as made:
        yield made.near, made.far


def _join(near: Namespace, far: Namespace) -> None:
    run_checked(
        *("ip", "link", "add", NEAR_DEVICE, "address", NEAR_MAC, "netns", near.name),
        *("type", "veth", "peer", "name", FAR_DEVICE, "address", FAR_MAC, "netns", far.name),
    )


def _address(
    namespace: Namespace, device: str, own: tuple[str, str], other: tuple[str, str, str]
) -> None:
    namespace.ip("address", "add", f"{own[0]}/24", "dev", device)
    namespace.ip("address", "add", f"{own[1]}/64", "dev", device, "nodad")
    namespace.ip("link", "set", device, "up")
    # A device that has just come up answers no neighbour solicitation for about a second.
    for address in other[:2]:
        namespace.ip(
            *("neighbour", "replace", address, "lladdr", other[2], "nud", "permanent"),
            *("dev", device),
        )
