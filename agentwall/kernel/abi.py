# SPDX-License-Identifier: Apache-2.0
"""ctypes mirror of ``bpf/abi.h``, the layout of what the BPF programs and Python share.

``tests/kernel/test_abi.py`` compares every offset, size and enumerator with clang's; the loader
compares :data:`MAP_LAYOUTS` with the loaded object. Nothing but layout lives here; ``decode`` and
``maps`` give it meaning.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass

from agentwall.kernel.abi_event import COMM_LEN, Event
from agentwall.kernel.abi_plain import PlainCall, PlainCounters
from agentwall.kernel.abi_scan import ExceptKey, Signatures

MAX_PROTOCOLS = 8
NO_RULE = 0xFFFF_FFFF
NAME_LEN = 254
"""Bytes of a name as keys hold it: :class:`NameKey`."""
NAMES_OF_ADDRESS = 8
SET_PERMITS = 0x8000_0000
"""Bit of :attr:`IntervalSet.count`: some interval of the set allows."""
SET_CLOSED = 0x4000_0000
"""Bit of it: a reserved block without an allow, where names open nothing."""
SET_COUNT = 0x3FFF_FFFF
TERM_RESOLVER = 0x0100
"""The first of the bits of :attr:`Interval.verdict` above the verdict."""
TERM_SNI_OPTIONAL = 0x0200
TERM_ECH_OUTER = 0x0400
TERM_QUIC = 0x0800
TERM_PROXY = 0x1000
TERM_UNREAD = 0x2000
DNS_DECLARED = 0x01
"""The first of the bits of :attr:`Sandbox.dns`."""
DNS_ASK_ANY = 0x02
DNS_SEARCH = 0x04
DNS_NAMES = 0x08
DNS_LOCAL = 0x10
DNS_BELT = 0x20
BELT_STANDS = 0x1
"""The first of the bits of ``aw_belts``' values."""
BELT_TRANSLATED = 0x2


class Verdict(enum.IntEnum):
    """``enum aw_verdict``."""

    NONE = 0
    ALLOW = 1
    DENY = 2
    WOULD_DENY = 3


class Mode(enum.IntEnum):
    """``enum aw_mode``."""

    ENFORCE = 0
    AUDIT = 1
    OBSERVE = 2


class Loopback(enum.IntEnum):
    """``enum aw_loopback``."""

    CLOSED = 0
    OWN_LISTENERS = 1
    FREE = 2


class Plain(enum.IntEnum):
    """``enum aw_plain``."""

    OFF = 0
    ALL = 1
    JOINED = 2


class Direction(enum.IntEnum):
    """``enum aw_direction``."""

    OUT = 0
    IN = 1


class Hook(enum.IntEnum):
    """``enum aw_hook``."""

    CONNECT4 = 1
    CONNECT6 = 2
    SENDMSG4 = 3
    SENDMSG6 = 4
    SOCK_CREATE = 5
    EGRESS = 6
    INGRESS = 7
    SOCK_RELEASE = 8
    PLAIN = 9


class Reason(enum.IntEnum):
    """``enum aw_reason``."""

    RULE = 1
    NO_RULE = 2
    LOOPBACK = 3
    SOCKET_TYPE = 4
    FRAGMENT = 5
    IP_OPTIONS = 6
    ROUTING_HEADER = 7
    EXTENSION_HEADERS = 8
    MALFORMED = 9
    TRANSLATED = 10
    NO_STORAGE = 11
    NO_SANDBOX = 12
    OBSERVED = 13
    RESOLVER = 14
    QUESTION = 15
    NOT_A_QUESTION = 16
    NETNS = 17
    FORGED = 18
    REBINDING = 19
    SERVER_NAME = 20
    NO_SERVER_NAME = 21
    ECH = 22
    QUIC = 23
    PROXY_TARGET = 24
    SIGNATURE = 25
    UNREADABLE = 26


class NameDepth(enum.IntEnum):
    """``enum aw_name_depth``."""

    EXACT = 0
    LABEL = 1
    BELOW = 2


