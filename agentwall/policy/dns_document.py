# SPDX-License-Identifier: Apache-2.0
"""The keys under ``dns``, as pydantic models; a part of :mod:`agentwall.policy.document`."""

from __future__ import annotations

from pydantic import Field

from agentwall.policy.document_map import Map
from agentwall.policy.model import AskScope
from agentwall.policy.values import Addresses, Seconds, Server, Suffix

MAX_SERVERS = 8
MAX_SEARCH = 8


class DnsDocument(Map):
    """Whom the sandbox asks for names, and for which."""

    servers: tuple[Server, ...] = Field(
        default=(),
        min_length=1,
        max_length=MAX_SERVERS,
        description=f"The addresses of the name servers, at most {MAX_SERVERS}. Port 53 there, "
        "UDP and TCP, needs no rule.",
        examples=[["10.20.0.2", "2001:db8::53"], ["127.0.0.53"]],
    )
    search: tuple[Suffix, ...] = Field(
        default=(),
        max_length=MAX_SEARCH,
        description="The search list of the sandbox's resolv.conf, at most "
        f"{MAX_SEARCH} names. A permitted name followed by one of them may be asked for, and "
        "opens nothing.",
        examples=[["svc.cluster.example", "cluster.example"]],
    )
    names: AskScope = Field(
        default=AskScope.ALLOWED_ONLY,
        description="Which names may be asked for: `allowed-only`, those that some rule allows; "
        "`any`, all that no rule denies.",
        examples=["any"],
    )
    min_ttl: Seconds = Field(
        default=60,
        description="For how many seconds at least a learned address counts, 0-86400; longer if "
        "the answer says so.",
        examples=[300],
    )
    max_addresses: Addresses = Field(
        default=1000,
        description="How many addresses one name may have at a time, 1-65536.",
        examples=[64],
    )
