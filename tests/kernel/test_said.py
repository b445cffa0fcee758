# SPDX-License-Identifier: Apache-2.0
"""What a flow says of itself must be permitted where it goes: SNI, Host, CONNECT, QUIC."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import NameServer, name_server
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.lab import OUTSIDE, PERMITTED, Lab, lab
from rig.listeners import tcp_server
from rig.puppet import PATIENCE_S, Puppet, PuppetSocket, puppet

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import ReasonCode, Verdict

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
PROXY = OUTSIDE
HUB, SHARED, BORROWED = "hub.example.com", "other.example.com", "borrowed.example.net"
POLICY = f"""
    name: said
    dns: {{servers: [{RESOLVER}]}}
    allow:
      - {{host: {HUB}, ports: [443, 80, 22, udp/443]}}
      - {{host: {SHARED}}}
      - host: optional.example.com
        ports: [443, udp/443]
        sni: optional
        ech: outer
        quic: allow
      - {{proxy: {PROXY}, ports: [3128]}}
"""
NAMES = {HUB: PERMITTED, SHARED: PERMITTED, "optional.example.com": "203.0.113.11"}
PORTS = ((PERMITTED, 443), (PERMITTED, 80), (PERMITTED, 22), ("203.0.113.11", 443), (PROXY, 3128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    lab: Lab
    enclosure: Enclosure
    resolver: NameServer

    @contextmanager
    def sandbox(self, text: str = POLICY) -> Iterator[tuple[SandboxKey, Puppet]]:
        with (
            temp_cgroup() as cgroup,
            self.enclosure.enclosed(cgroup, parse_policy(text)) as key,
            puppet(self.lab.near, cgroup, timeout_s=PATIENCE_S) as actor,
        ):
            for number, name in enumerate(NAMES, 1):
                _resolve(actor, name, number)
            yield key, actor

    def reasons(self, key: SandboxKey) -> list[ReasonCode]:
        return [e.code for e in self.enclosure.refusals(key)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with (
        lab() as made,
        enclosure(made.near) as wall,
        name_server(made, RESOLVER, NAMES) as resolver,
        ExitStack() as servers,
    ):
        for address, port in PORTS:
            servers.enter_context(tcp_server(made.far, address, port))
        yield Bench(lab=made, enclosure=wall, resolver=resolver)


def _resolve(actor: Puppet, name: str, number: int) -> None:
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    sock = actor.open("udp")
    sock.connect(RESOLVER, 53)
    sock.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1")
    sock.recv()
    sock.close()


def hello(name: str | None) -> bytes:
    """The first flight of a real TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def opened(actor: Puppet, address: str, port: int) -> PuppetSocket:
    sock = actor.open("tcp", address)
    sock.connect(address, port)
    return sock


def get(target: str, host: str | None = None) -> bytes:
    header = f"Host: {host}\r\n" if host else ""
    return f"GET {target} HTTP/1.1\r\n{header}User-Agent: test\r\n\r\n".encode()


