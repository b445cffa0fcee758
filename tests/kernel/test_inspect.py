# SPDX-License-Identifier: Apache-2.0
"""``inspect`` of a rule in the kernel: by whichever way the rule allows, it goes with the flow."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import name_server
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.inspection import BANNER, NOTIFY, SUBSCRIBE, UPGRADE, Inspector
from rig.lab import FAR4, NEAR4, OUTSIDE, OUTSIDE_OTHER, PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import Server, tcp_server
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import ReasonCode, Verdict
from agentwall.kernel import abi
from agentwall.kernel.loading import OBJECT_PATH
from agentwall.kernel.objects import BpfObject

pytestmark = pytest.mark.kernel

SYS_PIDFD_GETFD = 438
RESOLVER = "198.51.100.53"
PROXY = OUTSIDE
LISTED = OUTSIDE_OTHER
HUB, MIRROR = "hub.example.com", "a.mirror.example.com"
NAMES = {HUB: "203.0.113.11", MIRROR: "203.0.113.12"}
PORT = 3333
REACHED = {
    "cidr": PERMITTED,
    "cidr, IPv6": PERMITTED6,
    "cidr_file": LISTED,
    "host": NAMES[HUB],
    "host_file": NAMES[MIRROR],
    "proxy": PROXY,
}


def _policy(lists: Path, terms: str) -> str:
    return f"""
        name: inspect
        dns: {{servers: [{RESOLVER}]}}
        allow:
          - {{cidr: {PERMITTED}, {terms}}}
          - {{cidr: "{PERMITTED6}", {terms}}}
          - {{cidr_file: {lists / "prefixes.txt"}, {terms}}}
          - {{host: {HUB}, {terms}}}
          - {{host_file: {lists / "names.txt"}, {terms}}}
          - {{proxy: {PROXY}, {terms}}}
        inbound:
          - {{cidr: {FAR4}, {terms}}}
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    lab: Lab
    enclosure: Enclosure
    servers: dict[str, Server]
    directory: Path
    terms_at: int
    """Offset of ``terms`` in ``struct aw_socket``."""

    @contextmanager
    def sandbox(self, inspect: str) -> Iterator[tuple[SandboxKey, Puppet]]:
        text = _policy(self.directory, f"ports: [{PORT}], inspect: {inspect}")
        with (
            temp_cgroup() as cgroup,
            self.enclosure.enclosed(cgroup, parse_policy(text)) as key,
            puppet(self.lab.near, cgroup, timeout_s=PATIENCE_S) as actor,
        ):
            for server in self.servers.values():
                server.clear()
            for number, name in enumerate(NAMES, 1):
                _resolve(actor, name, number)
            yield key, actor

    def terms(self, actor: Puppet) -> int:
        """What ``aw_sockets`` keeps for the youngest socket of *actor*, as ``AW_TERM_*``."""
        fd = _own(actor.pid, _youngest_socket(actor.pid))
        try:
            value = self.enclosure.wall.maps()["aw_sockets"].lookup(struct.pack("=i", fd))
        finally:
            os.close(fd)
        assert value is not None
        return value[self.terms_at] << 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("lists")
    (directory / "prefixes.txt").write_text(f"192.0.2.77\n{LISTED}\n")
    (directory / "names.txt").write_text("*.mirror.example.com\n")
    with BpfObject.open(OBJECT_PATH) as bpf:
        terms_at = bpf.definitions()["aw_sockets"].value.member("terms").offset // 8
    with (
        lab() as made,
        enclosure(made.near) as wall,
        name_server(made, RESOLVER, NAMES),
        ExitStack() as stack,
    ):
        wall.inspector = Inspector(wall.wall)
        servers = {
            address: stack.enter_context(
                tcp_server(made.far, address, PORT, session=lambda: answer)
            )
            for address in REACHED.values()
        }
        yield Bench(
            lab=made, enclosure=wall, servers=servers, directory=directory, terms_at=terms_at
        )


def answer(data: bytes) -> bytes:
    """Say what a pool says when it is asked to."""
    return NOTIFY if data.startswith(b"pool") else b""


def _youngest_socket(pid: int) -> int:
    links = Path(f"/proc/{pid}/fd").iterdir()
    found = [int(link.name) for link in links if re.match("socket:", os.readlink(link))]
    return max(found)


