# SPDX-License-Identifier: Apache-2.0
"""Lines of the control protocol, both ways."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.control_messages import (
    asked_for,
    decode_request,
    encode_error,
    encode_result,
)
from agentwall.errors import ControlCode, ControlError


def test_request():
    """The name and the rest."""
    line = b'{"schema":"agentwall.control/1","request":"sandbox-show","sandbox":"x"}'

    assert decode_request(line) == ("sandbox-show", {"sandbox": "x"})


@given(st.binary(max_size=300))
def test_any_bytes(line):
    """Bytes are a request or a ControlError."""
    problem = ControlError(ControlCode.INVALID, "")
    try:
        decode_request(line)
    except ControlError as err:
        problem = err

    assert problem.code is ControlCode.INVALID


@given(st.text(max_size=100))
def test_message_of_any_text(text):
    """An answer is one line of ASCII, whatever is in its message."""
    line = encode_error(ControlError(ControlCode.FAILED, text))

    assert line.isascii()
    assert line.count(b"\n") == 1
    assert json.loads(line)["error"]["code"] == "failed"


def test_long_message():
    """A message of any length fits into an answer."""
    assert len(encode_error(ControlError(ControlCode.FAILED, "x" * 10_000_000))) < 70_000


def test_result():
    """A result is one line as well, line ends inside escaped."""
    line = encode_result({"a": "1\n2\u2028é"})

    assert line == (
        b'{"schema":"agentwall.control/1","ok":true,"result":{"a":"1\\n2\\u2028\\u00e9"}}\n'
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"", ""),
        (b"{", "something unreadable"),
        (b'{"schema":"agentwall.control/1","request":"stop"}', "stop"),
    ],
)
def test_asked_for(line, name):
    """What a stranger wanted, for the log."""
    assert asked_for(line) == name