class Sandbox(ctypes.Structure):
    """``struct aw_sandbox``: value of ``aw_sandboxes``."""

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("netns", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("alerts", ctypes.c_uint64),
        ("until_ns", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
        ("min_ttl_s", ctypes.c_uint32),
        ("max_addresses", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("refuse_errno", ctypes.c_uint16),
        ("names", ctypes.c_uint16),
        ("mode", ctypes.c_uint8),
        ("loopback", ctypes.c_uint8),
        ("dns", ctypes.c_uint8),
        ("protocols", ctypes.c_uint8 * MAX_PROTOCOLS),
        ("signatures", ctypes.c_uint8),
        ("scope", ctypes.c_uint8),
        ("plain", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 6),
    )


class RuleKey(ctypes.Structure):
    """``struct aw_rule_key``: key of ``aw_rules``."""

    _fields_ = (
        ("prefixlen", ctypes.c_uint32),
        ("table", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 16),
    )


class IntervalSet(ctypes.Structure):
    """``struct aw_interval_set``: value of ``aw_rules``."""

    _fields_ = (
        ("start", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    )


class Interval(ctypes.Structure):
    """``struct aw_interval``: value of ``aw_intervals``."""

    _fields_ = (
        ("first", ctypes.c_uint32),
        ("last", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("verdict", ctypes.c_uint32),
    )


class NameKey(ctypes.Structure):
    """``struct aw_name_key``: key of ``aw_names``."""

    _fields_ = (
        ("prefixlen", ctypes.c_uint32),
        ("table", ctypes.c_uint16),
        ("text", ctypes.c_uint8 * NAME_LEN),
    )


class NameRules(ctypes.Structure):
    """``struct aw_name_rules``: value of ``aw_names``."""

    _fields_ = (
        ("sets", IntervalSet * 3),
        ("length", ctypes.c_uint16),
        ("wider", ctypes.c_uint16),
        ("asks", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 3),
    )


class KnownKey(ctypes.Structure):
    """``struct aw_known_key``: key of ``aw_known``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
        ("name", ctypes.c_uint64),
    )


class Known(ctypes.Structure):
    """``struct aw_known``: value of ``aw_known``; user space sees its lock as 0."""

    _fields_ = (
        ("lock", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("set", IntervalSet),
        ("seen_ns", ctypes.c_uint64),
        ("addresses", ctypes.c_uint32),
        ("length", ctypes.c_uint16),
        ("text", ctypes.c_uint8 * NAME_LEN),
        ("_pad", ctypes.c_uint8 * 4),
    )


class BoundKey(ctypes.Structure):
    """``struct aw_bound_key``: key of ``aw_bound``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
        ("address", ctypes.c_uint8 * 16),
    )


class Binding(ctypes.Structure):
    """``struct aw_binding``."""

    _fields_ = (
        ("name", ctypes.c_uint64),
        ("until_ns", ctypes.c_uint64),
    )


class Bound(ctypes.Structure):
    """``struct aw_bound``: value of ``aw_bound``; user space sees its lock as 0."""

    _fields_ = (
        ("lock", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("names", Binding * NAMES_OF_ADDRESS),
    )


class NameEvent(ctypes.Structure):
    """``struct aw_name_event``: also a payload of ``aw_denials``."""

    _fields_ = (
        ("event", Event),
        ("type", ctypes.c_uint16),
        ("length", ctypes.c_uint16),
        ("text", ctypes.c_uint8 * NAME_LEN),
        ("_pad", ctypes.c_uint8 * 6),
    )


class FlowKey(ctypes.Structure):
    """``struct aw_flow_key``: key of ``aw_flow_table``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
        ("name", ctypes.c_uint64),
        ("remote", ctypes.c_uint8 * 16),
        ("generation", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("direction", ctypes.c_uint8),
        ("verdict", ctypes.c_uint8),
        ("reason", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 6),
    )


class Flow(ctypes.Structure):
    """``struct aw_flow``: value of ``aw_flow_table``."""

    _fields_ = (
        ("first_ns", ctypes.c_uint64),
        ("last_ns", ctypes.c_uint64),
        ("bytes_out", ctypes.c_uint64),
        ("bytes_in", ctypes.c_uint64),
        ("duration_ns", ctypes.c_uint64),
        ("sockets", ctypes.c_uint64),
        ("uid", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("comm", ctypes.c_char * COMM_LEN),
    )


class Counters(ctypes.Structure):
    """``struct aw_counters``: value of ``aw_counters``."""

    _fields_ = (
        ("denied", ctypes.c_uint64),
        ("would_denied", ctypes.c_uint64),
        ("probes", ctypes.c_uint64),
        ("lost_denials", ctypes.c_uint64),
        ("lost_flows", ctypes.c_uint64),
        ("lost_totals", ctypes.c_uint64),
        ("lost_names", ctypes.c_uint64),
        ("bound", ctypes.c_uint64),
        ("lost_excerpts", ctypes.c_uint64),
        ("matches", ctypes.c_uint64),
        ("window", ctypes.c_uint64),
        ("events", ctypes.c_uint64),
        ("hello_window", ctypes.c_uint64),
        ("hellos", ctypes.c_uint64),
        ("lost_hellos", ctypes.c_uint64),
    )


class BeltKey(ctypes.Structure):
    """``struct aw_belt_key``: key of ``aw_belts``."""

    _fields_ = (
        ("netns", ctypes.c_uint64),
        ("ifindex", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Key and value size of one map, in bytes."""

    key_size: int
    value_size: int


def _layout(key: type[ctypes.Structure] | int, value: type[ctypes.Structure] | int) -> MapLayout:
    sizes = [part if isinstance(part, int) else ctypes.sizeof(part) for part in (key, value)]
    return MapLayout(*sizes)


MAP_LAYOUTS: dict[str, MapLayout] = {
    "aw_sandbox_id": _layout(8, 8),
    "aw_slots": _layout(8, 4),
    "aw_sandboxes": _layout(4, Sandbox),
    "aw_rules": _layout(RuleKey, IntervalSet),
    "aw_intervals": _layout(4, Interval),
    "aw_names": _layout(NameKey, NameRules),
    "aw_known": _layout(KnownKey, Known),
    "aw_bound": _layout(BoundKey, Bound),
    "aw_flow_table": _layout(FlowKey, Flow),
    "aw_counters": _layout(8, Counters),
    "aw_belts": _layout(BeltKey, 4),
    "aw_signatures": _layout(4, Signatures),
    "aw_excepts": _layout(ExceptKey, 8),
    "aw_plain_cgroups": _layout(8, 8),
    "aw_plain_calls": _layout(8, PlainCall),
    "aw_plain_next": _layout(4, 4),
    "aw_plain_counters": _layout(4, PlainCounters),
}
"""The maps that Python reads and writes; ring buffers have no key and no value."""

RINGS: tuple[str, str] = ("aw_denials", "aw_flows")
EXCERPTS = "aw_excerpts"