def _own(pid: int, number: int) -> int:
    """Return descriptor *number* of *pid* as one of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    of_process = os.pidfd_open(pid)
    try:
        fd = int(libc.syscall(SYS_PIDFD_GETFD, of_process, number, 0))
    finally:
        os.close(of_process)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def _resolve(actor: Puppet, name: str, number: int) -> None:
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    sock = actor.open("udp")
    sock.connect(RESOLVER, 53)
    sock.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1")
    sock.recv()
    sock.close()


def _opened(actor: Puppet, address: str) -> PuppetSocket:
    sock = actor.open("tcp", address)
    sock.connect(address, PORT)
    return sock


@pytest.mark.parametrize("inspect", ["all", "wire", "none"])
@pytest.mark.parametrize("way", REACHED)
def test_terms_of_a_flow(bench: Bench, way: str, inspect: str) -> None:
    """The socket of a flow knows whether what is inside TLS may be read, before it says a word."""
    with bench.sandbox(inspect) as (key, actor):
        _opened(actor, REACHED[way])
        terms = bench.terms(actor)

        assert bool(terms & abi.TERM_UNREAD) is (inspect != "all")
        assert bool(terms & abi.TERM_PROXY) is (way == "proxy")
        assert not bench.enclosure.refusals(key)


@pytest.mark.parametrize("inspect", ["all", "wire", "none"])
def test_terms_of_an_inbound_flow(bench: Bench, inspect: str) -> None:
    """So does the socket that accept() returns."""
    with bench.sandbox(inspect) as (_, actor):
        listener = actor.open("tcp")
        listener.bind(NEAR4, PORT)
        listener.listen()
        with bench.lab.far.socket(socket.AF_INET, socket.SOCK_STREAM) as visitor:
            visitor.bind((FAR4, 0))
            visitor.connect((NEAR4, PORT))
            listener.accept().send(b"hello")
            assert visitor.recv(5) == b"hello"

            assert bool(bench.terms(actor) & abi.TERM_UNREAD) is (inspect != "all")


def test_terms_follow_the_policy(bench: Bench) -> None:
    """A live flow is judged anew under the next policy, and its terms with it."""
    with bench.sandbox("all") as (key, actor):
        sock = _opened(actor, PERMITTED)
        before = bench.terms(actor)
        rule = f"{{cidr: {PERMITTED}, ports: [{PORT}], inspect: wire}}"
        bench.enclosure.bind(key, parse_policy(f"name: next\nallow: [{rule}]\n"))
        sock.send(b"x")
        bench.servers[PERMITTED].wait(1)

        assert (before, bench.terms(actor)) == (0, abi.TERM_UNREAD)


@pytest.mark.parametrize("way", ["cidr", "cidr_file"])
@pytest.mark.parametrize(
    "message", [SUBSCRIBE, BANNER, UPGRADE, b"pool"], ids=["mining", "ssh", "handed over", "answer"]
)
def test_nothing_is_read(bench: Bench, way: str, message: bytes) -> None:
    """With ``none`` what would be cut passes, both ways, and nothing is told or handed over."""
    address = REACHED[way]
    with bench.sandbox("none") as (key, actor):
        sock = _opened(actor, address)
        sock.send(message)
        sock.send(b"-more")
        bench.servers[address].wait(len(message) + 5)
        if message == b"pool":
            assert sock.recv() == NOTIFY
        told = [e for e in bench.enclosure.events(key) if e.code is ReasonCode.SIGNATURE]

        assert bench.servers[address].received == message + b"-more"
        assert not told, describe(told[0])
        assert not bench.enclosure.refusals(key)
        assert not list(bench.enclosure.wall.excerpts())


@pytest.mark.parametrize("inspect", ["all", "wire"])
def test_what_is_in_clear_is_read(bench: Bench, inspect: str) -> None:
    """With ``wire``, as with ``all``, what is said in clear is cut."""
    with bench.sandbox(inspect) as (key, actor):
        _opened(actor, PERMITTED).send(SUBSCRIBE)
        event = bench.enclosure.await_event(key, lambda e: e.match is not None)

        assert event is not None
        assert event.verdict is Verdict.DENY
        assert bench.servers[PERMITTED].received == b""
