# SPDX-License-Identifier: Apache-2.0
"""A sandbox that takes the place of its DNS server on loopback is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rig.answers import A, Record, answer, pack_name, read_question
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure, parse_policy
from rig.lab import PERMITTED, Lab, lab
from rig.listeners import tcp_server
from rig.puppet import PATIENCE_S, SILENCE_S, Puppet, puppet
from rig.zone import HUB, STUB, ZONE

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import ReasonCode

pytestmark = pytest.mark.kernel

PORT = 7443
POLICY = parse_policy(
    f"""
    name: forgery
    loopback: allow
    dns: {{servers: [{STUB}]}}
    allow:
      - {{host: "*.{ZONE}", ports: [{PORT}]}}
    """
)
QUESTION = bytes.fromhex("415701000001000000000000") + pack_name(HUB) + b"\0\x01\0\x01"


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[Lab, Enclosure]]:
    """A lab with a wall and a server that a lie would lead to; nobody serves STUB."""
    with lab() as made, enclosure(made.near) as wall, tcp_server(made.far, PERMITTED, PORT):
        yield made, wall


@contextmanager
def sandbox(bench: tuple[Lab, Enclosure]) -> Iterator[tuple[SandboxKey, Puppet]]:
    """A sandbox behind POLICY and a process in it."""
    made, wall = bench
    with (
        temp_cgroup() as cgroup,
        wall.enclosed(cgroup, POLICY) as key,
        puppet(made.near, cgroup, timeout_s=PATIENCE_S) as actor,
    ):
        yield key, actor


def is_refused(actor: Puppet) -> bool:
    """Say whether the address that the lie held is still closed."""
    sock = actor.open("tcp")
    try:
        sock.connect(PERMITTED, PORT)
    except PermissionError:
        return True
    finally:
        sock.close()
    return False


@pytest.mark.parametrize("bound", [STUB, "0.0.0.0"])
def test_an_answer_of_the_sandbox_itself_does_not_leave(
    bench: tuple[Lab, Enclosure], bound: str
) -> None:
    """It binds the server's port, hears its own question, and may not answer."""
    with sandbox(bench) as (key, actor):
        server, client = actor.open("udp"), actor.open("udp")
        server.bind(bound, 53)
        client.connect(STUB, 53)
        client.send(QUESTION)
        asked, address, port = server.recvfrom()
        question = read_question(asked)
        assert question
        lie = answer(question, [Record(HUB, A, PERMITTED)])
        with pytest.raises(PermissionError):
            server.sendto_as(STUB, lie, address, port)
        with pytest.raises(TimeoutError):
            client.recv(SILENCE_S)
        assert is_refused(actor)
        assert bench[1].await_event(key, lambda event: event.code is ReasonCode.FORGED)


def test_a_listener_of_the_sandbox_itself_accepts_nobody(bench: tuple[Lab, Enclosure]) -> None:
    """Over TCP it does not come to a connection."""
    with sandbox(bench) as (key, actor):
        server, client = actor.open("tcp"), actor.open("tcp")
        server.bind(STUB, 53)
        server.listen()
        with pytest.raises(TimeoutError):
            client.connect(STUB, 53, SILENCE_S)
        assert is_refused(actor)
        assert bench[1].await_event(key, lambda event: event.code is ReasonCode.FORGED)


def test_an_answer_from_another_address_is_none(bench: tuple[Lab, Enclosure]) -> None:
    """The socket is not connected, and what it hears comes from the port, not from the server."""
    with sandbox(bench) as (_, actor):
        server, stranger, client = actor.open("udp"), actor.open("udp"), actor.open("udp")
        server.bind(STUB, 53)
        stranger.bind("127.0.0.1", 53)
        client.sendto(QUESTION, STUB, 53)
        asked, _, port = server.recvfrom()
        question = read_question(asked)
        assert question
        lie = answer(question, [Record(HUB, A, PERMITTED)])
        stranger.sendto(lie, "127.0.0.1", port)
        assert client.recv() == lie
        assert is_refused(actor)
