# SPDX-License-Identifier: Apache-2.0
"""Messages come out of what wraps them, each with its side and its carrier."""

from __future__ import annotations

from rig.dialogues import conversation, http, lines

from agentwall.detect.reading import read_conversation
from agentwall.detect.stratum_verbs import Carrier

UPGRADE = b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n"


def test_lines_of_both_sides():
    """The client's come first; a text that does not begin with an object has none."""
    reading = read_conversation(conversation(lines({"a": 1}), lines({"b": 2}) + b'{"c":[3'))

    assert [s.value for s in reading.messages] == [{"a": 1}, {"b": 2}, {"c": []}]
    assert [s.from_client for s in reading.messages] == [True, False, False]
    assert [s.is_whole for s in reading.messages] == [True, True, False]
    assert {s.carrier for s in reading.messages} == {Carrier.LINE}
    assert read_conversation(conversation(b'hello\n{"a":1}\n')).messages == []


def test_bodies():
    """Of a body the first object counts; a response is a document."""
    asked = http(lines({"a": 1}, {"b": 2}), "Host: a.example", "User-Agent: x")
    answered = http(b'{"c":3,"c":4}', first="HTTP/1.1 200 OK")
    answered += http(b"<pre>\n{}\n</pre>", first="HTTP/1.1 200 OK")
    reading = read_conversation(conversation(asked, answered, name="ignored.example"))

    assert [s.value for s in reading.messages] == [{"a": 1}, {"c": 3}, {"c": 4}]
    assert [s.is_document for s in reading.messages] == [False, True, True]
    assert (reading.known.pool, reading.known.agent) == ("a.example", "x")
    assert len(reading.responses) == 2


def test_websocket():
    """Frames behind the upgrade are the streams inside."""
    text = b'{"a":1}'
    server = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n\x82\x03abc"
    reading = read_conversation(conversation(UPGRADE + b"\x81\x07" + text, server))

    assert [(s.value, s.carrier) for s in reading.messages] == [({"a": 1}, Carrier.WEBSOCKET)]
    assert (reading.client, reading.server) == (text, b"abc")
    assert reading.known.hops == ("websocket",)


def test_from_the_middle():
    """Reading begins at a packet that begins like a message, or at a line where none are known."""
    head = b'tail"}\n{"a":1}\n'
    talk = conversation(head, is_midstream=True)
    assert [s.value for s in read_conversation(talk).messages] == [{"a": 1}]
    talk = conversation(head, is_midstream=True, client_cuts=(0, 3, 7))
    assert [s.value for s in read_conversation(talk).messages] == [{"a": 1}]
    talk = conversation(head, is_midstream=True, client_cuts=(0, 3))
    assert read_conversation(talk).messages == []
    talk = conversation(b"xy" + http(b"{}"), is_midstream=True, client_cuts=(0, 2, 2000))
    assert [s.carrier for s in read_conversation(talk).messages] == [Carrier.HTTP]


def test_name_of_the_server():
    """Without anything said, the pool is what the address was resolved from."""
    assert read_conversation(conversation(b"{}", name="a.example")).known.pool == "a.example"
