# SPDX-License-Identifier: Apache-2.0
"""Real parts to test against: cgroups, namespaces, servers, and a sniffer that tells the truth.

Everything is a context manager and takes down what it made, also after an error or ctrl-C::

    with temp_cgroup() as cgroup, lab() as bench, sniff(bench) as wire:
        with tcp_server(bench.far, OUTSIDE, 443) as server:
            bench.near.run("curl", f"http://{OUTSIDE}:443/", cgroup=cgroup)
        wire.settle()

All of it needs root.
"""

from rig.cgroup import cgroup_root, in_cgroup, members, own_cgroup, temp_cgroup
from rig.lab import (
    FAR4,
    FAR6,
    FAR_DEVICE,
    INTERNAL,
    INTERNAL_NETWORK,
    METADATA,
    NEAR4,
    NEAR6,
    NEAR_DEVICE,
    OUTSIDE,
    OUTSIDE6,
    OUTSIDE_OTHER,
    PERMITTED,
    PERMITTED6,
    Lab,
    lab,
    netns_pair,
)
from rig.listeners import Delivery, Server, echo, sink, tcp_server, udp_server
from rig.namespace import Namespace, temp_netns
from rig.packet import Packet
from rig.process import running, wait_until
from rig.sniffer import Sniffer, sniff

__all__ = [
    "FAR4",
    "FAR6",
    "FAR_DEVICE",
    "INTERNAL",
    "INTERNAL_NETWORK",
    "METADATA",
    "NEAR4",
    "NEAR6",
    "NEAR_DEVICE",
    "OUTSIDE",
    "OUTSIDE6",
    "OUTSIDE_OTHER",
    "PERMITTED",
    "PERMITTED6",
    "Delivery",
    "Lab",
    "Namespace",
    "Packet",
    "Server",
    "Sniffer",
    "cgroup_root",
    "echo",
    "in_cgroup",
    "lab",
    "members",
    "netns_pair",
    "own_cgroup",
    "running",
    "sink",
    "sniff",
    "tcp_server",
    "temp_cgroup",
    "temp_netns",
    "udp_server",
    "wait_until",
]
