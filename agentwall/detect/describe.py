# SPDX-License-Identifier: Apache-2.0
"""Small facts about a conversation, for reports: who speaks SSH, TLS, HTTP or DNS, and to whom.

They judge nothing. Whatever the flow says is untrusted text: it is made printable and short.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentwall.detect.conversation import Conversation
from agentwall.detect.dns import read_question
from agentwall.detect.ja4 import ja4, read_hello
from agentwall.detect.quic import is_quic
from agentwall.detect.reading import Reading, read_conversation
from agentwall.detect.redact import printable
from agentwall.detect.ssh import read_identification
from agentwall.net.endpoint import L4Protocol

_DNS_PORT = 53
_MOST = 8


def describe(conversation: Conversation) -> Mapping[str, object]:
    """Collect what is known of *conversation*, as JSON values; empty where nothing is.

    Keys, each only where it applies: ``proxy`` (a list of ``kind`` and ``target``), ``tls``
    (``sni``, ``alpn``, ``ja4``), ``ssh`` (``client``, ``server``: their software), ``http``
    (``method``, ``host``, ``agent``, ``status``, ``websocket``), ``dns`` (``name``, ``type``: the
    number of RFC 1035), ``quic``.
    """
    if conversation.datagrams:
        return _of_datagrams(conversation)
    return facts_of(read_conversation(conversation), conversation)


def facts_of(reading: Reading, conversation: Conversation) -> dict[str, object]:
    """As :func:`describe`, for a TCP conversation that was read already."""
    facts: dict[str, object] = {}
    if reading.hops:
        facts["proxy"] = [
            {"kind": hop.kind, "target": printable(hop.target)} for hop in reading.hops
        ]
    parts = {"tls": _tls(reading), "ssh": _ssh(reading), "http": _http(reading)}
    facts.update({key: part for key, part in parts.items() if part})
    if conversation.server.port == _DNS_PORT and (asked := _asked(reading.client[2:])):
        facts["dns"] = asked
    return facts


def _of_datagrams(conversation: Conversation) -> dict[str, object]:
    if conversation.server.protocol != L4Protocol.UDP:
        return {}
    first = conversation.datagrams[0].data
    if conversation.server.port == _DNS_PORT:
        asked = _asked(first)
        return {"dns": asked} if asked else {}
    return {"quic": True} if is_quic(first) else {}


def _asked(message: bytes) -> dict[str, object] | None:
    question = read_question(message[:512])
    return {"name": question.name, "type": question.type} if question else None


def _tls(reading: Reading) -> dict[str, object]:
    hello = read_hello(reading.client)
    if hello is None:
        return {}
    facts: dict[str, object] = {"ja4": ja4(hello)}
    if hello.names:
        facts["sni"] = printable(hello.names[0].decode("latin-1"))
    if hello.protocols:
        facts["alpn"] = [printable(one.decode("latin-1")) for one in hello.protocols[:_MOST]]
    return facts


def _ssh(reading: Reading) -> dict[str, object]:
    sides = {"client": reading.client, "server": reading.server}
    said = {side: read_identification(stream) for side, stream in sides.items()}
    return {side: printable(one.software) for side, one in said.items() if one}


def _http(reading: Reading) -> dict[str, object]:
    facts: dict[str, object] = {}
    if reading.requests:
        request = reading.requests[0]
        facts["method"] = request.method
        for key, header in (("host", "host"), ("agent", "user-agent")):
            if header in request.headers:
                facts[key] = printable(request.headers[header])
    if reading.responses:
        facts["status"] = reading.responses[0].status
    if reading.is_websocket:
        facts["websocket"] = True
    return facts
