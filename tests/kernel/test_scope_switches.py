# SPDX-License-Identifier: Apache-2.0
"""Sockets that outlive a change of who judges them: admission and release."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from rig.attempts import make_marker
from rig.enclosure import Enclosure, describe, parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import NEAR4, OUTSIDE, OUTSIDE6, OUTSIDE_OTHER, PERMITTED, PERMITTED6
from rig.process import wait_until
from rig.puppet import PATIENCE_S, SILENCE_S, Puppet, PuppetSocket
from rig.scoped import Scope, connected, is_answered, scope
from rig.workbench import Workbench, Workshop, workshop

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Direction, Verdict

pytestmark = pytest.mark.kernel

DEFAULT = parse_policy(
    f"""
    name: default
    allow:
      - {{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}, icmp]}}
      - {{cidr: "{PERMITTED6}", ports: [{PORT}, udp/{PORT}]}}
    inbound: [{{cidr: {PERMITTED}, ports: [{INBOUND_PORT}, udp/{INBOUND_PORT}]}}]
    """
)
OTHER = parse_policy(
    f"""
    name: other
    allow:
      - {{cidr: {OUTSIDE_OTHER}, ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "{OUTSIDE6}", ports: [{PORT}, udp/{PORT}]}}
    """
)
CLOSED = parse_policy("name: closed\n")
COMINGS = 40
KINDS = [("tcp", PERMITTED), ("udp", PERMITTED), ("tcp", PERMITTED6), ("udp", PERMITTED6)]


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    """The ground and the wall, built once."""
    with workshop() as made:
        yield made


@pytest.fixture
def bench(shop: Workshop) -> Iterator[Workbench]:
    """A new cgroup on the shared ground."""
    with shop.bench() as made:
        yield made


def has_left(bench: Workbench, data: bytes) -> bool:
    """Say whether *data* reached the far side since the last look.

    *data* has to be this test's alone: a closed TCP socket goes on trying after its test.
    """
    return any(data in packet.payload for packet in bench.ground.settle())


@pytest.mark.parametrize(("kind", "address"), KINDS)
def test_live_sockets_fall_to_the_default(bench: Workbench, kind: str, address: str) -> None:
    """What only the sandbox's policy permitted ends with its release: the scope reports it."""
    with scope(bench, CLOSED) as made:
        child, wall, marker = made.child("bound"), made.enclosure, make_marker()
        key = wall.enclose(child, DEFAULT)
        with made.puppet(child) as actor:
            sock, spare = connected(actor, kind, address, PORT), actor.open("udp", address)
            spare.sendto(b"before", address, PORT)
            assert spare.recv() == b"before"
            bench.ground.settle()
            wall.wall.detach(key)
            after = is_answered(sock, marker, SILENCE_S)
            with pytest.raises(PermissionError):
                spare.sendto(marker, address, PORT)
            left = has_left(bench, marker)
            hooks = {event.hook.value for event in wall.refusals(made.key)}

    assert not after
    assert not left
    assert hooks == {"egress", "sendmsg6" if ":" in address else "sendmsg4"}


@pytest.mark.parametrize(("kind", "address"), KINDS)
def test_live_sockets_rise_to_the_default(bench: Workbench, kind: str, address: str) -> None:
    """A verdict of a sandbox that was released refuses nothing that the default permits."""
    with scope(bench, DEFAULT) as made:
        child, wall, marker = made.child("bound"), made.enclosure, make_marker()
        with made.puppet(child) as actor:
            sock, spare = connected(actor, kind, address, PORT), actor.open("udp", address)
            key = wall.enclose(child, CLOSED)
            during = kind == "udp" and is_answered(sock, marker, SILENCE_S)
            with pytest.raises(PermissionError):
                spare.sendto(marker, address, PORT)
            left = has_left(bench, marker)
            wall.wall.detach(key)
            after = is_answered(sock, b"after")
            spare.sendto(b"after", address, PORT)
            spared = spare.recv()

    assert not during
    assert not left
    assert (after, spared) == (True, b"after")


