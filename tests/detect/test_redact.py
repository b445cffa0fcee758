# SPDX-License-Identifier: Apache-2.0
"""Nothing that is shown holds a password, a key or a whole wallet."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.dialogues import DIALOGUES, ETHEREUM, MONERO

from agentwall.detect.redact import MAX_EXCERPT, WINDOW, redact_excerpt, redact_message

SECRETS = ("hunter2", MONERO, ETHEREUM, "dXNlcjpodW50ZXIy")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"pass":"hunter2","id":1}', '{"pass":"***","id":1}'),
        (b'{"password" : "hun\\"ter2"}', '{"password" : "***"}'),
        (b'{"login":"alice","agent":"XMRig/6"}', '{"login":"***","agent":"XMRig/6"}'),
        (b'{"api_key":"hunter2', '{"api_key":"***'),
        (rb'{"p\u0061ss":"hunter2"}', '{"pass":"***"}'),
        (
            b'{"method":"mining.authorize","params":["me.rig","hunter2"]}',
            '{"method":"mining.authorize","params":["***","***"]}',
        ),
        (
            b'["mining.authorize",["me.rig","a long password, hunter2"]]',
            '["***",["***","***"]]',
        ),
        (
            b'{"params":["me.rig","hunter2"],"id":2,"method":"mining.authorize',
            '{"params":["***","***"],"id":2,"method":"mining.authorize',
        ),
        (
            b"GET / HTTP/1.1\r\nAuthorization: Basic dXNlcjpodW50ZXIy\r\nHost: a",
            "GET / HTTP/1.1  Authorization: ***  Host: a",
        ),
        (b"x: Bearer abc.def-1", "x: Bearer ***"),
        (b"http://me:hunter2@pool.example/", "http://***@pool.example/"),
        (b"GET /?token=hunter2&a=1", "GET /?token=***&a=1"),
        (b"to " + MONERO.encode(), "to 48ed...DeFg"),
        (b"\x00\xff\nSSH-2.0-x\r\n", ".. SSH-2.0-x"),
    ],
)
def test_excerpt(data, shown):
    """Bytes of a match are shown without what has to stay private."""
    assert redact_excerpt(data) == shown


def test_window_that_begins_in_a_line():
    """What stands before the first key of a window that is full may be the end of a password."""
    data = b'unter2","id":1,"agent":"' + b"x" * 200 + b'","method":"a"}'
    assert redact_excerpt(data[:WINDOW]).startswith('..."id":1,"agent":"xxx')

    two = b'hunter2"}\n{"id":1,"method":"mining.subscribe","params":["' + b"x" * 200
    assert redact_excerpt(two[:WINDOW]).startswith('... {"id":1,"method"')

    assert redact_excerpt((b'hunter2","' * 30)[:WINDOW]) == "..."


@pytest.mark.parametrize("name", DIALOGUES)
def test_every_window_of_every_session(name):
    """Wherever a match ends in whatever session, the window shows no password and no wallet."""
    client = DIALOGUES[name].client
    for end in range(1, len(client) + 1):
        shown = redact_excerpt(client[max(0, end - WINDOW) : end])

        assert not any(secret in shown for secret in SECRETS), shown
        assert len(shown) <= MAX_EXCERPT


def test_message():
    """A parsed message is written in a line, with what is private masked at any depth."""
    message = {
        "method": "eth_submitLogin",
        "params": [ETHEREUM + "/rig", "hunter2", "me@example.org", 7],
        "worker": "rig",
        "a": {"b": [{"Token": "hunter2", "c": 1, "pin": None, "key": 5}]},
    }
    shown = json.loads(redact_message(message))

    assert shown["params"] == ["0x52...e3b5/***", "***", "***", "***"]
    assert shown["worker"] == "***"
    assert shown["a"] == {"b": [{"Token": "***", "c": 1, "pin": None, "key": "***"}]}


@given(st.binary(max_size=400))
def test_any_bytes(data):
    """Whatever the bytes, a short line of printable ASCII comes out."""
    shown = redact_excerpt(data)

    assert len(shown) <= MAX_EXCERPT
    assert shown.isascii()
    assert shown == "" or shown.isprintable()
