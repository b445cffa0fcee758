# SPDX-License-Identifier: Apache-2.0
"""The ground on which techniques are tried: a lab, roads beside it, servers everywhere, taps.

Near, where the sandbox lives, is joined to far by the lab's veth; ``side`` has a road of its own
to far. A relay that is not the sandbox's listens on near's loopback.
"""

from __future__ import annotations

import itertools
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address, ip_address

from agentwall.net.endpoint import IPAddress, destination
from rig.answers import datagrams, streams
from rig.lab import (
    FAR_DEVICE,
    METADATA,
    NEAR_DEVICE,
    OUTSIDE6,
    OUTSIDE_OTHER,
    PERMITTED,
    PERMITTED6,
    Lab,
    lab,
)
from rig.listeners import Server, sink, tcp_server, udp_server
from rig.namespace import Namespace, temp_netns
from rig.packet import Packet
from rig.socket_features import missing
from rig.tap import Tap
from rig.zone import DOCKER_STUB, HONEST, LIES, REBINDING, RESOLVER, STUB, tell

PORT, OTHER_PORT = 7000, 7001
IPV6_PORT = 7064
"""The policy of the evasion tests permits it to every IPv6 address, and to no IPv4 one."""
PROXY = "198.51.100.78"
INBOUND_PORT = 8888
"""Peers on far may call the sandbox here."""
TCP_PORTS = (22, 80, 443, 853, PORT, OTHER_PORT, IPV6_PORT)
UDP_PORTS = (443, 853, PORT, OTHER_PORT, IPV6_PORT)
BARRIER = ("198.51.100.99", 9)
FAR_LINK_LOCAL = "fe80::f"
SIDE_NEAR, SIDE_FAR = "10.99.0.1", "10.99.0.2"
SETTLE_S = 30.0
ATTEMPT_PORTS = range(10_000, 32_000)
"""What attempts send from: above what a role or a technique names, below what other namespaces,
which have the kernel's own choice, take."""
_PORTS_EACH = 100
TCP_SYN = 0x02
IPPROTO_SCTP = 132

ROLES: dict[str, tuple[str, int]] = {
    "permitted4": (PERMITTED, PORT),
    "permitted6": (PERMITTED6, PORT),
    "denied4": (OUTSIDE_OTHER, PORT),
    "denied6": (OUTSIDE6, PORT),
    "port4": (PERMITTED, OTHER_PORT),
    "port6": (PERMITTED6, OTHER_PORT),
    "mapped": (f"::ffff:{OUTSIDE_OTHER}", PORT),
    "mapped-open-port": (f"::ffff:{OUTSIDE_OTHER}", IPV6_PORT),
    "nat64": ("64:ff9b::cb00:7142", IPV6_PORT),
    "6to4": ("2002:cb00:7142::1", IPV6_PORT),
    "link-local": (FAR_LINK_LOCAL, PORT),
    "link-local-open-port": (FAR_LINK_LOCAL, IPV6_PORT),
    "multicast4": ("239.1.2.3", PORT),
    "multicast6": ("ff02::1234", PORT),
    "broadcast": ("192.0.2.255", PORT),
    "limited-broadcast": ("255.255.255.255", PORT),
    "unspecified4": ("0.0.0.0", PORT),
    "unspecified6": ("::", PORT),
    "loopback4": ("127.0.0.1", PORT),
    "loopback6": ("::1", PORT),
    "metadata": (METADATA, 80),
    "named": (HONEST, PORT),
    "proxy": (PROXY, OTHER_PORT),
    "dns": (OUTSIDE_OTHER, 53),
    "quic": (OUTSIDE_OTHER, 443),
    "ssh": (OUTSIDE_OTHER, 22),
    "side4": (SIDE_FAR, PORT),
    "own4": ("10.98.0.2", PORT),
    "resolver": (RESOLVER, 53),
    "resolver-mapped": (f"::ffff:{RESOLVER}", 53),
    "resolver-https": (RESOLVER, 443),
    "resolver-tls": (RESOLVER, 853),
    "dns6": (OUTSIDE6, 53),
    "dns-tls": (OUTSIDE_OTHER, 853),
    "docker-stub": (DOCKER_STUB, 53),
    "stub": (STUB, 53),
    "mdns": ("224.0.0.251", 5353),
    "mdns6": ("ff02::fb", 5353),
    "llmnr": ("224.0.0.252", 5355),
    "netbios": ("192.0.2.255", 137),
    **{f"lie:{label}": (address, PORT) for label, address in LIES.items()},
    **{f"rebound:{label}": (address, PORT) for label, address in REBINDING.items()},
}
"""The destinations a technique may name."""


