# SPDX-License-Identifier: Apache-2.0
"""ctypes mirror of ``bpf/plain.h``, the part of ``bpf/abi.h`` that is about TLS libraries."""

from __future__ import annotations

import ctypes
import enum


class PlainAct(enum.IntEnum):
    """``enum aw_plain_act``."""

    SHAKE = 1
    SAY = 2
    HEAR = 3
    END = 4


class PlainLibrary(enum.IntEnum):
    """``enum aw_plain_library``."""

    OPENSSL = 1
    GNUTLS = 2
    NSS = 3


class PlainCall(ctypes.Structure):
    """``struct aw_plain_call``: value of ``aw_plain_calls``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
        ("connection", ctypes.c_uint64),
        ("before", ctypes.c_uint64),
        ("text", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("since_ns", ctypes.c_uint64),
        ("cookie", ctypes.c_uint64),
        ("process", ctypes.c_uint32),
        ("turn", ctypes.c_uint32),
        ("place", ctypes.c_uint16),
        ("act", ctypes.c_uint8),
        ("library", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 4),
    )


class PlainKey(ctypes.Structure):
    """``struct aw_plain_key``: key of ``aw_plain_connections``."""

    _fields_ = (
        ("sandbox", ctypes.c_uint64),
        ("connection", ctypes.c_uint64),
        ("process", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    )


class PlainCounters(ctypes.Structure):
    """``struct aw_plain_counters``: value, on each CPU, of ``aw_plain_counters``."""

    _fields_ = (
        ("calls", ctypes.c_uint64),
        ("foreign", ctypes.c_uint64),
        ("doubled", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("unreadable", ctypes.c_uint64),
        ("connections", ctypes.c_uint64),
        ("joined", ctypes.c_uint64),
        ("octets", ctypes.c_uint64),
    )
