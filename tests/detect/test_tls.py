# SPDX-License-Identifier: Apache-2.0
"""The ClientHello: real ones are read, and what servers could read in two ways is refused."""

from __future__ import annotations

import ssl
import struct

import pytest
from agree.hellos import hello_message, key_share, python_hello, records, server_name

from agentwall.detect.said import Outcome
from agentwall.detect.tls import MAX_HELLO, MAX_RECORDS, read_client_hello

NAME = server_name(b"hub.example.com")
HELLO = records(hello_message([NAME]), [])


def outcome_of(*extensions: tuple[int, bytes]) -> Outcome:
    """What a hello with these extensions says."""
    return read_client_hello(records(hello_message(list(extensions)), [])).outcome


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_real_hello(version):
    """Every prefix of OpenSSL's hello says nothing yet; the whole says the name."""
    stream = python_hello("hub.example.com", version)
    before = {read_client_hello(stream[:i]).outcome for i in range(len(stream))}

    assert before == {Outcome.NOTHING_YET}
    assert read_client_hello(stream).name == "hub.example.com"
    assert read_client_hello(python_hello(None, version)).outcome is Outcome.NO_NAME


def test_address_is_no_name():
    """An IP address where a name belongs counts as none."""
    assert outcome_of(server_name(b"192.0.2.1")) is Outcome.NO_NAME


def test_encrypted_hello():
    """The outer name is kept beside the mark, wherever the extension stands."""
    for extensions in ([(0xFE0D, bytes(80)), NAME], [NAME, (0xFE0D, bytes(80))]):
        said = read_client_hello(records(hello_message(extensions), []))

        assert (said.outcome, said.name) == (Outcome.ECH, "hub.example.com")


@pytest.mark.parametrize("sizes", [[1], [1] * 15, [4, 3, 2], [40]])
def test_records(sizes):
    """The message may be cut into records anywhere."""
    stream = records(hello_message([key_share(), NAME]), sizes)

    assert read_client_hello(stream).name == "hub.example.com"


def test_too_many_records():
    """One record more than the limit is refused."""
    message = hello_message([NAME])

    assert read_client_hello(records(message, [1] * (MAX_RECORDS - 1))).outcome is Outcome.NAME
    assert read_client_hello(records(message, [1] * MAX_RECORDS)).outcome is Outcome.BROKEN


def test_too_long():
    """A hello that says it will be longer than the limit is refused at once."""
    stream = b"\x16\x03\x01\x40\x00\x01" + MAX_HELLO.to_bytes(3)

    assert read_client_hello(stream).outcome is Outcome.BROKEN


@pytest.mark.parametrize(
    "extension",
    [
        (0, b""),
        (0, struct.pack("!HBH", 4, 1, 1) + b"a"),
        (0, struct.pack("!HBH", 5, 0, 1) + b"ab"),
        (0, struct.pack("!HBHsBHs", 8, 0, 1, b"a", 0, 1, b"b")),
        (0, struct.pack("!HBH", 3, 0, 0)),
        server_name(b"a\0.example.com"),
        server_name("bücher.example".encode()),
        server_name(b"a" * 255),
    ],
)
def test_broken_names(extension):
    """None, two, another type, or one that is no host name."""
    assert outcome_of(extension) is Outcome.BROKEN


def test_two_extensions():
    """Servers differ in which of two server names counts."""
    assert outcome_of(NAME, NAME) is Outcome.BROKEN


@pytest.mark.parametrize(
    ("at", "octet"),
    [(0, 0x17), (5, 2), (9, 2), (43, 33), (3, 0x41), (77, 0), (77, 5), (84, 0)],
)
def test_other_octets(at, octet):
    """Another type, version or length makes it no ClientHello."""
    stream = bytearray(HELLO)
    stream[at] = octet
    expected = Outcome.OTHER if at == 0 else Outcome.BROKEN

    assert read_client_hello(bytes(stream)).outcome is expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", Outcome.NOTHING_YET),
        (b"SSH-2.0-x\r\n", Outcome.OTHER),
        (b"\x16\x01\x01", Outcome.OTHER),
        (b"\x80\x2e", Outcome.NOTHING_YET),
        (b"\x80\x2e\x01\x03\x01", Outcome.NO_NAME),
        (b"\x80\x2e\x04", Outcome.OTHER),
    ],
)
def test_first_octets(stream, expected):
    """The hello of SSL 2 names nobody; what is no TLS at all is another protocol."""
    assert read_client_hello(stream).outcome is expected
