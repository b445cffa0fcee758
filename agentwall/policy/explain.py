# SPDX-License-Identifier: Apache-2.0
"""The line that would permit what was denied, for denials in ``run``, ``audit`` and ``explain``."""

from __future__ import annotations

import ipaddress
import re

from agentwall.flow.verdict import Direction, ReasonCode
from agentwall.net.domain import NamePattern, parse_name
from agentwall.net.endpoint import (
    Endpoint,
    IPAddress,
    L4Protocol,
    NamedEndpoint,
    canonical,
    destination,
)
from agentwall.net.reserved import innermost_block
from agentwall.policy.model import Inspect, NameTerms
from agentwall.policy.suffixes import SuffixKind, suffix_kind

HTTPS_PORT = 443
"""What a rule on names means if it says no ports, over TCP."""

_NO_RULE_HELPS = {
    ReasonCode.FRAGMENT: "no rule permits fragments made by hand",
    ReasonCode.IP_OPTIONS: "no rule permits IPv4 options",
    ReasonCode.ROUTING_HEADER: "no rule permits routing headers",
    ReasonCode.EXTENSION_HEADERS: "no rule permits such extension headers",
    ReasonCode.MALFORMED: "no rule permits malformed packets",
    ReasonCode.TRANSLATED: "the destination was rewritten after connect: both must be permitted",
    ReasonCode.NO_STORAGE: "the kernel had no memory for the socket: no rule helps",
    ReasonCode.NO_SANDBOX: "no policy was bound to the cgroup: no rule helps",
    ReasonCode.NOT_A_QUESTION: "a declared DNS server takes single DNS questions: no rule helps",
    ReasonCode.NETNS: (
        "DNS is for the network namespace the sandbox was admitted with: no rule helps"
    ),
    ReasonCode.FORGED: "no rule permits packets in the name of a declared DNS server",
    ReasonCode.SIGNATURE: (
        "a rule permits the flow; what it says is let through by except on that rule, or by detect"
    ),
    ReasonCode.UNREADABLE: (
        "what cannot be judged passes only where detect blocks nothing: send it with plain writes"
    ),
}
_TERM_HELPS = {
    ReasonCode.NO_SERVER_NAME: "sni: optional",
    ReasonCode.ECH: "ech: outer",
    ReasonCode.QUIC: "quic: allow",
}
_INSPECTED = {
    Inspect.ALL: "what is said is read, in clear and inside TLS",
    Inspect.WIRE: "nothing inside TLS is read",
    Inspect.NONE: "what is said is not read, in clear or inside TLS",
}
_NAMED = (ReasonCode.QUESTION, ReasonCode.SERVER_NAME, ReasonCode.PROXY_TARGET)
"""Reasons that are about a name the sandbox asked for or said."""

# Names that YAML takes for something else (on, null, 1e5) are quoted.
_PLAIN = re.compile(r"[a-z_][a-z0-9_-]*(\.[a-z0-9_-]+)+")


def permit_line(
    *,
    protocol: int,
    remote: Endpoint | NamedEndpoint,
    direction: Direction = Direction.OUT,
    local_port: int = 0,
    name: str | None = None,
) -> str | None:
    """Return the YAML of the narrowest rule that permits the flow, or None if none can.

    It belongs under ``allow``, or under ``inbound`` for IN. It speaks of the name where one is
    known, unless the address lies in a reserved block, which names do not open.

    Args:
        protocol: IANA protocol number.
        remote: The other end.
        direction: Who opened the flow.
        local_port: The sandbox's own port; counts for IN only.
        name: Under which the sandbox learned the address of *remote*.
    """
    inbound = direction is Direction.IN
    ports = _ports(protocol, local_port if inbound else remote.port)
    if ports is None:
        return None
    if isinstance(remote, NamedEndpoint):
        return _host_line(remote.name, ports)
    address = canonical(remote.address) if inbound else destination(remote.address)
    if name is not None and not inbound and innermost_block(address) is None:
        line = _host_line(name, ports)
        if line is not None:
            return line
    return _cidr_line(address, ports)


