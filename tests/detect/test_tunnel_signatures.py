# SPDX-License-Identifier: Apache-2.0
"""The shipped tunnel signatures: what they find, what looks like it and is none, and real programs.

``signature test`` checks the examples in the files; here stand messages built another way, so that
an example and its pattern cannot be wrong together.
"""

from __future__ import annotations

import random
import struct
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.tree import ROOT
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.ntp import NTP
from scapy.layers.rtp import RTP
from scapy.layers.vxlan import VXLAN

from agentwall.detect.automaton import Automaton
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, SignatureSet, Transport
from agentwall.detect.signature_load import load_signatures

CLIENT, SERVER = Side.CLIENT, Side.SERVER
TCP_, UDP_, ICMP_ = Transport.TCP, Transport.UDP, Transport.ICMP
MOST_STATES = 6000
SESSION = bytes(range(0x41, 0x49))
FIRST = struct.pack(">II", 1, 1_790_000_000)
"""Packet id and time of OpenVPN's first packet, and of one that brings its key along."""
EARLY = struct.pack(">II", 0x0F000001, 1_790_000_000)


@cache
def shipped() -> tuple[SignatureSet, Automaton]:
    """The signatures of tunnels alone, and their automaton."""
    path = ROOT / "policies/signatures/tunnels.yaml"
    signatures = load_signatures([(str(path), path.read_text(encoding="utf-8"))])
    return signatures, compile_automaton(signatures.signatures)


def found(transport: Transport, side: Side, data: bytes, *, blocking: bool = False) -> set[str]:
    """Names of the signatures that match, without the class; the blocking ones only if so asked."""
    signatures, automaton = shipped()
    hits = scan(automaton, transport, side, data, whole=transport is not TCP_)
    matched = {
        signatures.signatures[index] for hit in hits for index in automaton.accepts[hit.accept]
    }
    return {each.id.partition("/")[2] for each in matched if each.blocks or not blocking}


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes without any order, the same in every run."""
    return random.Random(seed).randbytes(size)


def kexinit() -> bytes:
    """An SSH_MSG_KEXINIT in its packet (RFC 4253 section 6)."""
    body = b"\x14" + random_bytes(16) + struct.pack(">I", 18) + b"curve25519-sha256x" + bytes(45)
    padding = 8 - (len(body) + 5) % 8 + 4
    return struct.pack(">IB", len(body) + padding + 1, padding) + body + bytes(padding)


def socks_to(host: str, port: int) -> bytes:
    """What a client of SOCKS 5 asks (RFC 1928 section 4)."""
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", port)


def query(name: str, kind: str = "TXT") -> bytes:
    """A DNS query as scapy writes it."""
    return bytes(DNS(id=0x4242, rd=1, qd=DNSQR(qname=name, qtype=kind)))


def frp_login(*, is_multiplexed: bool) -> bytes:
    """frpc's first message, in a yamux stream or bare."""
    body = b'{"version":"0.60.0","hostname":"","os":"linux","arch":"arm64","user":""}'
    message = b"o" + struct.pack(">q", len(body)) + body
    if not is_multiplexed:
        return message
    opening = struct.pack(">BBHII", 0, 1, 1, 1, 6 * 1024 * 1024 - 256 * 1024)
    return opening + struct.pack(">BBHII", 0, 0, 0, 1, len(message)) + message


def upgrade(*headers: str, path: str = "/", method: str = "GET") -> bytes:
    """The head of a request for another protocol."""
    lines = (f"{method} {path} HTTP/1.1", "Host: host.example", "Connection: Upgrade", *headers)
    return "\r\n".join((*lines, "", "")).encode()


IKE_SA_INIT = SESSION + bytes(8) + struct.pack(">BBBBII", 33, 0x20, 34, 0x08, 0, 456)
INNER = bytes(IP(src="10.0.0.2", dst="10.0.0.1") / TCP(dport=22))
INNER6 = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(dport=22))
FRAME = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(INNER))
SOCKS5 = b"\x05\x01\x00" + socks_to("host.example", 22)
GRANT = b"\x05\x00\x05\x00\x00\x01" + bytes(6)
CONNECT = b"CONNECT host.example:22 HTTP/1.1\r\nHost: host.example\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
BANNER = b"SSH-2.0-dropbear_2022.83\r\n"
MOTD = b" ______\n< Moo! >\n ------\n\r\nServer of the lab\r\nSwitch off after use\r\n"

