# SPDX-License-Identifier: Apache-2.0
"""Names are learned from the DNS answers of a capture, for the client that got them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.lookups import CLIENT, SERVER, answer, lookup

from agentwall.detect import resolved
from agentwall.detect.conversation import Conversation, Datagram
from agentwall.detect.resolved import ResolvedNames, dns_messages
from agentwall.net.endpoint import Endpoint, L4Protocol

OTHER = ip_address("10.20.0.8")
HUB = ip_address("203.0.113.7")


def test_learned_for_the_client_that_asked():
    """A client knows the names of its own answers, in their order, each once."""
    names = ResolvedNames()
    messages = [answer(f"{name}.example", str(HUB)) for name in ("b", "a", "b")]
    names.learn(lookup(*messages))

    assert names.names(CLIENT, HUB) == ("b.example", "a.example")
    assert names.names(CLIENT, ip_address("::ffff:203.0.113.7")) == ("b.example", "a.example")
    assert names.names(OTHER, HUB) == names.names(CLIENT, OTHER) == ()


@pytest.mark.parametrize(
    ("servers", "options", "expected"),
    [
        ([SERVER], {}, True),
        ([OTHER], {}, False),
        ([], {}, False),
        (None, {"port": 5353}, False),
        ([SERVER], {"server": ip_address("::ffff:10.20.0.2")}, True),
    ],
)
def test_whose_answers_count(servers, options, expected):
    """Only answers from port 53 of the declared servers count; without a list those of anybody."""
    names = ResolvedNames(servers)
    names.learn(lookup(answer("hub.example", str(HUB)), **options))

    assert (names.names(CLIENT, HUB) == ("hub.example",)) is expected


def test_what_the_client_says_is_no_answer():
    """An answer in the wrong direction teaches nothing."""
    message = answer("hub.example", str(HUB))
    one = lookup()
    names = ResolvedNames()
    names.learn(
        Conversation(
            client=one.client,
            server=one.server,
            begin_ns=0,
            end_ns=0,
            packets=1,
            client_bytes=len(message),
            server_bytes=0,
            datagrams=(Datagram(message, len(message), from_client=True),),
        )
    )

    assert names.names(CLIENT, HUB) == ()


def test_over_tcp():
    """Over TCP each message has its length before it; one that is cut off is left."""
    messages = [answer(f"{name}.example", str(HUB)) for name in "abc"]
    stream = b"".join(len(one).to_bytes(2, "big") + one for one in messages)[:-1]
    names = ResolvedNames()
    names.learn(
        Conversation(
            client=Endpoint(CLIENT, 40000, L4Protocol.TCP),
            server=Endpoint(SERVER, 53, L4Protocol.TCP),
            begin_ns=0,
            end_ns=0,
            packets=3,
            client_bytes=0,
            server_bytes=len(stream),
            server_head=stream,
        )
    )

    assert names.names(CLIENT, HUB) == ("a.example", "b.example")


@given(st.lists(st.binary(max_size=20)), st.binary(max_size=3))
def test_messages_of_a_stream(messages, rest):
    """What was joined comes apart again, whatever follows."""
    stream = b"".join(len(one).to_bytes(2, "big") + one for one in messages)

    assert list(dns_messages(stream + rest))[: len(messages)] == messages


@given(st.lists(st.binary(max_size=600), max_size=4))
def test_any_bytes(messages):
    """Whatever stands in a capture, nothing raises."""
    names = ResolvedNames()
    names.learn(lookup(*messages))

    assert names.forgotten == 0


def test_bounds(monkeypatch):
    """Of more than there is room for, the first address goes and later names are left out."""
    monkeypatch.setattr(resolved, "MAX_LEARNED", 2)
    monkeypatch.setattr(resolved, "MAX_NAMES", 1)
    names = ResolvedNames()
    found = [f"203.0.113.{number}" for number in (1, 2, 3)]
    names.learn(lookup(*(answer("a.example", address) for address in found)))
    names.learn(lookup(answer("b.example", found[2])))
    names.learn(lookup(answer("a.example", found[2])))

    assert names.names(CLIENT, ip_address(found[0])) == ()
    assert names.names(CLIENT, ip_address(found[2])) == ("a.example",)
    assert names.forgotten == 2
