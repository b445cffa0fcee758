# SPDX-License-Identifier: Apache-2.0
"""ctypes mirror of ``bpf/signatures.h``, the part of ``bpf/abi.h`` that is about signatures."""

from __future__ import annotations

import ctypes
import enum

from agentwall.kernel.abi_event import Event

SIGNATURE_TABLES = 2
STATES = 65536
GROUPS = 256
CELLS = 1 << 20
ACCEPTS = 2048
MATCH_BYTES = 512
EXCERPT_BYTES = 1024
HELLO_BYTES = 2048
GROUP_HAND_OVER = 1 << 63
"""Bit of :attr:`Accept.groups`: decoders are to see the flow."""


class Transport(enum.IntEnum):
    """``enum aw_transport``."""

    TCP = 0
    UDP = 1
    ICMP = 2


class Side(enum.IntEnum):
    """``enum aw_side``."""

    CLIENT = 0
    SERVER = 1


class Accept(ctypes.Structure):
    """``struct aw_accept``."""

    _fields_ = (
        ("groups", ctypes.c_uint64),
        ("certain", ctypes.c_uint64),
    )


class Signatures(ctypes.Structure):
    """``struct aw_signatures``: value of ``aw_signatures``."""

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("first_accepting", ctypes.c_uint32),
        ("starts", ctypes.c_uint16 * 6),
        ("_pad", ctypes.c_uint8 * 4),
        ("accepts", Accept * ACCEPTS),
        ("base", ctypes.c_uint32 * STATES),
        ("accept_of", ctypes.c_uint16 * STATES),
        ("end_of", ctypes.c_uint16 * STATES),
        ("next", ctypes.c_uint16 * CELLS),
        ("group_of", ctypes.c_uint8 * STATES),
        ("classes", ctypes.c_uint8 * 256 * GROUPS),
    )


class ExceptKey(ctypes.Structure):
    """``struct aw_except_key``: key of ``aw_excepts``."""

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
    )


class MatchEvent(ctypes.Structure):
    """``struct aw_match_event``: also a payload of ``aw_denials``."""

    _fields_ = (
        ("event", Event),
        ("table", ctypes.c_uint32),
        ("position", ctypes.c_uint32),
        ("left", ctypes.c_uint32),
        ("accept", ctypes.c_uint16),
        ("length", ctypes.c_uint16),
        ("side", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 7),
        ("text", ctypes.c_uint8 * MATCH_BYTES),
    )


class ExcerptEvent(ctypes.Structure):
    """``struct aw_excerpt_event``: payload of ``aw_excerpts``."""

    _fields_ = (
        ("event", Event),
        ("position", ctypes.c_uint32),
        ("length", ctypes.c_uint16),
        ("side", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8),
        ("text", ctypes.c_uint8 * EXCERPT_BYTES),
    )


class HelloEvent(ctypes.Structure):
    """``struct aw_hello_event``: also a payload of ``aw_excerpts``."""

    _fields_ = (
        ("event", Event),
        ("length", ctypes.c_uint16),
        ("library", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 5),
        ("text", ctypes.c_uint8 * HELLO_BYTES),
    )
