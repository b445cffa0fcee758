# SPDX-License-Identifier: Apache-2.0
"""Captures to conversations, as a whole."""

from __future__ import annotations

import gzip
import io
import sys
from ipaddress import ip_address

import pytest
from capture.making import (
    CLIENT,
    CLIENT6,
    FIN,
    RST,
    SERVER,
    SERVER6,
    START_S,
    SYN,
    SYN_ACK,
    enhanced,
    ethernet,
    flow,
    handshake,
    interface,
    ip,
    pcap,
    read,
    say,
    section,
    udp,
)

from agentwall.capture.reader import EARLY, read_captures
from agentwall.detect.signature import Side
from agentwall.net.endpoint import Endpoint

NS = 1_000_000_000


def at(address: str, port: int, protocol: int = 6) -> Endpoint:
    return Endpoint(ip_address(address), port, protocol)


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_a_flow_of_tcp(tmp_path, ends):
    """Both sides' heads, their bytes, who opened it, and the time it took."""
    packets = [
        *handshake(ends=ends),
        say(b"GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n", sequence=1001, ends=ends),
        say(b"HTTP/1.1 200 OK\r\n", back=True, sequence=5001, ends=ends),
        say(b"\r\n", back=True, sequence=5018, ends=ends),
    ]
    found = flow(tmp_path, packets)

    assert (found.client, found.server) == (at(ends[0], 40000), at(ends[1], 443))
    assert found.client_head == b"GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n"
    assert found.server_head == b"HTTP/1.1 200 OK\r\n\r\n"
    assert (found.client_cuts, found.server_cuts) == ((0,), (0, 17))
    assert (found.client_bytes, found.server_bytes, found.packets) == (37, 19, 6)
    assert (found.begin_ns, found.end_ns) == (START_S * NS, START_S * NS + 5_000_000)
    assert not found.is_midstream
    assert found.name == "example.com"


def test_datagrams(tmp_path):
    """Datagrams stay apart, the first sender is the client, and only the first 64 are kept."""
    frames = [ethernet(ip(udp(b"%d" % n), 17)) for n in range(70)]
    frames.insert(1, ethernet(ip(udp(b"answer", (53, 40000)), 17, SERVER, CLIENT)))
    found = flow(tmp_path, frames)

    assert found.client == at(CLIENT, 40000, 17)
    assert [d.data for d in found.datagrams[:3]] == [b"0", b"answer", b"1"]
    assert [d.from_client for d in found.datagrams[:3]] == [True, False, True]
    assert len(found.datagrams) == 64
    assert (found.packets, found.server_bytes) == (71, 6)


def test_long_datagrams_are_cut(tmp_path):
    """Of a datagram 4096 bytes are kept, and its size."""
    (datagram,) = flow(tmp_path, [ethernet(ip(udp(bytes(5000)), 17))]).datagrams

    assert (len(datagram.data), datagram.size) == (4096, 5000)


def test_echoes(tmp_path):
    """What follows an echo's header; who asks is the client, though the answer comes first."""
    answer = ethernet(ip(bytes.fromhex("0000000000010001") + b"pong", 1, SERVER, CLIENT))
    request = ethernet(ip(bytes.fromhex("0800000000010001") + b"ping", 1))
    unreachable = ethernet(ip(bytes.fromhex("0303000000000000") + b"else", 1))
    found = flow(tmp_path, [answer, request, unreachable])

    assert found.client == at(CLIENT, 0, 1)
    assert [(d.data, d.from_client) for d in found.datagrams] == [(b"pong", False), (b"ping", True)]
    assert found.packets == 3


def test_other_protocols_are_flows_too(tmp_path):
    """A protocol without ports is a flow between two addresses, with its bytes."""
    found = flow(tmp_path, [ethernet(ip(bytes(30), 50))] * 2)

    assert (found.client, found.server) == (at(CLIENT, 0, 50), at(SERVER, 0, 50))
    assert (found.client_bytes, found.packets) == (60, 2)


def test_midstream(tmp_path):
    """Without a SYN the higher port is the client, whoever speaks first."""
    found = flow(tmp_path, [say(b"b", back=True, sequence=9), say(b"a", sequence=7)])

    assert found.is_midstream
    assert found.client == at(CLIENT, 40000)
    assert (found.client_head, found.server_head) == (b"a", b"b")


