# SPDX-License-Identifier: Apache-2.0
"""Frames are unmasked, joined and unpacked, within bounds."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.websocket import MAX_UNPACKED, read_websocket


def frame(payload: bytes, first: int = 0x81, mask: bytes = b"", form: int = 0) -> bytes:
    """A frame whose length has *form* bytes of extension, or as few as can be."""
    size = len(payload)
    form = form or (0 if size < 126 else 2 if size < 65536 else 8)
    short = {0: size, 2: 126, 8: 127}[form]
    head = bytes([first, short | (0x80 if mask else 0)]) + (size.to_bytes(form) if form else b"")
    return head + mask + bytes(b ^ mask[i % 4] if mask else b for i, b in enumerate(payload))


def pack(packer: zlib._Compress, text: bytes) -> bytes:
    """A message as RFC 7692 section 7.2.1 packs it."""
    packed = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
    return packed.removesuffix(b"\x00\x00\xff\xff")


@pytest.mark.parametrize("mask", [b"", b"\x01\x02\x03\x04", b"\x00\x00\x00\x00"])
@pytest.mark.parametrize("form", [0, 2, 8])
@given(texts=st.lists(st.binary(max_size=90), max_size=4))
def test_frames(mask, form, texts):
    """Text and binary messages come back, whatever the mask and the form of the length."""
    stream = b"".join(frame(text, 0x82, mask, form) for text in texts)

    assert read_websocket(stream) == texts


def test_fragments_and_controls():
    """Fragments are joined across a ping; the last message may lack its end."""
    stream = frame(b"one ", 0x01) + frame(b"ping", 0x89) + frame(b"two", 0x80, b"abcd")

    assert read_websocket(stream) == [b"one two"]
    assert read_websocket(stream[:-2]) == [b"one t"]
    assert read_websocket(frame(b"one", 0x01)) == [b"one"]


def test_lengths():
    """Seven, sixteen and sixty-four bits of length."""
    for size in (125, 126, 65535, 65536):
        assert read_websocket(frame(b"x" * size, mask=b"abcd")) == [b"x" * size]


def test_packed():
    """Packed messages are unpacked with the context of those before, or without."""
    packer = zlib.compressobj(wbits=-15)
    texts = [b"the same text", b"the same text"]
    shared = b"".join(frame(pack(packer, text), 0xC1) for text in texts)
    fresh = b"".join(frame(pack(zlib.compressobj(wbits=-15), text), 0xC1) for text in texts)

    assert read_websocket(shared) == texts
    assert read_websocket(fresh, takeover=False) == texts
    assert read_websocket(frame(b"\xff\xff", 0xC1) + fresh) == [b""] * 3


def test_bomb():
    """Unpacked messages are bounded together."""
    packed = pack(zlib.compressobj(wbits=-15), bytes(MAX_UNPACKED * 2))

    assert sum(map(len, read_websocket(frame(packed, 0xC2) * 3, takeover=False))) == MAX_UNPACKED


@given(st.binary(max_size=60))
def test_any_bytes(data):
    """Any bytes are read; what cannot be a frame ends the reading."""
    assert sum(map(len, read_websocket(data))) <= MAX_UNPACKED
    assert read_websocket(b"\x83\x00" + data) == []
    assert read_websocket(b"\xb1\x00" + data) == []
