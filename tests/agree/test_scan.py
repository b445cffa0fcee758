# SPDX-License-Identifier: Apache-2.0
"""The kernel finds in real flows what ``scan()`` finds, at the same octet, however they are cut."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random

import pytest
from agree.flows import Expected, Judge, RandomFlow, random_flows
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.inspection import Inspector, automaton, signatures
from rig.lab import PERMITTED, PERMITTED6, Lab, lab
from rig.puppet import Puppet, PuppetSocket, puppet

from agentwall.detect.automaton import Automaton
from agentwall.detect.judging import masks_of
from agentwall.detect.packing import pack_table
from agentwall.detect.signature import Side, SignatureSet, Transport
from agentwall.flow.record import Attempt
from agentwall.host.signature_files import automaton_of, read_signatures
from agentwall.kernel.signatures import Inspection
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables

pytestmark = pytest.mark.kernel

FLOWS = 200 if "VMTEST_KERNEL" in os.environ else 1000
"""Of each set. An emulated kernel takes fifteen times as long for each."""
POLICY = parse_policy(
    f"""
    name: agree
    detect: {{mining: block, tunnel: block, p2p: block}}
    allow:
      - {{cidr: {PERMITTED}, ports: [1-65535, udp/1-65535, icmp]}}
      - {{cidr: "{PERMITTED6}", ports: [1-65535, udp/1-65535, icmp]}}
    """
)
ADDRESSES = (PERMITTED, PERMITTED6)
WAIT_S = 60.0
"""For what must come."""
GO = b"\xff"
"""Asks the far side to speak, and is nothing that any signature begins with."""
ECHO_REQUEST = {PERMITTED: 8, PERMITTED6: 128}


@dataclass(slots=True)
class ShippedInspector(Inspector):
    """Has a wall look for the set that is shipped."""

    def inspection(self, generation: int, policy: Policy, tables: RuleTables) -> Inspection:
        """Return what ``SandboxSettings`` need for *policy*."""
        shipped = read_signatures()
        if self.slot is None:
            self.slot = self.wall.signatures.write(pack_table(automaton_of(shipped), shipped))
        masks = masks_of(policy, tables, shipped)
        return Inspection(slot=self.slot, masks=masks, depth_bytes=policy.detect.depth_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A sandbox, the far side's sockets, and who knows what is to be found."""

    lab: Lab
    enclosure: Enclosure
    actor: Puppet
    judge: Judge
    signatures: SignatureSet
    listeners: dict[str, socket.socket]

    def found(self) -> list[Attempt]:
        """Return the matches since the last call."""
        return [event for event in self.enclosure.wall.attempts() if event.match is not None]

    def await_found(self, wanted: Expected) -> list[Attempt]:
        """Return them once they are as many as are *wanted*, or it took too long."""
        deadline, events = time.monotonic() + WAIT_S, self.found()
        while len(events) < len(wanted.found) and time.monotonic() < deadline:
            events += self.found()
        return events


def automaton_and_set(name: str) -> tuple[Automaton, SignatureSet]:
    """Return those that tests use, or those that are shipped."""
    if name == "test":
        return automaton(), signatures()
    shipped = read_signatures()
    return automaton_of(shipped), shipped