def suggest(
    *,
    protocol: int,
    remote: Endpoint | NamedEndpoint | None,
    direction: Direction,
    local_port: int = 0,
    code: ReasonCode = ReasonCode.NO_RULE,
    rule: str | None = None,
    name: str | None = None,
) -> str:
    """Return one line that says what would permit a denied flow, or why nothing can.

    Args:
        protocol: IANA protocol number.
        remote: The other end; None where the hook knew none (a refused socket).
        direction: Who opened the flow.
        local_port: The sandbox's own port; counts for IN only.
        code: Why it was denied.
        rule: Id of the rule that denied it, or whose terms did, if one did.
        name: What was asked or said, where the denial is about that; else the name under which
            the sandbox learned the address of *remote*. As the sandbox chose it.
    """
    if code is ReasonCode.RULE or (code is ReasonCode.QUESTION and rule is not None):
        return f"no allow can undo it: denied by {rule or 'a deny rule'}"
    if text := _NO_RULE_HELPS.get(code):
        return text
    if term := _TERM_HELPS.get(code):
        return f"{term} on {rule or 'the rule'} that permits {_host(name) or 'the name'}"
    if code in _NAMED:
        return _suggest_name(code, remote, name)
    if code is ReasonCode.REBINDING and isinstance(remote, Endpoint):
        # Whatever its ports, it opens the address to names, for the ports of their own rules.
        return f"under allow: {_cidr_line(canonical(remote.address), str(HTTPS_PORT))}"
    section = "allow" if direction is Direction.OUT else "inbound"
    if code is ReasonCode.SOCKET_TYPE or remote is None:
        ports = _ports(protocol, 0)
        if ports is None or protocol in (L4Protocol.TCP, L4Protocol.UDP):
            return "no rule permits raw sockets"
        return f"under allow: a rule with ports: [{ports}] (raw sockets never)"
    line = permit_line(
        protocol=protocol, remote=remote, direction=direction, local_port=local_port, name=name
    )
    if line is None:
        return _no_line(protocol, remote)
    return f"under {section}: {line}"


def _no_line(protocol: int, remote: Endpoint | NamedEndpoint) -> str:
    if isinstance(remote, NamedEndpoint) and _ports(protocol, remote.port) is not None:
        return "no rule can name that"
    return f"no rule permits IP protocol {protocol}"


def _suggest_name(
    code: ReasonCode, remote: Endpoint | NamedEndpoint | None, name: str | None
) -> str:
    # The port a question is for is not known, nor what a proxy was asked for beside the name.
    port = remote.port if remote and code is ReasonCode.SERVER_NAME else HTTPS_PORT
    if name is not None and (line := _address_line(name, port) or _host_line(name, str(port))):
        return f"under allow: {line}"
    if code is ReasonCode.PROXY_TARGET:
        return "what a proxy is asked for must be permitted by another rule"
    return "no rule can name that"


def _address_line(text: str, port: int) -> str | None:
    try:
        address = canonical(ipaddress.ip_address(text))
    except ValueError:
        return None
    return _cidr_line(address, str(port))


def _host_line(name: str, ports: str) -> str | None:
    host = _host(name)
    if host is None:
        return None
    line = f"host: {host}"
    if ports != str(HTTPS_PORT):
        line += f", ports: [{ports}]"
    if suffix_kind(host.strip('"')) is SuffixKind.SHARED:
        line += ", shared_suffix: true"
    return f"- {{{line}}}"


def _host(name: str | None) -> str | None:
    """Return *name* as a policy file has it; None if no rule can name it."""
    try:
        host = parse_name(name or "")
    except ValueError:
        return None
    if suffix_kind(host) is SuffixKind.REGISTRY:
        return None
    return host if _PLAIN.fullmatch(host) else f'"{host}"'


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


def _cidr_line(address: IPAddress, ports: str) -> str:
    # Unquoted, "::1" within braces is not YAML.
    cidr = f'"{address}"' if address.version == 6 else str(address)
    return f"- {{cidr: {cidr}, ports: [{ports}]}}"


def describe_terms(terms: NameTerms) -> str:
    """Return the terms of an allow as policies write them, defaults included."""
    sni = "optional" if terms.sni_optional else "required"
    ech = "outer" if terms.ech_outer else "refuse"
    quic = "allow" if terms.quic else "refuse"
    return f"sni: {sni}, ech: {ech}, quic: {quic}"


def describe_inspect(inspect: Inspect) -> str:
    """Return what ``inspect`` on a rule comes to: ``wire: nothing inside TLS is read``."""
    return f"{inspect.value}: {_INSPECTED[inspect]}"


def labels_below(pattern: NamePattern, name: str) -> int:
    """Return how many labels of *name* the star of *pattern* stands for; 0 without a star."""
    return name.count(".") - pattern.name.count(".")