@pytest.mark.parametrize(("kind", "address"), KINDS)
def test_admission_judges_live_sockets(bench: Workbench, kind: str, address: str) -> None:
    """A socket made under the scope is the sandbox's once there is one, whatever it did before."""
    other = OUTSIDE6 if ":" in address else OUTSIDE_OTHER
    with scope(bench, DEFAULT) as made:
        child, wall, marker = made.child("bound"), made.enclosure, make_marker()
        with made.puppet(child) as actor:
            sock, spare = connected(actor, kind, address, PORT), actor.open("udp", address)
            with pytest.raises(PermissionError):
                spare.sendto(b"before", other, PORT)
            bench.ground.settle()
            known = len(wall.events(made.key))
            with wall.enclosed(child, OTHER) as key:
                during = is_answered(sock, marker, SILENCE_S)
                spare.sendto(b"opened", other, PORT)
                opened = spare.recv()
                left = has_left(bench, marker)
                refusals = wall.refusals(key)
            of_scope = wall.events(made.key, known)

    assert not during
    assert not left
    assert opened == b"opened"
    assert {str(e.remote.address) for e in refusals if e.remote} == {address}
    assert [describe(event) for event in of_scope] == []


def test_a_ping_socket_changes_hands(bench: Workbench) -> None:
    """Echo requests are judged by whoever judges now, and no call of connect() tells them."""
    echo, during = b"\x08\0\0\0\0\0\0\x01", make_marker()
    with scope(bench, DEFAULT) as made:
        child, wall = made.child("bound"), made.enclosure
        with made.puppet(child) as actor:
            sock = actor.open("ping")
            sock.sendto(echo + b"before", PERMITTED, 0)
            before = sock.recv()
            with wall.enclosed(child, CLOSED), pytest.raises(PermissionError):
                sock.sendto(echo + during, PERMITTED, 0)
            sock.sendto(echo + b"after", PERMITTED, 0)
            after = sock.recv()
        left = has_left(bench, during)

    assert before.endswith(b"before")
    assert after.endswith(b"after")
    assert not left


def serve(made: Scope, actor: Puppet) -> tuple[PuppetSocket, socket.socket, PuppetSocket]:
    """Return a listener of the puppet, and both ends of a connection that the far side opened."""
    listener = actor.open("tcp")
    listener.bind("0.0.0.0", INBOUND_PORT)
    listener.listen()
    return (listener, *call(made, listener))


def call(
    made: Scope, listener: PuppetSocket, within_s: float = PATIENCE_S
) -> tuple[socket.socket, PuppetSocket]:
    """Connect to *listener* from the address that may; return the far end and the near one."""
    caller = made.bench.ground.far.socket(socket.AF_INET, socket.SOCK_STREAM)
    caller.settimeout(within_s)
    caller.bind((PERMITTED, 0))
    try:
        caller.connect((NEAR4, INBOUND_PORT))
        caller.settimeout(PATIENCE_S)
        return caller, listener.accept()
    except BaseException:
        caller.close()
        raise


def test_an_inbound_flow_keeps_its_direction(bench: Workbench) -> None:
    """Accepted connections and listeners live on in other hands where inbound rules let them."""
    with scope(bench, DEFAULT) as made:
        child, wall = made.child("serving"), made.enclosure
        with made.puppet(child) as actor:
            listener, caller, served = serve(made, actor)
            with caller:
                served.send(b"by scope")
                answers = [caller.recv(64)]
                key = wall.enclose(child, DEFAULT)
                caller.sendall(b"question")
                answers.append(served.recv())
                served.send(b"by sandbox")
                answers.append(caller.recv(64))
                second, accepted = call(made, listener)
                with second:
                    accepted.send(b"anew")
                    answers.append(second.recv(64))
                events = wall.events(key)
                wall.wall.detach(key)
                served.send(b"again")
                answers.append(caller.recv(64))

    assert answers == [b"by scope", b"question", b"by sandbox", b"anew", b"again"]
    assert {(e.direction, e.verdict) for e in events} == {(Direction.IN, Verdict.ALLOW)}


def test_an_inbound_flow_ends_where_no_rule_lets_it_in(bench: Workbench) -> None:
    """A sandbox without inbound rules answers no one that the default let in, listener or not."""
    with scope(bench, DEFAULT) as made:
        child, wall, marker = made.child("serving"), made.enclosure, make_marker()
        with made.puppet(child) as actor:
            listener, caller, served = serve(made, actor)
            with caller, wall.enclosed(child, CLOSED):
                served.send(marker)
                caller.settimeout(SILENCE_S)
                with pytest.raises(TimeoutError):
                    caller.recv(64)
                with pytest.raises(TimeoutError):
                    call(made, listener, SILENCE_S)
                left = has_left(bench, marker)

    assert not left


