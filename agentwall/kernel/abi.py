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

COMM_LEN = 16
MAX_PROTOCOLS = 8
NO_RULE = 0xFFFF_FFFF
SET_PERMITS = 0x8000_0000
"""Bit of :attr:`IntervalSet.count`: some interval of the set allows."""


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


class Sandbox(ctypes.Structure):
    """``struct aw_sandbox``: value of ``aw_sandboxes``."""

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("refuse_errno", ctypes.c_uint16),
        ("mode", ctypes.c_uint8),
        ("loopback", ctypes.c_uint8),
        ("protocols", ctypes.c_uint8 * MAX_PROTOCOLS),
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


class Event(ctypes.Structure):
    """``struct aw_event``: payload of ``aw_denials`` and ``aw_flows``."""

    _fields_ = (
        ("time_ns", ctypes.c_uint64),
        ("sandbox", ctypes.c_uint64),
        ("cookie", ctypes.c_uint64),
        ("remote", ctypes.c_uint8 * 16),
        ("claimed", ctypes.c_uint8 * 16),
        ("local", ctypes.c_uint8 * 16),
        ("generation", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("remote_port", ctypes.c_uint16),
        ("claimed_port", ctypes.c_uint16),
        ("local_port", ctypes.c_uint16),
        ("errno_", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("hook", ctypes.c_uint8),
        ("verdict", ctypes.c_uint8),
        ("reason", ctypes.c_uint8),
        ("direction", ctypes.c_uint8),
        ("socket_type", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 6),
        ("comm", ctypes.c_char * COMM_LEN),
    )


class FlowKey(ctypes.Structure):
    """``struct aw_flow_key``: key of ``aw_flow_table``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
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
    "aw_sandboxes": _layout(8, Sandbox),
    "aw_rules": _layout(RuleKey, IntervalSet),
    "aw_intervals": _layout(4, Interval),
    "aw_flow_table": _layout(FlowKey, Flow),
    "aw_counters": _layout(8, Counters),
}
"""The maps that Python reads and writes; ring buffers have no key and no value."""

RINGS: tuple[str, str] = ("aw_denials", "aw_flows")
