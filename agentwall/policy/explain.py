# SPDX-License-Identifier: Apache-2.0
"""The line that would permit what was denied, for denials in ``run``, ``audit`` and ``explain``."""

from __future__ import annotations

from agentwall.flow.verdict import Direction, ReasonCode
from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, canonical, destination

_NO_RULE_HELPS = {
    ReasonCode.FRAGMENT: "no rule permits fragments made by hand",
    ReasonCode.IP_OPTIONS: "no rule permits IPv4 options",
    ReasonCode.ROUTING_HEADER: "no rule permits routing headers",
    ReasonCode.EXTENSION_HEADERS: "no rule permits such extension headers",
    ReasonCode.MALFORMED: "no rule permits malformed packets",
    ReasonCode.TRANSLATED: "the destination was rewritten after connect: both must be permitted",
    ReasonCode.NO_STORAGE: "the kernel had no memory for the socket: no rule helps",
    ReasonCode.NO_SANDBOX: "no policy was bound to the cgroup: no rule helps",
}


def permit_line(
    *,
    protocol: int,
    remote: Endpoint,
    direction: Direction = Direction.OUT,
    local_port: int = 0,
) -> str | None:
    """Return the YAML of the narrowest rule that permits the flow, or None if none can.

    It belongs under ``allow``, or under ``inbound`` for IN.
    """
    inbound = direction is Direction.IN
    ports = _ports(protocol, local_port if inbound else remote.port)
    if ports is None:
        return None
    address = canonical(remote.address) if inbound else destination(remote.address)
    return f"- {{cidr: {_cidr(address)}, ports: [{ports}]}}"


def suggest(
    *,
    protocol: int,
    remote: Endpoint | None,
    direction: Direction,
    local_port: int = 0,
    code: ReasonCode = ReasonCode.NO_RULE,
    rule: str | None = None,
) -> str:
    """Return one line that says what would permit a denied flow, or why nothing can.

    Args:
        protocol: IANA protocol number.
        remote: The other end; None where the hook knew none (a refused socket).
        direction: Who opened the flow.
        local_port: The sandbox's own port; counts for IN only.
        code: Why it was denied.
        rule: Id of the rule that denied it, if one did.
    """
    if code is ReasonCode.RULE:
        return f"no allow can undo it: denied by {rule or 'a deny rule'}"
    if text := _NO_RULE_HELPS.get(code):
        return text
    section = "allow" if direction is Direction.OUT else "inbound"
    if code is ReasonCode.SOCKET_TYPE or remote is None:
        ports = _ports(protocol, 0)
        if ports is None or protocol in (L4Protocol.TCP, L4Protocol.UDP):
            return "no rule permits raw sockets"
        return f"under allow: a rule with ports: [{ports}] (raw sockets never)"
    line = permit_line(protocol=protocol, remote=remote, direction=direction, local_port=local_port)
    if line is None:
        return f"no rule permits IP protocol {protocol}"
    return f"under {section}: {line}"


def _ports(protocol: int, port: int) -> str | None:
    match protocol:
        case L4Protocol.TCP:
            return str(port) if port else "tcp/*"
        case L4Protocol.UDP:
            return f"udp/{port}" if port else "udp/*"
        case L4Protocol.ICMP | L4Protocol.ICMPV6:
            return "icmp"
        case _:
            return f"ip/{protocol}" if 0 < protocol < 255 else None


def _cidr(address: IPAddress) -> str:
    # Unquoted, "::1" within braces is not YAML.
    return f'"{address}"' if address.version == 6 else str(address)