def test_only_one_half(tmp_path):
    """A flow of which only the server's half was captured begins with its SYN+ACK."""
    answer = say(back=True, sequence=5000, acknowledged=1001, flags=SYN_ACK, ports=(80, 4000))
    found = flow(tmp_path, [answer, say(b"x", back=True, sequence=5001, ports=(80, 4000))])

    assert found.client == at(CLIENT, 80)
    assert (found.client_head, found.server_head) == (b"", b"x")
    assert not found.is_midstream


def test_simultaneous_open(tmp_path):
    """Two SYNs that cross are one flow, and the first sender its client."""
    packets = [
        say(sequence=1000, flags=SYN),
        say(back=True, sequence=5000, flags=SYN),
        say(sequence=1000, acknowledged=5001, flags=SYN_ACK),
        say(back=True, sequence=5000, acknowledged=1001, flags=SYN_ACK),
        say(b"a", sequence=1001),
        say(b"b", back=True, sequence=5001),
    ]
    found = flow(tmp_path, packets)

    assert found.client == at(CLIENT, 40000)
    assert (found.client_head, found.server_head, found.packets) == (b"a", b"b", 6)


def test_endpoints_used_again(tmp_path):
    """Another SYN begins another flow; the same SYN again does not."""
    packets = [
        *handshake(),
        say(b"one", sequence=1001),
        say(sequence=1000, flags=SYN),
        say(sequence=1004, flags=FIN),
        *handshake(isn=90000, other=70000),
        say(b"two", sequence=90001),
    ]
    found, _ = read(tmp_path, pcap(packets))

    assert [c.client_head for c in found] == [b"one", b"two"]
    assert [c.packets for c in found] == [6, 4]
    assert not any(c.is_midstream for c in found)


def test_endpoints_used_again_seen_from_one_side(tmp_path):
    """An answer to a SYN that is missing begins another flow where the one before is over."""
    packets = [
        *handshake(),
        say(b"one", back=True, sequence=5001),
        say(back=True, sequence=5004, flags=RST),
        say(back=True, sequence=70000, acknowledged=90001, flags=SYN_ACK),
        say(b"two", back=True, sequence=70001),
    ]
    found, _ = read(tmp_path, pcap(packets))

    assert [c.server_head for c in found] == [b"one", b"two"]


def test_data_overtakes_its_syn(tmp_path):
    """A SYN that comes behind its own data begins no other flow."""
    found = flow(tmp_path, [say(b"data", sequence=1001), *handshake()])

    assert (found.client_head, found.is_midstream) == (b"data", False)


def test_data_in_a_syn(tmp_path):
    """A SYN takes one number, so its data (RFC 7413) begin one behind it."""
    packets = [say(b"early", sequence=1000, flags=SYN), say(b" late", sequence=1006)]
    found = flow(tmp_path, packets)

    assert (found.client_head, found.client_bytes) == (b"early late", 10)


def test_sent_again_counts_once(tmp_path):
    """Bytes that are sent again, or that a keep-alive repeats, are no more bytes."""
    packets = [*handshake(), *[say(b"12345678", sequence=1001)] * 3, say(b"\0", sequence=1008)]
    found = flow(tmp_path, packets)

    assert (found.client_head, found.client_bytes) == (b"12345678", 8)


def test_numbers_wrap(tmp_path):
    """Sequence numbers go on at 0 behind their highest value."""
    isn = 0xFFFFFFFA
    frames = [*handshake(isn=isn)]
    frames += [say(bytes([65 + n] * 4), sequence=isn + 1 + 4 * n) for n in (0, 2, 1, 3)]
    found = flow(tmp_path, frames)

    assert (found.client_head, found.client_bytes) == (b"AAAABBBBCCCCDDDD", 16)


def test_packets_cut_by_the_capture(tmp_path):
    """A head ends where the capture cut a packet, and sizes are those on the wire."""
    whole = say(b"0123456789", sequence=1001)
    packets = [*handshake(), (whole[:-4], len(whole)), say(b"more", sequence=1011)]
    (found,), _ = read(tmp_path, pcap(packets))

    assert (found.client_head, found.client_bytes) == (b"012345", 14)


