# SPDX-License-Identifier: Apache-2.0
"""Verdicts and their reasons, as events, reports and tests spell them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What happens to a flow."""

    ALLOW = "allow"
    DENY = "deny"
    WOULD_DENY = "would-deny"
    """Let through, but the rules refuse it (audit mode). Counts as denied in every report."""


class Mode(enum.Enum):
    """How a policy is applied."""

    OBSERVE = "observe"
    """Record; judge nothing."""
    AUDIT = "audit"
    """Judge; let everything through; record ``would-deny``."""
    ENFORCE = "enforce"


class Direction(enum.Enum):
    """Who opened the flow."""

    OUT = "out"
    IN = "in"


class ReasonCode(enum.Enum):
    """Why a verdict is what it is. ``enum aw_reason`` in ``bpf/abi.h`` has the same members."""

    RULE = "rule"
    """The rule named in the event decided."""
    NO_RULE = "no-rule"
    """No rule matches, and what no rule allows is denied."""
    LOOPBACK = "loopback"
    """The sandbox's own loopback."""
    SOCKET_TYPE = "socket-type"
    """A socket of a type or protocol that the policy does not name (raw ones never)."""
    FRAGMENT = "fragment"
    """A forged fragment: cgroup_skb sees packets before the kernel fragments them."""
    IP_OPTIONS = "ip-options"
    """IPv4 options, which may reroute the packet."""
    ROUTING_HEADER = "routing-header"
    EXTENSION_HEADERS = "extension-headers"
    """More IPv6 extension headers than are walked, or an unknown one."""
    MALFORMED = "malformed"
    TRANSLATED = "translated"
    """Something rewrote the destination after connect; the event names both."""
    NO_STORAGE = "no-storage"
    """The kernel had no memory for the socket's state."""
    NO_SANDBOX = "no-sandbox"
    """No policy is bound to the cgroup yet."""
    OBSERVED = "observed"
    """Observe mode: nothing was judged."""
    RESOLVER = "resolver"
    """A declared DNS server: each question there is judged on its own."""
    QUESTION = "question"
    """A DNS question for a name that no rule permits."""
    NOT_A_QUESTION = "not-a-question"
    """To a declared DNS server, but not one plain question."""
    NETNS = "netns"
    """DNS in another network namespace than the one the sandbox was admitted with."""
    FORGED = "forged"
    """Sent in the name of a declared DNS server."""
    REBINDING = "rebinding"
    """A DNS answer with a reserved address that no rule on addresses allows."""
    SERVER_NAME = "server-name"
    """TLS or HTTP names a server that no rule permits at that port."""
    NO_SERVER_NAME = "no-server-name"
    """TLS without a server name, to an address that is permitted by name."""
    ECH = "ech"
    """TLS with an encrypted hello, to an address that is permitted by name."""
    QUIC = "quic"
    """QUIC to an address that is permitted by name."""
    PROXY_TARGET = "proxy-target"
    """A proxy is asked for what no rule permits."""
    SIGNATURE = "signature"
    """What the flow says matches a signature."""
    UNREADABLE = "unreadable"
    """What the flow says cannot be judged by what is read of it: lent pages, urgent data, a second
    path of MPTCP."""


class Hook(enum.Enum):
    """The kernel hook that decided. ``enum aw_hook`` in ``bpf/abi.h`` has the same members."""

    CONNECT4 = "connect4"
    CONNECT6 = "connect6"
    SENDMSG4 = "sendmsg4"
    SENDMSG6 = "sendmsg6"
    SOCK_CREATE = "sock_create"
    EGRESS = "egress"
    INGRESS = "ingress"
    SOCK_RELEASE = "sock_release"
    PLAIN = "plain"
    """A call of a TLS library, before encryption or after decryption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why, and by which line of which file."""

    code: ReasonCode
    rule: str | None = None
    """``<policy>:allow[1]``, or None where no rule decided."""
    file: str | None = None
    line: int | None = None
