# SPDX-License-Identifier: Apache-2.0
"""A conversation taken out of what wraps it, down to the messages both sides exchanged.

In: a :class:`Conversation`. Out: proxies taken off, HTTP bodies and WebSocket messages unpacked,
the JSON objects in them, and the bytes of the innermost streams. Total: any bytes give a reading,
in linear time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agentwall.detect.conversation import Conversation
from agentwall.detect.http_stream import MAX_BODY, HttpMessage, inflate, is_http, read_messages
from agentwall.detect.json_lines import JsonObject, begins_with_object, read_objects
from agentwall.detect.preamble import Hop, strip_preambles
from agentwall.detect.stratum import Spoken
from agentwall.detect.stratum_answers import header_clues
from agentwall.detect.stratum_evidence import Known
from agentwall.detect.stratum_verbs import Carrier, Clue
from agentwall.detect.websocket import read_websocket

_GZIP = b"\x1f\x8b\x08"
_MOST_BLANK = 16
_MOST_TRIES = 16
"""Places of a flow seen from the middle at which frames are tried."""
_PROBE = 1024
_FIRST_FRAMES = {0x81, 0x82, 0xC1, 0xC2}


@dataclass(slots=True, kw_only=True)
class Reading:
    """What was found inside."""

    hops: tuple[Hop, ...] = ()
    client: bytes = b""
    """The innermost streams: behind proxies, out of WebSocket."""
    server: bytes = b""
    messages: list[Spoken] = field(default_factory=list)
    """Those of the client first."""
    requests: list[HttpMessage] = field(default_factory=list)
    responses: list[HttpMessage] = field(default_factory=list)
    heads: list[Clue] = field(default_factory=list)
    """Clues of the heads of HTTP messages."""
    is_websocket: bool = False
    known: Known = field(default_factory=Known)


def read_conversation(conversation: Conversation) -> Reading:
    """Read *conversation* as far as it can be read."""
    inner = strip_preambles(conversation.client_head, conversation.server_head)
    reading = Reading(hops=inner.hops, client=inner.client, server=inner.server)
    if conversation.is_midstream and not inner.hops:
        reading.client = _readable(inner.client, conversation.client_cuts)
        reading.server = _readable(inner.server, conversation.server_cuts)
    _read_side(reading, from_client=True)
    _read_side(reading, from_client=False)
    _read_packed(reading)
    reading.messages.sort(key=lambda spoken: not spoken.from_client)
    reading.known = _known(conversation, reading)
    return reading


# Where a stream whose beginning is missing can be read from: the first packet that begins with an
# object, with an HTTP message, or with frames that hold objects.
def _readable(data: bytes, cuts: tuple[int, ...]) -> bytes:
    tries = 0
    for cut in cuts or (0,):
        if begins_with_object(data[cut : cut + _MOST_BLANK]) or is_http(data, cut):
            return data[cut:]
        if cut < len(data) and data[cut] in _FIRST_FRAMES and tries < _MOST_TRIES:
            tries += 1
            if begins_with_object(b"".join(read_websocket(data[cut : cut + _PROBE])[:1])):
                return b"\n".join(read_websocket(data[cut:]))
    line = data.find(b"\n{")
    return data[line + 1 :] if line >= 0 and not cuts else data


def _read_side(reading: Reading, *, from_client: bool) -> None:
    data = reading.client if from_client else reading.server
    if is_http(data):
        _read_http(reading, data, from_client)
    elif begins_with_object(data):
        _add(reading, data, from_client, Carrier.LINE)


def _read_http(reading: Reading, data: bytes, from_client: bool) -> None:
    messages = read_messages(data)
    (reading.requests if from_client else reading.responses).extend(messages)
    for message in messages:
        reading.heads += header_clues(message.headers, message.target)
        if begins_with_object(message.body):
            _add_body(reading, message, from_client)
    if messages and messages[-1].upgrades_to_websocket:
        last = messages[-1]
        extensions = last.headers.get("sec-websocket-extensions", "").lower()
        side = "client" if from_client else "server"
        takeover = f"{side}_no_context_takeover" not in extensions
        unpacked = read_websocket(data[last.end :], takeover=takeover)
        reading.is_websocket = True
        for one in unpacked:
            if begins_with_object(one):
                _add(reading, one, from_client, Carrier.WEBSOCKET)
        stream = b"".join(unpacked)
        if from_client:
            reading.client = stream
        else:
            reading.server = stream


# Of a body the first object counts: what follows others in a body is a log or a document.
def _add_body(reading: Reading, message: HttpMessage, from_client: bool) -> None:
    first: JsonObject | None = None
    for found in read_objects(message.body):
        if first is not None and found.raw is not first.raw:
            return
        first = found
        spoken = Spoken(
            value=found.value,
            from_client=from_client,
            carrier=Carrier.HTTP,
            is_whole=found.is_whole,
            is_document=message.status > 0,
        )
        reading.messages.append(spoken)


def _add(reading: Reading, data: bytes, from_client: bool, carrier: Carrier) -> None:
    reading.messages.extend(
        Spoken(
            value=found.value,
            from_client=from_client,
            carrier=carrier,
            is_whole=found.is_whole,
        )
        for found in read_objects(data)
    )


# EthereumStratum/2.0.0 (EIP-1571): after a hello that agreed on it, every message is gzip.
def _read_packed(reading: Reading) -> None:
    results = [s.value.get("result") for s in reading.messages if not s.from_client]
    if not any(isinstance(r, dict) and r.get("encoding") == "gzip" for r in results):
        return
    for from_client, data in ((True, reading.client), (False, reading.server)):
        for text in _members(data):
            _add(reading, text, from_client, Carrier.LINE)


def _members(data: bytes) -> Iterator[bytes]:
    left = MAX_BODY
    for packed in data.split(_GZIP)[1:]:
        text = inflate(_GZIP + packed, 31, left)
        left -= len(text)
        yield text


def _known(conversation: Conversation, reading: Reading) -> Known:
    hops = [hop.kind for hop in reading.hops]
    if reading.is_websocket:
        hops.append("websocket")
    first = reading.requests[0].headers if reading.requests else {}
    pool = reading.hops[-1].target if reading.hops else None
    return Known(
        hops=tuple(hops),
        pool=pool or first.get("host") or conversation.name,
        agent=first.get("user-agent"),
        is_midstream=conversation.is_midstream,
    )
