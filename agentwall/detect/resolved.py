# SPDX-License-Identifier: Apache-2.0
"""Which names led each client of a capture to an address, from the DNS answers in it. Pure.

Live, the kernel learns the same from the answers of declared servers. A capture has seldom all of
it, so here a name counts from end to end, whatever its TTL and wherever in the capture the answer
stands: what is permitted by that was permitted at some time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator

from agentwall.detect.conversation import Conversation
from agentwall.detect.dns import MAX_MESSAGE, read_answer
from agentwall.net.endpoint import IPAddress, L4Protocol, canonical
from agentwall.policy.resolver import DNS_PORT

MAX_LEARNED = 65_536
"""Addresses of clients that are kept; of more the one learned first goes."""
MAX_NAMES = 32
"""Names of one address: a content network has many."""


class ResolvedNames:
    """The names under which clients learned addresses."""

    def __init__(self, servers: Collection[IPAddress] | None = None) -> None:
        """Begin with nothing learned.

        Args:
            servers: Whose answers count, canonical: ``dns.servers`` of a policy. None: anybody's.
        """
        self._servers = None if servers is None else frozenset(servers)
        self._names: OrderedDict[tuple[IPAddress, IPAddress], dict[str, None]] = OrderedDict()
        self.forgotten = 0
        """Addresses and names that there was no room for."""

    def learn(self, conversation: Conversation) -> None:
        """Take in the answers of *conversation*, if it is one with a name server."""
        server = conversation.server
        if server.port != DNS_PORT or (
            self._servers is not None and canonical(server.address) not in self._servers
        ):
            return
        client = canonical(conversation.client.address)
        for message in _answers(conversation):
            self.learn_answer(client, message)

    def learn_answer(self, client: IPAddress, message: bytes) -> None:
        """Take in one DNS *message* that *client* got; what is no answer says nothing."""
        answer = read_answer(message[:MAX_MESSAGE])
        for found in answer.addresses if answer else ():
            key = (client, found.address)
            names = self._names.get(key)
            if names is None:
                if len(self._names) >= MAX_LEARNED:
                    self._names.popitem(last=False)
                    self.forgotten += 1
                names = self._names[key] = {}
            assert answer is not None, "it has addresses"
            if len(names) < MAX_NAMES:
                names[answer.question.name] = None
            else:
                self.forgotten += answer.question.name not in names

    def names(self, client: IPAddress, address: IPAddress) -> tuple[str, ...]:
        """Return the names under which *client* learned *address*, in the order of the answers."""
        return tuple(self._names.get((canonical(client), canonical(address)), ()))


def _answers(conversation: Conversation) -> Iterator[bytes]:
    if conversation.server.protocol == L4Protocol.UDP:
        yield from (one.data for one in conversation.datagrams if not one.from_client)
    elif conversation.server.protocol == L4Protocol.TCP:
        yield from dns_messages(conversation.server_head)


def dns_messages(stream: bytes) -> Iterator[bytes]:
    """Yield the whole messages of one side of a TCP *stream* (RFC 1035 section 4.2.2)."""
    at = 0
    while at + 2 <= len(stream):
        end = at + 2 + int.from_bytes(stream[at : at + 2], "big")
        if end > len(stream):
            return
        yield stream[at + 2 : end]
        at = end
