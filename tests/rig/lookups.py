# SPDX-License-Identifier: Apache-2.0
"""Conversations with a name server, as a capture has them."""

from __future__ import annotations

from ipaddress import ip_address

from scapy.layers.dns import DNS, DNSQR, DNSRR

from agentwall.detect.conversation import Conversation, Datagram
from agentwall.net.endpoint import Endpoint, L4Protocol

CLIENT = ip_address("10.20.0.7")
SERVER = ip_address("10.20.0.2")


def answer(name: str, address: str) -> bytes:
    """Return an answer as a name server writes it."""
    record = DNSRR(rrname=name, type="A", rdata=address, ttl=60)
    return bytes(DNS(id=7, qr=1, rd=1, ra=1, qd=DNSQR(qname=name), an=[record]))


def lookup(*messages: bytes, client=CLIENT, server=SERVER, port=53) -> Conversation:
    """Return a conversation over UDP in which *client* gets *messages*."""
    return Conversation(
        client=Endpoint(client, 40000, L4Protocol.UDP),
        server=Endpoint(server, port, L4Protocol.UDP),
        begin_ns=0,
        end_ns=1,
        packets=len(messages),
        client_bytes=0,
        server_bytes=sum(map(len, messages)),
        datagrams=tuple(Datagram(one, len(one), from_client=False) for one in messages),
    )