def test_old_sockets_are_called_under_the_sandboxs_rules(bench: Workbench) -> None:
    """What was made under a closed default is reached once the sandbox's rules let it be."""
    echo = b"\x08\0\0\0\0\0\0\x01"
    with scope(bench, CLOSED) as made:
        child, wall = made.child("serving"), made.enclosure
        wall.bind(
            made.key,
            parse_policy("name: c\nallow: [{cidr: 192.0.2.9, ports: [icmp]}]"),
            is_scope=True,
        )
        with (
            made.puppet(child) as actor,
            bench.ground.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
        ):
            listener, sock, ping = actor.open("tcp"), actor.open("udp"), actor.open("ping")
            for one in (listener, sock):
                one.bind("0.0.0.0", INBOUND_PORT)
            listener.listen()
            caller.settimeout(PATIENCE_S)
            caller.bind((PERMITTED, 0))
            with pytest.raises(TimeoutError):
                call(made, listener, SILENCE_S)
            with wall.enclosed(child, DEFAULT):
                near, served = call(made, listener)
                with near:
                    served.send(b"answer")
                    heard = [near.recv(64)]
                caller.sendto(b"question", (NEAR4, INBOUND_PORT))
                data, address, port = sock.recvfrom()
                sock.sendto(b"reply", address, port)
                heard += [data, caller.recv(64)]
                ping.sendto(echo + b"echo", PERMITTED, 0)
                heard.append(ping.recv()[8:])

    assert heard == [b"answer", b"question", b"reply", b"echo"]


def test_datagrams_are_answered_in_other_hands(bench: Workbench) -> None:
    """Who called under the default is answered only if the sandbox's rules let it in as well."""
    with scope(bench, DEFAULT) as made:
        child, wall = made.child("serving"), made.enclosure
        with (
            made.puppet(child) as actor,
            bench.ground.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
        ):
            sock = actor.open("udp")
            sock.bind("0.0.0.0", INBOUND_PORT)
            caller.settimeout(PATIENCE_S)
            caller.bind((PERMITTED, 5000))
            caller.sendto(b"question", (NEAR4, INBOUND_PORT))
            heard = sock.recv()
            with wall.enclosed(child, CLOSED), pytest.raises(PermissionError):
                sock.sendto(b"refused", PERMITTED, 5000)
            with wall.enclosed(child, DEFAULT):
                sock.sendto(b"answer", PERMITTED, 5000)
                answer = caller.recv(64)

    assert heard == b"question"
    assert answer == b"answer"


# Sends for as long as it is let, and says at the end how much passed and how much was refused.
PROBER = """
import select, socket, sys

passed = refused = 0
sock = socket.socket(type=socket.SOCK_DGRAM)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(64):
        try:
            sock.sendto(sys.argv[1].encode(), (sys.argv[2], int(sys.argv[3])))
            passed += 1
        except PermissionError:
            refused += 1
print(passed, refused)
"""


def await_refusal(wall: Enclosure, key: SandboxKey) -> None:
    """Wait until one more of *key*'s sends is refused."""
    before = wall.counters(key).denied
    wait_until(lambda: wall.counters(key).denied > before, what="another refusal")


def test_coming_and_going_leaves_no_gap(bench: Workbench) -> None:
    """What both policies deny is not reachable for a moment while a sandbox comes and goes."""
    with scope(bench, CLOSED) as made:
        child, wall, marker = made.child("bound"), made.enclosure, make_marker()
        command = (sys.executable, "-I", "-S", "-c", PROBER, marker.decode(), OUTSIDE, str(PORT))
        with bench.ground.near.process(*command, cgroup=child) as prober:
            assert prober.stdout
            assert prober.stdout.readline() == "ready\n"
            for _ in range(COMINGS):
                await_refusal(wall, made.key)
                with wall.enclosed(child, DEFAULT) as key:
                    await_refusal(wall, key)
            told, _ = prober.communicate("stop\n", timeout=120)
        passed, refused = map(int, told.split())
        left = has_left(bench, marker)

    assert (passed, left) == (0, False)
    assert refused >= 2 * COMINGS
