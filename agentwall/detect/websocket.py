# SPDX-License-Identifier: Apache-2.0
"""The messages of one side of a WebSocket: unmasked, put together, unpacked.

RFC 6455 section 5 for frames, RFC 7692 for permessage-deflate. Bytes behind the upgrade in,
messages out; whatever cannot be a frame ends it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_UNPACKED = 1 << 18
"""Bytes of unpacked messages of one side."""
_MAX_FRAMES = 16384
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2
_CONTROL = {8, 9, 10}
_SYNC_FLUSH = b"\x00\x00\xff\xff"


@dataclass(frozen=True, slots=True)
class _Frame:
    final: bool
    packed: bool
    opcode: int
    payload: bytes
    end: int


class _Unpacker:
    """RFC 7692 section 7.2.2, with a budget; broken data unpacks to nothing."""

    def __init__(self, takeover: bool) -> None:
        self._takeover = takeover
        self._left = MAX_UNPACKED
        self._inflater = zlib.decompressobj(-15)
        self._broken = False

    def unpack(self, data: bytes) -> bytes:
        if self._broken or self._left <= 0:
            return b""
        if not self._takeover:
            self._inflater = zlib.decompressobj(-15)
        try:
            out = self._inflater.decompress(data + _SYNC_FLUSH, self._left)
        except zlib.error:
            self._broken = True
            return b""
        self._left -= len(out)
        return out


def read_websocket(data: bytes, *, takeover: bool = True) -> list[bytes]:
    """Read the messages that *data*, from the first frame on, holds.

    Args:
        data: What one side sent behind its part of the handshake.
        takeover: Whether packed messages refer to those before them. False where the handshake
            says ``no_context_takeover`` for this side.

    Returns:
        Text and binary messages in order; the last may lack its end.
    """
    found: list[bytes] = []
    parts: list[bytes] = []
    packed = False
    unpacker = _Unpacker(takeover)
    at = frames = 0
    while frames < _MAX_FRAMES and (frame := _read_frame(data, at)):
        frames += 1
        at = frame.end
        if frame.opcode in _CONTROL:
            continue
        if frame.opcode != _CONTINUATION:
            parts, packed = [], frame.packed
        parts.append(frame.payload)
        if frame.final or at >= len(data):
            message = b"".join(parts)
            found.append(unpacker.unpack(message) if packed else message)
            parts = []
    return found


def _read_frame(data: bytes, at: int) -> _Frame | None:
    if at + 2 > len(data):
        return None
    first, second = data[at], data[at + 1]
    opcode, size = first & 0x0F, second & 0x7F
    if first & 0x30 or opcode not in {_CONTINUATION, _TEXT, _BINARY, *_CONTROL}:
        return None
    at += 2
    extra = {126: 2, 127: 8}.get(size, 0)
    if extra:
        if at + extra > len(data):
            return None
        size = int.from_bytes(data[at : at + extra])
        at += extra
    mask = b""
    if second & 0x80:
        if at + 4 > len(data):
            return None
        mask = data[at : at + 4]
        at += 4
    payload = data[at : at + size]
    end = at + len(payload)
    return _Frame(bool(first & 0x80), bool(first & 0x40), opcode, _unmask(payload, mask), end)


def _unmask(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    size = len(payload)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(pad)).to_bytes(size)