class Ground:
    """What :func:`ground` made, and the truth about what left."""

    def __init__(self, made: Lab, side: Namespace, servers: list[Server], taps: list[Tap]) -> None:
        self.lab = made
        self.near, self.far, self.side = made.near, made.far, side
        self.far_tap = taps[0]
        self._taps = taps
        self.history: list[Packet] = []
        """Everything that :meth:`settle` has returned."""
        self._servers = servers
        self._scope = self.near.call(lambda: socket.if_nametoindex(NEAR_DEVICE))
        self._firsts = itertools.cycle(ATTEMPT_PORTS[::_PORTS_EACH])
        self.ports = range(0)
        """Of the latest attempt; see :meth:`hand_out_ports`."""
        self._heard_before = [0] * len(servers)

    def settle(self) -> list[Packet]:
        """Return what arrived since the last call, up to packets that the near side sends now.

        Those of one processor cannot overtake each other on a veth, so each that is ours sends one.
        """
        tokens = {processor: uuid.uuid4().bytes for processor in os.sched_getaffinity(0)}
        self.near.call(lambda: _send_barriers(tokens))
        packets = self.far_tap.wait_for(tokens.values(), SETTLE_S)
        for tap in self._taps:
            packets += tap.read()
        fresh = [p for p in packets if not p.is_background and not p.is_to(*BARRIER)]
        self.history += fresh
        return fresh

    def settle_without_noise(self) -> list[Packet]:
        """Return what of :meth:`settle` is no noise, which an older flow may make at any time.

        Nor is it what the relay on near's loopback says, which answers when it comes to run.
        """
        fresh = self.settle()
        return [each for each in fresh if not is_noise(each) and not _is_of_relay(each)]

    def received(self) -> bytes:
        """Return what the servers, the relay on near's loopback among them, were told so far."""
        return b"\n".join(server.received for server in self._servers)

    def hand_out_ports(self) -> range:
        """Have sockets that choose no port themselves get one of those returned from now on.

        What an attempt sent is told by them from what others sent, however late that comes.
        """
        first = next(self._firsts)
        ports = range(first, first + _PORTS_EACH)
        for namespace in (self.near, self.side):
            namespace.set("net/ipv4/ip_local_port_range", f"{ports[0]} {ports[-1]}")
        # Long ago, another attempt may have had the same.
        self._heard_before = [len(server.deliveries) for server in self._servers]
        self.ports = ports
        return ports

    def told(self, role: str) -> int:
        """Return how many payload octets servers got at *role* from the latest ports so far."""
        to = (str(remote_on_wire(role)), ROLES[role][1])
        return sum(
            len(delivery.data)
            for server, before in zip(self._servers, self._heard_before, strict=True)
            for delivery in server.deliveries[before:]
            if delivery.local == to and delivery.peer[1] in self.ports
        )

    def places(self) -> dict[str, tuple[int, tuple[str | int, ...]]]:
        """Return the socket family and address tuple of every role."""
        return {role: self._place(*to) for role, to in ROLES.items()}

    def _place(self, address: str, port: int) -> tuple[int, tuple[str | int, ...]]:
        if ":" not in address:
            return socket.AF_INET, (address, port)
        scope = self._scope if address.startswith(("fe80:", "ff02:")) else 0
        return socket.AF_INET6, (address, port, 0, scope)