TUNNELS = [
    ("ssh-banner", TCP_, CLIENT, BANNER),
    ("ssh-banner", TCP_, SERVER, b"SSH-1.99-Cisco-1.25\n"),
    ("ssh-after-text", TCP_, SERVER, MOTD + BANNER + kexinit()),
    ("ssh-in-socks5", TCP_, CLIENT, SOCKS5 + BANNER),
    ("ssh-in-socks5", TCP_, SERVER, GRANT + BANNER),
    ("ssh-in-socks4", TCP_, CLIENT, b"\x04\x01\x00\x16\x0a\x00\x00\x01root\x00" + BANNER),
    ("ssh-in-connect", TCP_, CLIENT, CONNECT + BANNER),
    ("ssh-in-websocket", TCP_, SERVER, SWITCHING + b"\x82" + bytes([len(BANNER)]) + BANNER),
    ("socks5-request", TCP_, CLIENT, SOCKS5),
    ("socks5-request", TCP_, SERVER, SOCKS5),
    ("socks5-request", TCP_, CLIENT, b"\x05\x01\x02\x01\x02me\x06secret" + socks_to("a.b", 80)),
    ("socks5-reply", TCP_, SERVER, GRANT),
    ("socks4-request", TCP_, CLIENT, b"\x04\x01\x00\x50\x0a\x00\x00\x01\x00"),
    ("socks4a-request", TCP_, CLIENT, b"\x04\x01\x00\x50\x00\x00\x00\x07\x00host.example\x00"),
    ("http-connect", TCP_, CLIENT, CONNECT),
    ("wireguard-initiation", UDP_, CLIENT, b"\x01\x00\x00\x00" + random_bytes(128) + bytes(16)),
    ("wireguard-response", UDP_, SERVER, b"\x02\x00\x00\x00" + random_bytes(72) + bytes(16)),
    ("wireguard-cookie", UDP_, SERVER, b"\x03\x00\x00\x00" + random_bytes(60)),
    ("wireguard-data", UDP_, CLIENT, struct.pack("<IIQ", 4, 7, 1) + random_bytes(16)),
    ("wireguard-data", UDP_, SERVER, struct.pack("<IIQ", 4, 7, 99_999) + random_bytes(1408)),
    ("openvpn-client-udp", UDP_, CLIENT, b"\x38" + SESSION + bytes(5)),
    ("openvpn-client-udp", UDP_, CLIENT, b"\x38" + SESSION + random_bytes(32) + FIRST + bytes(5)),
    ("openvpn-server-udp", UDP_, SERVER, b"\x40" + SESSION + b"\1\0\0\0\0" + SESSION + bytes(4)),
    ("openvpn-crypt-udp", UDP_, CLIENT, b"\x38" + SESSION + FIRST + random_bytes(37)),
    ("openvpn-crypt-udp", UDP_, CLIENT, b"\x50" + SESSION + EARLY + random_bytes(400)),
    ("openvpn-tcp", TCP_, CLIENT, b"\x00\x0e\x38" + SESSION + bytes(5)),
    ("openvpn-tcp-v3", TCP_, CLIENT, b"\x01\xa1\x50" + SESSION + EARLY + random_bytes(400)),
    ("ike", UDP_, CLIENT, IKE_SA_INIT + random_bytes(400)),
    ("ike", UDP_, CLIENT, bytes(4) + IKE_SA_INIT),
    ("pptp", TCP_, CLIENT, struct.pack(">HHIHHHHII", 156, 1, 0x1A2B3C4D, 1, 0, 0x100, 0, 1, 1)),
    ("l2tp", UDP_, CLIENT, struct.pack(">HHHHHHHHHH", 0xC802, 69, 0, 0, 0, 0, 0x8008, 0, 0, 1)),
    ("tinc", TCP_, CLIENT, b"0 laptop 17.7\n"),
    ("tor-directory", TCP_, CLIENT, b"GET /tor/keys/all.z HTTP/1.0\r\nHost: 192.0.2.9\r\n\r\n"),
    ("frp-login", TCP_, CLIENT, frp_login(is_multiplexed=True)),
    ("frp-login", TCP_, CLIENT, frp_login(is_multiplexed=False)),
    ("frp-tls", TCP_, CLIENT, b"\x17\x16\x03\x01\x01\x2c\x01"),
    ("frp-websocket", TCP_, CLIENT, upgrade("Upgrade: websocket", path="/~!frp")),
    ("chisel", TCP_, CLIENT, upgrade("sec-websocket-protocol: chisel-v3")),
    ("wstunnel", TCP_, CLIENT, upgrade("Sec-WebSocket-Protocol: v1, authorization.bearer.eyJ")),
    ("wstunnel-path", TCP_, CLIENT, upgrade(path="/wstunnel/tcp/localhost/22")),
    ("bore", TCP_, CLIENT, b'{"Hello":8080}\0'),
    ("bore", TCP_, SERVER, b'{"Challenge":"9f0c6b1e-0f5b-4a53-8d7e-2f6a0e1d3c4b"}\0'),
    ("tailscale-disco", UDP_, CLIENT, "TS💬".encode() + random_bytes(32 + 24 + 62)),
    ("tailscale-control", TCP_, CLIENT, upgrade("X-Tailscale-Handshake: A", path="/ts2021")),
    ("tailscale-relay", TCP_, CLIENT, upgrade("Upgrade: DERP", path="/derp")),
    ("iodine-version", UDP_, CLIENT, query("vaaaakattrq.t.example.org", "NULL")),
    ("iodine-raw", UDP_, CLIENT, b"\x10\xd1\x9e\x10" + random_bytes(16)),
    ("dns2tcp", UDP_, CLIENT, query("AAAAANWiAA.=auth.t.example.org")),
    ("dnscat2", UDP_, CLIENT, query("dnscat.7be5003f8f00000000")),
    ("icmp-ptunnel", ICMP_, CLIENT, b"\xd5\x20\x08\x80" + random_bytes(24)),
    ("icmp-hans", ICMP_, CLIENT, b"hanc\x01" + bytes(8)),
    ("icmp-icmptunnel", ICMP_, CLIENT, b"TUNL\x00"),
    ("icmp-ip", ICMP_, SERVER, INNER),
    ("vxlan", UDP_, CLIENT, bytes(VXLAN(vni=42)) + FRAME),
    ("geneve", UDP_, CLIENT, b"\x00\x00\x65\x58\x00\x00\x2a\x00" + FRAME),
    ("geneve", UDP_, CLIENT, b"\x00\x00\x86\xdd\x00\x00\x2a\x00" + INNER6),
    ("teredo", UDP_, CLIENT, bytes(IPv6(src="2001:0:c000:201::1", dst="2001:db8::2", nh=59))),
    ("gtp-u", UDP_, CLIENT, struct.pack(">BBHI", 0x30, 0xFF, len(INNER), 1) + INNER),
]  # fmt: skip

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes(507)
SOFT_PING = struct.pack("<QQ", 0x45, 0x10) + bytes(range(16, 56))
ORDINARY = [
    (TCP_, HELLO),
    (TCP_, b"\x17\x03\x03\x00\x20" + random_bytes(32)),
    (TCP_, b"GET / HTTP/1.1\r\nHost: host.example\r\nAccept: */*\r\n\r\n"),
    (TCP_, b"GET /tor/index.html HTTP/1.1\r\nHost: host.example\r\n\r\n"),
    (TCP_, b"POST /v1/events HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n"),
    (TCP_, upgrade("Upgrade: websocket", "Sec-WebSocket-Protocol: v1.kernel.jupyter.org")),
    (TCP_, upgrade("Upgrade: SPDY/3.1", method="POST")),
    (TCP_, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + BANNER + kexinit()),
    (TCP_, SWITCHING + b'\x81\x10{"is":"SSH-2.0-"}'),
    (TCP_, b"Hosts:\r\n" + BANNER + b"SSH-2.0-OpenSSH_9.2\r\n"),
    (TCP_, b"220 mail.example ESMTP\r\n250-PIPELINING\r\n" + BANNER),
    (TCP_, b'{"Hello":0,"Accept":1}\n{"version":"1"}\n'),
    (TCP_, b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n'),
    (TCP_, b"\x05\x00\x0b\x03\x10\x00\x00\x00\x48\x00\x00\x00\x01\x00\x00\x00"),
    (TCP_, b"\x05\x01\x00"),
    (TCP_, b"\x05\x01\x00\x01\x02\x03\x04\x05\x06\x07"),
    (TCP_, b"\x04\x01\x00\x00\x00\x00\x00\x00\x00"),
    (TCP_, b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
    (TCP_, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    (TCP_, b"*1\r\n$7\r\nCOMMAND\r\n"),
    (TCP_, b"AMQP\x00\x00\x09\x01"),
    (TCP_, b"0 packages\n"),
    (TCP_, b"\x13BitTorrent protocol" + bytes(8)),
    (TCP_, b"\x0e" + bytes(13) + random_bytes(64)),
    (UDP_, b"\xc3\x00\x00\x00\x01\x08" + random_bytes(1194)),
    (UDP_, b"\x40" + random_bytes(90)),
    (UDP_, query("www.example.com", "A")),
    (UDP_, query("vector.example.com", "AAAA")),
    (UDP_, query("_dmarc.example.com")),
    (UDP_, bytes(NTP(ref=4e9, orig=4e9, recv=4e9, sent=4e9))),
    (UDP_, bytes(RTP(sequence=1, timestamp=160)) + random_bytes(160)),
    (UDP_, b"\x00\x01\x00\x08\x21\x12\xa4\x42" + random_bytes(20)),
    (UDP_, b"\x16\xfe\xff" + bytes(8) + random_bytes(200)),
    (UDP_, b"\xff\xff\xff\xffTSource Engine Query\0"),
    (UDP_, b"\x01" + struct.pack("<II", 7, 9) + random_bytes(100)),
    (UDP_, struct.pack("<II", 1, 2) + random_bytes(140 - 1)),
    (UDP_, struct.pack("<II", 4, 9) + random_bytes(56)),
    (UDP_, bytes(148)[:-1]),
    (UDP_, bytes(1200)),
    (UDP_, bytes(IP(src="10.0.0.2", dst="10.0.0.1") / UDP(dport=53))),
    (ICMP_, bytes(range(16, 72))),
    (ICMP_, SOFT_PING),
    (ICMP_, b"abcdefghijklmnopqrstuvwabcdefghi"),
    (ICMP_, bytes(ICMP())[:0]),
    (ICMP_, bytes(56)),
    (ICMP_, b"E" * 56),
    (ICMP_, bytes(ARP())),
]


@pytest.mark.parametrize(("name", "transport", "side", "data"), TUNNELS)
def test_tunnels(name, transport, side, data):
    """Each of these is found by the signature that is meant for it."""
    assert name in found(transport, side, data)


def test_every_signature_is_met():
    """No signature is shipped that the table above does not exercise."""
    signatures, _ = shipped()

    assert {each.id for each in signatures.signatures} == {f"tunnel/{row[0]}" for row in TUNNELS}


def test_one_byte_short():
    """A datagram whose size matters is not found when a byte of it is missing."""
    sized = {each.id for each in shipped()[0].signatures if each.pattern.endswith("$")}
    rows = [row for row in TUNNELS if f"tunnel/{row[0]}" in sized and row[3][:1] != b"\x50"]

    assert len(rows) >= len(sized)
    for name, transport, side, data in rows:
        assert name not in found(transport, side, data[:-1]), name


@pytest.mark.parametrize(("transport", "data"), ORDINARY)
@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_ordinary_traffic(transport, data, side):
    """What looks like a tunnel and is none is not even alerted to."""
    assert found(transport, side, data) == set()


@given(seed=st.integers(0, 2**64 - 1), size=st.integers(0, 400))
def test_random_bytes_never_block(seed, size):
    """Noise is nothing: encrypted traffic of any kind begins like this.

    The weakest of the blocking patterns fix 29 to 32 bits: icmp-ip, frp-tls, and WireGuard's first
    message, which has an exact size too. One random beginning in 5 * 10^8 is caught.
    """
    data = random_bytes(size, seed)
    for transport in (TCP_, UDP_, ICMP_):
        for side in (CLIENT, SERVER):
            assert found(transport, side, data, blocking=True) == set()


def test_automaton_is_small():
    """All of them together leave room for others."""
    assert shipped()[1].states < MOST_STATES


def test_only_anchored_patterns():
    """Each pattern begins at the first byte, so that ordinary flows are let go soon."""
    for each in shipped()[0].signatures:
        assert each.pattern.removeprefix("(?i)").startswith("^"), each.id


def test_weak_signatures_do_not_block():
    """CONNECT, SOCKS 4 and a cookie of WireGuard's, which little tells apart, only alert."""
    weak = {each.id for each in shipped()[0].signatures if not each.blocks}

    assert weak == {"tunnel/http-connect", "tunnel/socks4-request", "tunnel/wireguard-cookie"}
