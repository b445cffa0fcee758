# SPDX-License-Identifier: Apache-2.0
"""Names that clients say."""

from __future__ import annotations

import pytest
from agree.hellos import hello_message, records, server_name
from hypothesis import given
from hypothesis import strategies as st

from agentwall.capture.naming import name_of
from agentwall.detect.tls import read_client_hello

MESSAGE = hello_message([server_name(b"Pool.Example.com")])
HELLO = records(MESSAGE, [])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GET / HTTP/1.1\r\nA: b\r\nHost: Example.com:8080\r\n\r\n", "example.com"),
        (b"POST /x HTTP/1.0\nhost:\texample.com\n\n", "example.com"),
        (b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: not a name\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: -a..b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"hello\nHost: example.com\n", None),
        (HELLO, "pool.example.com"),
        (b"\x16", None),
    ],
)
def test_names(head, name):
    """TLS's server name, or HTTP's Host, in its one form."""
    assert name_of(head) == name


def test_a_hello_in_pieces():
    """A hello over several records is read as one."""
    pieces = records(MESSAGE, [20] * 3)

    assert name_of(pieces) == "pool.example.com"


@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
def test_any_bytes(data, cut):
    """Whatever follows what begins like a hello, reading it raises nothing."""
    name_of(b"\x16\x03\x01" + data)
    name_of(HELLO[:cut] + data or b"x")


def test_agrees_with_the_careful_reader():
    """A hello that may pass the wall has the same name here."""
    assert read_client_hello(HELLO).name in (None, name_of(HELLO))