@pytest.fixture(scope="module", params=["test", "shipped"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench for each set."""
    table, known = automaton_and_set(request.param)
    with lab() as made, enclosure(made.near) as wall, temp_cgroup() as cgroup:
        inspector = Inspector if request.param == "test" else ShippedInspector
        wall.inspector = inspector(wall.wall)
        masks = masks_of(POLICY, compile_policy(POLICY), known)
        listeners = {address: _listener(made, address) for address in ADDRESSES}
        with wall.enclosed(cgroup, POLICY), puppet(made.near, cgroup, timeout_s=WAIT_S) as actor:
            yield Bench(
                lab=made,
                enclosure=wall,
                actor=actor,
                judge=Judge(table, known, masks),
                signatures=known,
                listeners=listeners,
            )
        for listener in listeners.values():
            listener.close()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _listener(made: Lab, address: str) -> socket.socket:
    listener = made.far.socket(_family(address), socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(64)
    listener.settimeout(WAIT_S)
    return listener


def test_streams_and_datagrams_agree(bench: Bench) -> None:
    """Random flows are cut at the octet at which scan() has found what blocks, or arrive whole."""
    random, kinds = Random(4), Counter[tuple[str, str]]()
    for flow in random_flows(random, bench.signatures, FLOWS):
        address = random.choice(ADDRESSES)
        if flow.transport is Transport.TCP:
            expected = run_stream(bench, flow, address)
        elif flow.transport is Transport.UDP:
            expected = run_datagrams(bench, flow, address)
        else:
            expected = run_echo(bench, flow, address)
        outcome = "cut" if expected.cut else "told" if expected.found else "whole"
        kinds[flow.transport.value, outcome] += 1
        kinds[flow.side.value, outcome] += 1

    for who in ("tcp", "udp", "client", "server"):
        of_all = kinds[who, "cut"] + kinds[who, "told"] + kinds[who, "whole"]
        assert kinds[who, "cut"] >= of_all / 10, kinds
        assert kinds[who, "whole"] >= of_all / 10, kinds


def compare(bench: Bench, flow: RandomFlow, expected: Expected) -> list[Attempt]:
    """Hold the reports equal, and return them."""
    events = bench.await_found(expected)
    assert [(e.match.accept, e.match.position) for e in events if e.match] == expected.found, (
        flow,
        [describe(event) for event in events],
    )
    return events


@contextmanager
def connection(bench: Bench, address: str) -> Iterator[tuple[PuppetSocket, socket.socket]]:
    """Connect the sandbox to the far side; nothing is sent again after the block."""
    listener = bench.listeners[address]
    near = bench.actor.open("tcp", address)
    near.connect(address, listener.getsockname()[1])
    far, _ = listener.accept()
    far.settimeout(WAIT_S)
    linger = struct.pack("ii", 1, 0)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.set_option(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    near.set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, struct.pack("i", 1))
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def run_stream(bench: Bench, flow: RandomFlow, address: str) -> Expected:
    """Say *flow* over a connection and look at what arrives."""
    expected, data = bench.judge.expect(flow), b"".join(flow.pieces)
    with connection(bench, address) as (near, far):
        receive: Callable[[], bytes] = near.recv
        send: Callable[[bytes], object] = far.sendall
        if flow.side is Side.CLIENT:
            receive, send = lambda: far.recv(1 << 16), near.send
        for piece in flow.pieces:
            send(piece)
        arrived = b"" if expected.cut else received(receive, len(data))
        events = compare(bench, flow, expected)
        if expected.cut:
            last = events[-1].match
            assert last is not None
            assert last.left_bytes < last.position
            arrived = received(receive, last.left_bytes)
            assert arrived == data[: last.left_bytes], flow
            assert data[: last.position].endswith(last.text)
        else:
            assert arrived == data, flow
    return expected


def received(receive: Callable[[], bytes], size: int) -> bytes:
    """Receive *size* octets, or what comes of them in time."""
    data = b""
    with suppress(TimeoutError):
        while len(data) < size:
            data += receive()
    return data


@contextmanager
def peers(bench: Bench, address: str) -> Iterator[tuple[PuppetSocket, socket.socket]]:
    """Connect two UDP sockets, and let the near one speak first."""
    with bench.lab.far.socket(_family(address), socket.SOCK_DGRAM) as far:
        far.bind((address, 0))
        far.settimeout(WAIT_S)
        near = bench.actor.open("udp", address)
        near.connect(address, far.getsockname()[1])
        near.send(GO)
        _, peer = far.recvfrom(16)
        far.connect(peer)
        try:
            yield near, far
        finally:
            near.close()


def run_datagrams(bench: Bench, flow: RandomFlow, address: str) -> Expected:
    """Send the datagrams of *flow* and look at which arrive."""
    expected = bench.judge.expect(flow)
    with peers(bench, address) as (near, far):
        send, receive = (near.send, lambda: far.recv(1 << 16))
        if flow.side is Side.SERVER:
            send, receive = far.send, near.recv
        for piece in flow.pieces:
            with suppress(PermissionError):
                send(piece)
        compare(bench, flow, expected)
        for index in range(expected.passed):
            assert receive() == flow.pieces[index], flow
        if expected.cut and flow.side is Side.CLIENT:
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(1 << 16)
    return expected


def run_echo(bench: Bench, flow: RandomFlow, address: str) -> Expected:
    """Send the payload of *flow* in an echo request; the reply brings it back, as the server's."""
    asked = RandomFlow(transport=Transport.ICMP, side=Side.CLIENT, pieces=flow.pieces)
    answered = RandomFlow(transport=Transport.ICMP, side=Side.SERVER, pieces=flow.pieces)
    expected = bench.judge.expect(asked, answered)
    sock = bench.actor.open("ping6" if ":" in address else "ping", address)
    sock.connect(address, 0)
    with suppress(PermissionError):
        sock.send(struct.pack("!BBHHH", ECHO_REQUEST[address], 0, 0, 0, 1) + flow.pieces[0])
    if not expected.cut:
        assert sock.recv()[8:] == flow.pieces[0]
    compare(bench, flow, expected)
    sock.close()
    return expected