def test_padding_is_no_payload(tmp_path):
    """What an Ethernet frame has behind the IP packet belongs to nobody."""
    found = flow(tmp_path, [say(sequence=1, flags=SYN) + bytes(6), say(b"a", sequence=2) + b"pad"])

    assert (found.client_head, found.client_bytes) == (b"a", 1)


def test_messages(tmp_path):
    """A flow keeps when its packets with payload came, how large they were, and whose they are."""
    packets = [(p, len(p), n / 1000) for n, p in enumerate(handshake())]
    for n in range(30):
        frame = say(bytes(n + 1), back=n % 2 == 1, sequence=1001 + n * 100)
        packets.append((frame, len(frame), 1 + 2 * n))
    (found,), _ = read(tmp_path, pcap(packets))

    assert [m.size for m in found.messages] == list(range(1, 31))
    assert [m.from_client for m in found.messages] == [n % 2 == 0 for n in range(30)]
    assert found.messages[3].time_ns == (START_S + 7) * NS


def test_files_and_directories(tmp_path):
    """A directory stands for all files below it, sorted; compressed ones are read the same."""
    data = pcap([say(b"a", sequence=1)])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.pcap.gz").write_bytes(gzip.compress(data))
    (tmp_path / "b" / "1.pcap").write_bytes(data)
    (tmp_path / "a.pcapng").write_bytes(section() + interface() + enhanced(say(b"a", sequence=1)))
    results = [
        (r.path, len(list(r.conversations)), r.packets) for r in read_captures([str(tmp_path)])
    ]

    names = [tmp_path / "a.pcapng", tmp_path / "b" / "1.pcap", tmp_path / "b" / "2.pcap.gz"]
    assert results == [(str(name), 1, 1) for name in names]


def test_standard_input(monkeypatch):
    """``-`` is standard input."""
    stream = io.TextIOWrapper(io.BytesIO(pcap([say(b"a", sequence=1)])))
    monkeypatch.setattr(sys, "stdin", stream)
    (result,) = read_captures(["-"])

    assert [c.client_head for c in result.conversations] == [b"a"]


def test_what_cannot_be_opened(tmp_path):
    """A path that leads nowhere, or to no file, is an error of its own; the next one is read."""
    good = tmp_path / "good"
    good.write_bytes(pcap([say(b"a", sequence=1)]))
    found = []
    for result in read_captures([str(tmp_path / "gone"), "/dev/null", "a\0b", str(good)]):
        list(result.conversations)
        found.append([error.what for error in result.errors])

    assert found[:2] == [["no such file"], ["expected a file"]]
    assert len(found[2]) == 1
    assert found[3] == []


def test_progress(tmp_path):
    """Progress is told in bytes, with the size of the file."""
    told = []
    (tmp_path / "x").write_bytes(pcap([say(b"a", sequence=1)]))
    for result in read_captures([str(tmp_path)], progress=lambda *both: told.append(both)):
        list(result.conversations)

    assert told == [(55, 24 + 16 + 55)]


def test_streams_of_which_no_more_is_wanted(tmp_path):
    """Early on it is asked once whether anything could still be found; if not, no more is kept."""
    asked = []

    def is_alive(streams):
        asked.extend(streams)
        return [side is Side.CLIENT for side, _ in streams]

    packets = handshake()
    for n in range(10):
        packets += [say(b"c" * 1000, sequence=1001 + 1000 * n)]
        packets += [say(b"s" * 1000, back=True, sequence=5001 + 1000 * n)]
    (tmp_path / "x").write_bytes(pcap(packets))
    (result,) = read_captures([str(tmp_path / "x")], is_alive=is_alive)
    (found,) = result.conversations

    assert {(side, len(data)) for side, data in asked} == {
        (Side.CLIENT, EARLY),
        (Side.SERVER, EARLY),
    }
    assert (len(found.client_head), len(found.server_head)) == (10_000, EARLY)
    assert (found.client_bytes, found.server_bytes) == (10_000, 10_000)
