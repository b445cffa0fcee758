# SPDX-License-Identifier: Apache-2.0
"""Random traffic, any bytes, very much of it: the reader agrees, ends, and stays small."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
from collections import defaultdict
from ipaddress import ip_address

import dpkt
import pytest
from capture.making import (
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
    tcp,
    udp,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NS = 1_000_000_000
REPEATED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


def _random_traffic(chance: random.Random) -> list[bytes]:
    frames = []
    hosts = [f"10.0.0.{n}" for n in range(1, 5)]
    for _ in range(200):
        ends = (chance.choice(hosts), chance.choice(hosts))
        ports = (chance.randrange(1000, 1004), chance.randrange(1000, 1004))
        payload = chance.randbytes(chance.randrange(40))
        if chance.random() < 0.5:
            frames.append(ethernet(ip(udp(payload, ports), 17, *ends)))
        else:
            segment = tcp(payload, ports=ports, sequence=chance.randrange(1 << 32))
            frames.append(ethernet(ip(segment, 6, *ends)))
    return frames


def _plainly(frames: list[bytes]) -> dict[tuple, list[bytes]]:
    # Payloads by endpoints and protocol, as dpkt reads them.
    found = defaultdict(list)
    for frame in frames:
        packet = dpkt.ethernet.Ethernet(frame).data
        ends = [
            (ip_address(packet.src), packet.data.sport),
            (ip_address(packet.dst), packet.data.dport),
        ]
        found[(packet.p, *sorted(ends))].append(bytes(packet.data.data))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_groups_as_dpkt_does(tmp_path, seed):
    """The flows of random traffic are those that a plain reading of each packet makes."""
    frames = _random_traffic(random.Random(seed))
    found, _ = read(tmp_path, pcap(frames))
    plain = _plainly(frames)

    by_key = {
        (c.client.protocol, *sorted([(e.address, e.port) for e in (c.client, c.server)])): c
        for c in found
    }
    assert by_key.keys() == plain.keys()
    for key, payloads in plain.items():
        assert by_key[key].packets == len(payloads)
        if key[0] == 17:
            assert [d.data for d in by_key[key].datagrams] == [p for p in payloads if p][:64]


@REPEATED
@given(data=st.binary(max_size=4000), prefix=st.sampled_from(["", "<", ">", "ng", "gz"]))
def test_any_bytes(tmp_path, data, prefix):
    """Whatever a file holds, reading it raises nothing and ends."""
    start = {"": b"", "ng": section() + interface(), "gz": b"\x1f\x8b\x08"}
    head = start.get(prefix, pcap([], order=prefix) if prefix in "<>" and prefix else b"")
    _, result = read(tmp_path, head + data)

    assert len(result.errors) <= 64


@REPEATED
@given(
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=20),
    kept=st.integers(0, 3000),
    is_pcapng=st.booleans(),
)
def test_spoilt_files(tmp_path, changes, kept, is_pcapng):
    """A valid file with bytes changed and its end cut off is read without an exception."""
    frames = [*handshake(), *_random_traffic(random.Random(1))[:20]]
    frames += [ethernet(ip(udp(ethernet(bytes(30)), (1, 4789)), 17)), ethernet(bytes(60), 0x8847)]
    if is_pcapng:
        data = bytearray(section() + interface() + b"".join(enhanced(f) for f in frames))
    else:
        data = bytearray(pcap(frames))
    for place, value in changes:
        if place < len(data):
            data[place] = value
    read(tmp_path, bytes(data[:kept]))


_READ_AND_WEIGH = """
import resource, sys
from agentwall.capture.reader import read_captures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(result,) = read_captures(sys.argv[1:])
flows = sum(1 for _ in result.conversations)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(flows, result.evicted, (after - before) // 1024)
"""


def test_memory_is_bounded(tmp_path):
    """Very many flows do not make the reader large: the idlest leave, and it says how many."""
    record = bytearray(pcap([say(b"x" * 20, sequence=1)])[24:])
    with (tmp_path / "x").open("wb") as file:
        file.write(pcap([]))
        for n in range(100_000):
            record[16 + 34 : 16 + 38] = struct.pack(">HH", 1 + n % 60_000, 80 + n // 60_000)
            file.write(record)
    command = [sys.executable, "-c", _READ_AND_WEIGH, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    flows, evicted, grown_mib = map(int, done.stdout.split())

    assert flows == 100_000
    assert evicted >= 100_000 - 65_536 * 5 // 4
    assert grown_mib < 250


def test_many_small_segments_take_no_long_time(tmp_path):
    """Segments of one byte in the worst order cost no more than a bounded search each."""
    frames = handshake() + [say(b"x", sequence=1001 + 2 * n) for n in range(20_000, 0, -1)]
    # Of the processor, and of this thread alone: what others do meanwhile is not this one's fault.
    begin_s = time.thread_time()
    found = flow(tmp_path, frames)
    took_s = time.thread_time() - begin_s

    assert took_s < 10
    assert found.packets == 20_003
    assert found.is_midstream
