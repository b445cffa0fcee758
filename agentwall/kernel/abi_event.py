# SPDX-License-Identifier: Apache-2.0
"""ctypes mirror of ``struct aw_event`` in ``bpf/abi.h``, which longer events begin with."""

from __future__ import annotations

import ctypes

COMM_LEN = 16


class Event(ctypes.Structure):
    """``struct aw_event``: payload of ``aw_denials`` and ``aw_flows``."""

    _fields_ = (
        ("time_ns", ctypes.c_uint64),
        ("sandbox", ctypes.c_uint64),
        ("cookie", ctypes.c_uint64),
        ("name", ctypes.c_uint64),
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
