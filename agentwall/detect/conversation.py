# SPDX-License-Identifier: Apache-2.0
"""One flow as decoders and behaviour rules see it, whether it comes from a capture or is live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.net.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Message:
    """A packet that carried payload: of a capture only, the kernel does not tell."""

    time_ns: int
    """UTC."""
    size: int
    """Bytes of payload."""
    from_client: bool


@dataclass(frozen=True, slots=True)
class Datagram:
    """The payload of one UDP or ICMP echo packet."""

    data: bytes
    """The first 4096 bytes at most."""
    size: int
    """Of the whole payload."""
    from_client: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that is known of one flow. Whatever is not known is empty."""

    client: Endpoint
    """Who opened it: sent the SYN, the first datagram, or (seen from the middle) has the higher
    port."""
    server: Endpoint
    begin_ns: int
    """Time of the first and of the last packet, UTC."""
    end_ns: int
    packets: int
    client_bytes: int
    """Payload, in all, retransmissions not counted."""
    server_bytes: int
    client_head: bytes = b""
    """The first bytes of each side's TCP stream, in order, as far as they came: at most 64 KiB."""
    server_head: bytes = b""
    client_cuts: tuple[int, ...] = ()
    """Where in the head a packet began; a flow seen from the middle may be readable from there."""
    server_cuts: tuple[int, ...] = ()
    is_midstream: bool = False
    """The beginning was not seen."""
    datagrams: tuple[Datagram, ...] = ()
    """UDP and ICMP: the first 64."""
    messages: Sequence[Message] = ()
    """In order of time: the first 4096."""
    name: str | None = None
    """What the flow said its server is (SNI, Host), or its address was resolved from."""
