# SPDX-License-Identifier: Apache-2.0
"""The words for flows, processes and reasons that console, tables and markdown share. Pure.

Everything returned is one line and safe on a terminal: what a sandbox chose went through
:func:`printable`.
"""

from __future__ import annotations

import errno
import signal
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address

from agentwall.flow.record import Process
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress
from agentwall.net.ports import protocol_name
from agentwall.sinks.escape import printable, shorten

_MAX_NAME = 60
_MAX_PATH = 120
_SOCKET_TYPES = {1: "stream", 2: "datagram", 3: "raw", 5: "seqpacket", 6: "dccp", 10: "packet"}
_WITH_PORTS = (6, 17, 33, 132, 136)
"""TCP, UDP, DCCP, SCTP, UDP-Lite."""

_HOOKS = {
    Hook.CONNECT4: "connect",
    Hook.CONNECT6: "connect",
    Hook.SENDMSG4: "sendmsg",
    Hook.SENDMSG6: "sendmsg",
    Hook.SOCK_CREATE: "socket",
    Hook.EGRESS: "outgoing packet",
    Hook.INGRESS: "incoming packet",
    Hook.SOCK_RELEASE: "end of flow",
    Hook.PLAIN: "inside TLS",
}

_REASONS = {
    ReasonCode.RULE: "a rule decided",
    ReasonCode.NO_RULE: "no rule allows it",
    ReasonCode.LOOPBACK: "the policy's loopback setting",
    ReasonCode.SOCKET_TYPE: "the policy does not name this kind of socket",
    ReasonCode.FRAGMENT: "a forged fragment",
    ReasonCode.IP_OPTIONS: "IPv4 options, which can reroute a packet",
    ReasonCode.ROUTING_HEADER: "an IPv6 routing header",
    ReasonCode.EXTENSION_HEADERS: "too many or unknown IPv6 extension headers",
    ReasonCode.MALFORMED: "a malformed packet",
    ReasonCode.TRANSLATED: "the destination was rewritten after connect",
    ReasonCode.NO_STORAGE: "the kernel had no memory for the socket's state",
    ReasonCode.NO_SANDBOX: "no policy is bound to the cgroup",
    ReasonCode.OBSERVED: "observe mode judges nothing",
    ReasonCode.RESOLVER: "a declared DNS server",
    ReasonCode.QUESTION: "no rule permits the name",
    ReasonCode.NOT_A_QUESTION: "a declared DNS server takes one plain question at a time",
    ReasonCode.NETNS: "DNS from another network namespace than the sandbox's",
    ReasonCode.FORGED: "sent in the name of a declared DNS server",
    ReasonCode.REBINDING: "a reserved address, which no rule on addresses allows",
    ReasonCode.SERVER_NAME: "no rule permits the server that TLS or HTTP names there",
    ReasonCode.NO_SERVER_NAME: "TLS without a server name, where names decide",
    ReasonCode.ECH: "TLS with an encrypted hello, where names decide",
    ReasonCode.QUIC: "QUIC, where names decide",
    ReasonCode.PROXY_TARGET: "no rule permits what the proxy is asked for",
    ReasonCode.SIGNATURE: "what is said matches a signature",
    ReasonCode.UNREADABLE: "what is said could change after it was read, or go another way",
}

NOT_LEARNED = "names"
"""The place of gaps that are about addresses in DNS answers, not about events."""
NOT_DECODED = "excerpts"
"""The place of gaps that are about bytes of flows for the decoders, not about events."""
NOT_RECORDS = frozenset({NOT_LEARNED, NOT_DECODED})
"""The places of gaps in which no record is missing."""

_LOSSES = {
    "denials": "reports of denials: more at a time than there is room for",
    "flows": "reports of permitted flows: the kernel's ring was full",
    "flow-table": "flows whose bytes were not counted: the kernel's table was full",
    "decode": "events the kernel sent in a form nobody could read",
    "event-file": "events that could not be written to the event file",
    "event-queue": "events that found no room on their way to the event file: a slow disk",
    NOT_LEARNED: "addresses not learned: no room for them, or too many for one name",
    NOT_DECODED: "packets that no decoder saw: the kernel's ring was full",
}


def has_ports(protocol: int) -> bool:
    """Say whether a port means anything for *protocol*."""
    return protocol in _WITH_PORTS


def describe_loss(where: str) -> str:
    """Return what was lost at *where*, as gap records spell it."""
    return _LOSSES.get(where) or f"events at {printable(where)}"