def connect(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


SAYINGS = [
    # address, port, what is sent, the reason to refuse it or None
    (PERMITTED, 443, hello(HUB), None),
    (PERMITTED, 443, hello(SHARED), None),
    (PERMITTED, 443, hello(HUB.upper()), None),
    (PERMITTED, 443, hello(BORROWED), ReasonCode.SERVER_NAME),
    (PERMITTED, 443, hello("x." + HUB), ReasonCode.SERVER_NAME),
    (PERMITTED, 443, hello(None), ReasonCode.NO_SERVER_NAME),
    (PERMITTED, 443, hello(PERMITTED), ReasonCode.NO_SERVER_NAME),
    (PERMITTED, 80, hello(SHARED), ReasonCode.SERVER_NAME),  # permitted at 443 only
    (PERMITTED, 80, get("/", HUB), None),
    (PERMITTED, 80, get("/", f"{HUB}:80"), None),
    (PERMITTED, 80, get(f"http://{HUB}/", HUB), None),
    (PERMITTED, 80, get("/", BORROWED), ReasonCode.SERVER_NAME),
    (PERMITTED, 80, get("/"), ReasonCode.SERVER_NAME),  # no request of HTTP/1.1
    (PERMITTED, 80, b"GET / HTTP/1.0\r\n\r\n", ReasonCode.NO_SERVER_NAME),
    (PERMITTED, 80, connect(f"{BORROWED}:443"), ReasonCode.PROXY_TARGET),
    (PERMITTED, 22, b"SSH-2.0-OpenSSH_9.2p1\r\n", None),
    ("203.0.113.11", 443, hello(None), None),
    ("203.0.113.11", 443, hello(BORROWED), ReasonCode.SERVER_NAME),
    (PROXY, 3128, connect(f"{HUB}:443"), None),
    (PROXY, 3128, connect(f"{HUB}:8443"), ReasonCode.PROXY_TARGET),
    (PROXY, 3128, connect(f"{BORROWED}:443"), ReasonCode.PROXY_TARGET),
    (PROXY, 3128, get(f"http://{HUB}/", HUB), None),
    (PROXY, 3128, get(f"http://{BORROWED}/", BORROWED), ReasonCode.PROXY_TARGET),
    (PROXY, 3128, get("/", HUB), ReasonCode.PROXY_TARGET),
    (PROXY, 3128, b"\x05\x01\x00", ReasonCode.PROXY_TARGET),
]


@pytest.mark.parametrize("piece", [65536, 100, 1])
@pytest.mark.parametrize(("address", "port", "data", "refused"), SAYINGS)
def test_sayings(
    bench: Bench, address: str, port: int, data: bytes, refused: ReasonCode | None, piece: int
) -> None:
    with bench.sandbox() as (key, actor):
        sock = opened(actor, address, port)
        for at in range(0, len(data), piece):
            sock.send(data[at : at + piece])
        if refused is None:
            assert bench.reasons(key) == []
            return
        event = bench.enclosure.await_event(key, lambda e: e.code is refused)
        assert event, [describe(e) for e in bench.enclosure.events(key)]
        assert event.verdict is Verdict.DENY


def test_every_request_of_a_connection(bench: Bench) -> None:
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED, 80)
        for _ in range(3):
            sock.send(get("/", HUB))
        sock.send(get("/", HUB) + get("/", HUB))
        assert bench.reasons(key) == []
        sock.send(get("/", HUB) + get("/", BORROWED))
        assert bench.enclosure.await_event(key, lambda e: e.code is ReasonCode.SERVER_NAME)


def test_what_is_in_a_tunnel_names_its_end(bench: Bench) -> None:
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PROXY, 3128)
        sock.send(connect(f"{HUB}:443"))
        sock.send(hello(HUB))
        assert bench.reasons(key) == []
        sock = opened(actor, PROXY, 3128)
        sock.send(connect(f"{HUB}:443"))
        sock.send(hello(SHARED))
        assert bench.enclosure.await_event(key, lambda e: e.code is ReasonCode.PROXY_TARGET)


def test_a_switch_judges_by_the_name_that_was_said(bench: Bench) -> None:
    with bench.sandbox() as (key, actor):
        sock = opened(actor, PERMITTED, 443)
        sock.send(hello(SHARED))
        bench.enclosure.bind(key, parse_policy(POLICY))
        sock.send(b"\x17\x03\x03\x00\x01x")
        assert bench.reasons(key) == []
        # HUB still permits the address, but this flow is not for HUB.
        bench.enclosure.bind(key, parse_policy(POLICY.replace(SHARED, "gone.example.com")))
        sock.send(b"\x17\x03\x03\x00\x01x")
        assert bench.enclosure.await_event(key, lambda e: e.hook.value == "egress")


def quic_initial() -> bytes:
    return (b"\xc3\x00\x00\x00\x01\x08" + bytes(8) + b"\x00").ljust(1200, b"\0")


@pytest.mark.parametrize(
    ("address", "refused"), [(PERMITTED, [ReasonCode.QUIC]), ("203.0.113.11", [])]
)
def test_quic(bench: Bench, address: str, refused: list[ReasonCode]) -> None:
    with bench.sandbox() as (key, actor):
        sock = actor.open("udp")
        sock.connect(address, 443)
        if refused:
            with pytest.raises(PermissionError):
                sock.send(quic_initial())
        else:
            sock.send(quic_initial())
        assert bench.reasons(key) == refused


def test_audit_mode_lets_all_of_it_through(bench: Bench) -> None:
    with bench.sandbox("    mode: audit\n" + POLICY) as (key, actor):
        sock = opened(actor, PERMITTED, 443)
        sock.send(hello(BORROWED))
        sock.send(b"and more")
        seen = [e for e in bench.enclosure.events(key) if e.code is ReasonCode.SERVER_NAME]
        assert [(e.verdict, e.question.name if e.question else None) for e in seen] == [
            (Verdict.WOULD_DENY, BORROWED)
        ]