def _send_barriers(tokens: dict[int, bytes]) -> None:
    # On a thread of its own (Namespace.call), so pinning it leaves no trace.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as barrier:
        for processor, token in tokens.items():
            os.sched_setaffinity(0, {processor})
            barrier.sendto(token, BARRIER)


def is_of_another(port: int, ports: range) -> bool:
    """Say whether *port* is one of another attempt than the one that had *ports*."""
    return port in ATTEMPT_PORTS and port not in ports


def is_noise(packet: Packet) -> bool:
    """Say whether the near kernel says *packet* of itself: the end of an older flow, an ICMP error.

    A TCP segment with neither SYN nor data belongs to a flow that was there before.
    """
    if packet.protocol == socket.IPPROTO_TCP:
        return not packet.payload and not packet.tcp_flags & TCP_SYN
    unreachable = {socket.IPPROTO_ICMP: 3, socket.IPPROTO_ICMPV6: 1}
    return packet.icmp_type is not None and packet.icmp_type == unreachable.get(
        packet.protocol or 0
    )


def remote_of(role: str) -> tuple[IPAddress, int]:
    """Return the destination that events give for *role*: canonical, loopback for unspecified."""
    address, port = ROLES[role]
    return destination(ip_address(address)), port


def remote_on_wire(role: str) -> IPAddress:
    """Return the address that packets to *role* carry: only v4-mapped ones become IPv4."""
    address = ip_address(ROLES[role][0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None and int(address) != 0:
        return address
    return destination(address)


def _is_of_relay(packet: Packet) -> bool:
    return packet.source_port == PORT and ip_address(packet.source).is_loopback


@contextmanager
def ground() -> Iterator[Ground]:
    """Build the ground; take everything down at the end."""
    with lab() as made, temp_netns("side") as side, ExitStack() as stack:
        _prepare(made, side)
        servers = [
            stack.enter_context(server)
            for any_address in ("0.0.0.0", "::")
            for server in (
                *(tcp_server(made.far, any_address, port) for port in TCP_PORTS),
                *(udp_server(made.far, any_address, port) for port in UDP_PORTS),
                tcp_server(made.far, any_address, 53, session=streams(tell)),
                udp_server(made.far, any_address, 53, session=datagrams(tell)),
                tcp_server(made.near, any_address, PORT),
                udp_server(made.near, any_address, PORT),
            )
        ]
        if not missing("sctp"):
            # At one address: SCTP answers from addresses of its interfaces only, else.
            sctp = tcp_server(made.far, OUTSIDE_OTHER, PORT, protocol=IPPROTO_SCTP)
            servers.append(stack.enter_context(sctp))
        servers.append(stack.enter_context(udp_server(made.far, *BARRIER, session=lambda: sink)))
        taps = [stack.enter_context(tap) for tap in (Tap(made.far), Tap(made.near, "lo"))]
        yield Ground(made, side, servers, taps)


def _prepare(made: Lab, side: Namespace) -> None:
    for namespace in (made.near, made.far):
        # Bits of ip-sysctl.rst: clients and servers send data in the SYN without a cookie.
        namespace.set("net/ipv4/tcp_fastopen", 0x607)
    for device in ("all", "default", FAR_DEVICE):
        made.far.set(f"net/ipv4/conf/{device}/rp_filter", 0)
        made.far.set(f"net/ipv4/conf/{device}/accept_source_route", 1)
    made.near.ip("address", "add", "fe80::a/64", "dev", NEAR_DEVICE, "nodad")
    made.far.ip("address", "add", f"{FAR_LINK_LOCAL}/64", "dev", FAR_DEVICE, "nodad")
    side.ip("link", "add", "side0", "type", "veth", "peer", "name", "side1", "netns", made.far.name)
    side.ip("address", "add", f"{SIDE_NEAR}/24", "dev", "side0")
    side.ip("link", "set", "side0", "up")
    made.far.ip("address", "add", f"{SIDE_FAR}/24", "dev", "side1")
    made.far.ip("link", "set", "side1", "up")
