# SPDX-License-Identifier: Apache-2.0
"""Whether a UDP datagram is one that opens a QUIC connection.

``aw_is_quic()`` in ``bpf/hello.bpf.h`` says the same.
"""

from __future__ import annotations

_LONG_HEADER, _FIXED = 0x80, 0x40
_LEAST = 1200
_MAX_ID = 20
_IN_USE = {0, 1, 0x6B3343CF}
"""Version negotiation, RFC 9000, RFC 9369."""
_DRAFTS = 0xFF0000


def is_quic(payload: bytes) -> bool:
    """Say whether a datagram can open a QUIC connection.

    It has the long header (RFC 8999 section 5.1) of whatever type and version, since servers know
    versions that this does not, and the size below which servers discard it (RFC 9000 section
    14.1): NTP and DNS look alike but are short. Without the fixed bit (RFC 9287), where RTP has its
    version (RFC 9443), the version has to be one in use.
    """
    if len(payload) < _LEAST or not payload[0] & _LONG_HEADER:
        return False
    version = int.from_bytes(payload[1:5])
    if not payload[0] & _FIXED and version not in _IN_USE and version >> 8 != _DRAFTS:
        return False
    first = payload[5]
    return first <= _MAX_ID and payload[6 + first] <= _MAX_ID
