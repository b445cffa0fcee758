# SPDX-License-Identifier: Apache-2.0
"""Captures searched for signatures: which flow, which side, how far in."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from agentwall.cli.main import main
from agentwall.host import kept_files, signature_files

TEXT = """\
version: 1
signatures:
  - {id: tunnel/%s, class: tunnel, dialect: x, protocol: %s, direction: %s, pattern: '%s',
     description: d, examples: ['%s'], counterexamples: ['-']}
"""
CLIENT, SERVER = "10.0.0.1", "198.51.100.2"


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    """Files of the test's own, and nothing else in force."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signature_files, "SITE_SIGNATURES", tmp_path / "site")
    monkeypatch.setattr(signature_files, "shipped_signatures", lambda: tmp_path / "shipped")
    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", tmp_path / "cache")
    (tmp_path / "shipped").mkdir()


def _run(capsys, *argv):
    code = main(["signature", "test", *argv])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def _signature(name, protocol, direction, pattern, example):
    path = signature_files.shipped_signatures() / f"{name}.yaml"
    path.write_text(TEXT % (name, protocol, direction, pattern, example))


def _stream(client, server):
    """Packets of one TCP connection in which each side says something, split in two."""

    def packet(back, flags, seq, ack, data=b""):
        src, dst = (SERVER, CLIENT) if back else (CLIENT, SERVER)
        ports = {"sport": 99, "dport": 40000} if back else {"sport": 40000, "dport": 99}
        head = Ether() / IP(src=src, dst=dst) / TCP(**ports, flags=flags, seq=seq, ack=ack)
        return head / Raw(data) if data else head

    return [
        packet(False, "S", 100, 0),
        packet(True, "SA", 500, 101),
        packet(False, "A", 101, 501),
        packet(False, "PA", 101, 501, client[:2]),
        packet(False, "PA", 103, 501, client[2:]),
        packet(True, "PA", 501, 101 + len(client), server[:2]),
        packet(True, "PA", 503, 101 + len(client), server[2:]),
    ]


def test_stream(capsys):
    """A match is told with its flow, its side and its end, and is no failure."""
    _signature("hello", "tcp", "client", "^hello", "hello")
    _signature("again", "tcp", "either", "again", "again")
    wrpcap("c.pcap", _stream(b"hello, again and again", b"oh, again"))
    code, out, err = _run(capsys, "c.pcap")
    flow = f"c.pcap: tcp/{CLIENT}:40000 -> tcp/{SERVER}:99"

    assert (code, err) == (0, "")
    assert out == [
        f"{flow}: tunnel/hello (client, up to byte 5)",
        f"{flow}: tunnel/again (client, up to byte 12)",
        f"{flow}: tunnel/again (server, up to byte 9)",
    ]


def test_datagrams(capsys):
    """Each datagram is searched on its own, to its end; of the echo what follows its header."""
    _signature("u", "udp", "server", "^ab$", "ab")
    _signature("i", "icmp", "client", "^xyz", "xyz")
    wrpcap(
        "c.pcap",
        [
            Ether() / IP(src=CLIENT, dst=SERVER) / UDP(sport=40000, dport=9) / Raw(b"ab"),
            Ether() / IP(src=SERVER, dst=CLIENT) / UDP(sport=9, dport=40000) / Raw(b"abc"),
            Ether() / IP(src=SERVER, dst=CLIENT) / UDP(sport=9, dport=40000) / Raw(b"ab"),
            Ether() / IP(src=CLIENT, dst=SERVER) / ICMP(id=7) / Raw(b"xyz"),
        ],
    )
    code, out, err = _run(capsys, "c.pcap")

    assert (code, err) == (0, "")
    assert sorted(line.split(": ")[2] for line in out) == [
        "tunnel/i (client, up to byte 3)",
        "tunnel/u (server, up to byte 2)",
    ]


def test_damaged(capsys, tmp_path):
    """What cannot be read is told on stderr and ends with 2; the rest is searched."""
    _signature("hello", "tcp", "client", "^hello", "hello")
    wrpcap("a.pcap", _stream(b"hello", b"ok"))
    (tmp_path / "b.pcap").write_bytes((tmp_path / "a.pcap").read_bytes()[:-1])
    (tmp_path / "c.pcap").write_text("no capture at all, but long enough")
    code, out, err = _run(capsys, "a.pcap", "b.pcap", "c.pcap")

    assert code == 2
    assert [line.partition(":")[0] for line in out] == ["a.pcap", "b.pcap"]
    assert [line.split(":")[1] for line in err.splitlines()] == [" b.pcap", " c.pcap"]


def test_beside_signatures(capsys, tmp_path):
    """Signature files named beside captures are tested, and looked for."""
    (tmp_path / "own.yaml").write_text(TEXT % ("own", "tcp", "client", "^he", "he"))
    wrpcap("a.pcap", _stream(b"hello", b"ok"))
    code, out, err = _run(capsys, "own.yaml", "a.pcap")

    assert (code, err) == (0, "")
    assert out == [
        "1 signatures and lists, 2 of 2 examples as they should be",
        f"a.pcap: tcp/{CLIENT}:40000 -> tcp/{SERVER}:99: tunnel/own (client, up to byte 2)",
    ]
