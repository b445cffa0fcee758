# SPDX-License-Identifier: Apache-2.0
"""JA4 fingerprints are those of the specification's examples, and of real hellos."""

from __future__ import annotations

import ssl
import struct

import pytest
from agree.hellos import hello_message, python_hello, records, server_name
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.ja4 import Hello, ja4, read_beginning, read_hello

# The Chrome hello that JA4.md explains, in a browser's order with GREASE.
CHROME = Hello(
    version=0x0303,
    ciphers=(
        *(0x1A1A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8),
        *(0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035),
    ),
    extensions=(
        *(0x2A2A, 0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D, 0x0005),
        *(0x0023, 0x0012, 0x002B, 0xFF01, 0x000B, 0x000A, 0x0015),
    ),
    names=(b"example.com",),
    protocols=(b"h2", b"http/1.1"),
    signatures=(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
    versions=(0x3A3A, 0x0304, 0x0303),
)


def hello_of(*extensions: tuple[int, bytes]) -> Hello:
    """A parsed hello with these extensions."""
    hello = read_hello(records(hello_message(list(extensions)), []))
    assert hello is not None
    return hello


def alpn(*names: bytes) -> tuple[int, bytes]:
    """An ALPN extension (RFC 7301)."""
    listed = b"".join(bytes([len(name)]) + name for name in names)
    return 0x10, struct.pack(">H", len(listed)) + listed


def test_the_specification():
    """The example of the specification has the fingerprint that it states."""
    assert ja4(CHROME) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert ja4(CHROME, quic=True) == "q13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("extensions", "middle"),
    [
        ([], "i0"),
        ([server_name(b"a.example")], "d0"),
        ([alpn(b"h2")], "i0"),
    ],
)
def test_name_in_the_fingerprint(extensions, middle):
    """Whether a server is named is part of it."""
    fingerprint = ja4(hello_of(*extensions))

    assert fingerprint.startswith(f"t12{middle}")


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [(b"h2", "h2"), (b"http/1.1", "h1"), (b"\xab", "ab"), (b"\xab\xcd", "ad"), (b"x\xab", "7b")],
)
def test_protocol_in_the_fingerprint(protocol, shown):
    """Of the first protocol the first and last letter, or digit in hexadecimal."""
    hello = hello_of(alpn(protocol, b"other"))

    assert hello.protocols == (protocol, b"other")
    assert ja4(hello).split("_")[0].endswith(shown)


def test_nothing_to_hash():
    """Without extensions the last part is zeroes."""
    assert ja4(hello_of()).endswith("_000000000000")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_real_hello(version):
    """OpenSSL's hello is read only when whole, with its name and version."""
    stream = python_hello("hub.example.com", version)

    assert {read_hello(stream[:end]) for end in range(len(stream))} == {None}
    hello = read_hello(stream)
    assert hello is not None
    assert hello.names == (b"hub.example.com",)
    expected = "t13d" if version is ssl.TLSVersion.TLSv1_3 else "t12d"
    assert ja4(hello).startswith(expected)


@given(st.binary(max_size=100), st.integers(0, 300))
def test_any_bytes(data, at):
    """Broken hellos are none, or have a fingerprint of the one form."""
    stream = bytearray(records(hello_message([server_name(b"a.example"), alpn(b"h2")]), []))
    stream[at : at + len(data)] = data
    hello = read_hello(bytes(stream))

    if hello is not None:
        assert [len(part) for part in ja4(hello).split("_")] == [10, 12, 12]


@given(st.integers(0, 200))
def test_a_beginning(size):
    """Of a hello that is cut off the extensions that came whole are known, in order."""
    extensions = [alpn(b"h2"), server_name(b"a.example"), (0x2B, b"\x02\x03\x04")]
    stream = records(hello_message(extensions), [])
    whole, cut = read_hello(stream), read_beginning(stream[:size])

    assert whole is not None
    assert read_beginning(stream) == whole
    if cut is None:
        assert size < len(stream) - sum(4 + len(body) for _, body in extensions)
    else:
        assert whole.extensions[: len(cut.extensions)] == cut.extensions
        assert cut.names in ((), whole.names)


@given(st.binary(max_size=200))
def test_beginnings_of_nothing(data):
    """Any octets are read, and what is no handshake is none."""
    assert read_beginning(b"\x17" + data) is None
    read_beginning(b"\x16\x03\x01\x00\xff\x01\x00\x00\xfb" + data)