def describe_verdict(verdict: Verdict) -> str:
    """Return the verdict as a participle: ``permitted``, ``denied`` or ``would be denied``."""
    return {
        Verdict.ALLOW: "permitted",
        Verdict.DENY: "denied",
        Verdict.WOULD_DENY: "would be denied",
    }[verdict]


def describe_address(address: IPAddress, port: int | None) -> str:
    """Return ``203.0.113.7:443``, ``[2001:db8::1]:443``, or the address alone without a port."""
    text = str(address)
    if port is None:
        return text
    return f"[{text}]:{port}" if isinstance(address, IPv6Address) else f"{text}:{port}"


def describe_flow(
    direction: Direction, protocol: int, remote: Endpoint | None, port: int, socket_type: int
) -> str:
    """Return what was tried and where to, such as ``tcp 203.0.113.7:443`` or ``raw socket (icmp)``.

    Args:
        direction: Of whoever opened the flow.
        protocol: IANA number.
        remote: None for a socket that was refused before it had a destination.
        port: The port that was judged: the remote one outward, the sandbox's own inward, where 0
            means that it is not known.
        socket_type: SOCK_STREAM and so on, 0 if not known.
    """
    name = protocol_name(protocol)
    if remote is None:
        kind = _SOCKET_TYPES.get(socket_type, f"type {socket_type}" if socket_type else "a")
        return f"{kind} socket ({name})"
    has_port = has_ports(protocol)
    if direction is Direction.IN:
        to = f" to port {port}" if has_port and port else ""
        return f"{name} from {describe_address(remote.address, None)}{to}"
    return f"{name} {describe_address(remote.address, port if has_port else None)}"


def describe_name(process: Process | None) -> str:
    """Return the process's name, escaped."""
    if process is None or (not process.pid and not process.comm):
        return "unknown process"
    return shorten(printable(process.comm), _MAX_NAME) or "(no name)"


def describe_process(process: Process | None) -> str:
    """Return ``curl[1234]``."""
    name = describe_name(process)
    return f"{name}[{process.pid}]" if process is not None and process.pid else name


def describe_program(process: Process | None) -> str:
    """Return the path of the process's program, escaped, or nothing if it is not known."""
    if process is None or process.exe is None:
        return ""
    return shorten(printable(process.exe), _MAX_PATH)


def describe_hook(hook: Hook, errno_: int | None) -> str:
    """Return where the kernel decided and what the application was told: ``connect, EPERM``."""
    if errno_:
        return f"{_HOOKS[hook]}, {errno.errorcode.get(errno_, f'errno {errno_}')}"
    return _HOOKS[hook]


def describe_reason(reason: Reason) -> str:
    """Return why, and by which rule at which ``file:line``."""
    if reason.rule is None:
        return _REASONS[reason.code]
    where = describe_place(reason)
    rule = printable(reason.rule)
    text = f"{rule} at {where}" if where else rule
    return text if reason.code is ReasonCode.RULE else f"{_REASONS[reason.code]}: {text}"


def describe_place(reason: Reason) -> str:
    """Return ``file:line`` of the rule, or nothing."""
    if reason.file is None:
        return ""
    file = printable(reason.file)
    return file if reason.line is None else f"{file}:{reason.line}"


def describe_bytes(size: int | None) -> str:
    """Return ``1.5 kB``; decimal units, three digits; ``-`` if not known."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    if unit == "B":
        return f"{size} B"
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def describe_count(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 denial`` or ``2 denials``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def describe_duration(duration_ns: int | None) -> str:
    """Return ``1.5 s``, ``250 ms``, ``2 h 05 min``; ``-`` if not known."""
    if duration_ns is None:
        return "-"
    seconds = duration_ns / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{round(seconds, 1):g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe_moment(time_ns: int) -> str:
    """Return the date and time of day in UTC, to the second."""
    return _moment(time_ns).strftime("%Y-%m-%d %H:%M:%S")


def describe_clock(time_ns: int, width_ns: int) -> str:
    """Return the time of day in UTC, as exact as steps of *width_ns* need; a date where days do."""
    if width_ns >= 86_400_000_000_000:
        return _moment(time_ns).strftime("%Y-%m-%d")
    text = _moment(time_ns).strftime("%H:%M:%S")
    if width_ns >= 1_000_000_000:
        return text
    return f"{text}.{time_ns % 1_000_000_000 // 1_000_000:03d}"


def _moment(time_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // 1_000_000_000)


def describe_exit(code: int) -> str:
    """Return ``exit code 1``, or the signal's name for the codes shells use for one."""
    if 128 < code <= 128 + signal.NSIG:
        try:
            return f"{signal.Signals(code - 128).name} (exit code {code})"
        except ValueError:
            return f"exit code {code}"
    return f"exit code {code}"
