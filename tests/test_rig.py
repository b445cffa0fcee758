# SPDX-License-Identifier: Apache-2.0
"""The rig sees what was sent, so that "nothing arrived" in another test means something."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rig import (
    INTERNAL,
    METADATA,
    NEAR4,
    NEAR6,
    OUTSIDE,
    OUTSIDE6,
    OUTSIDE_OTHER,
    PERMITTED,
    cgroup_root,
    in_cgroup,
    lab,
    members,
    sniff,
    tcp_server,
    temp_cgroup,
    temp_netns,
    udp_server,
    wait_until,
)
from rig.dns import name_server
from rig.packet import parse_frame
from rig.ssh import ssh_server
from rig.stratum import stratum_server
from rig.web import web_server

pytestmark = pytest.mark.kernel

WAIT_S = 60.0
NEEDLE = b"needle-\x00\xff-needle"


@pytest.fixture(scope="module")
def bench():
    """One lab for all tests of this file."""
    with lab() as made:
        yield made


@pytest.fixture
def wire(bench):
    """A fresh sniffer on the lab's wire."""
    with sniff(bench) as sniffer:
        yield sniffer


def near_family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("address", [PERMITTED, OUTSIDE, INTERNAL, METADATA, OUTSIDE6])
def test_tcp_bytes_are_seen_twice(bench, wire, address):
    """What a near program says over TCP is what the server and the sniffer report."""
    family = near_family(address)
    with (
        tcp_server(bench.far, address) as server,
        bench.near.socket(family, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(WAIT_S)
        client.connect((address, server.port))
        client.sendall(NEEDLE)
        answer = client.recv(100)
        wire.settle()

        assert answer == NEEDLE
        assert server.received == NEEDLE
        [delivery] = server.deliveries
        assert delivery.peer == (NEAR6 if ":" in address else NEAR4, client.getsockname()[1])
        assert delivery.local == (address, server.port)
        assert wire.payload_to(address, server.port) == NEEDLE


@pytest.mark.parametrize(
    ("listen", "address"),
    [(OUTSIDE, OUTSIDE), ("0.0.0.0", METADATA), ("::", OUTSIDE6), (OUTSIDE6, OUTSIDE6)],
)
def test_udp_bytes_are_seen_twice(bench, wire, listen, address):
    """A datagram is reported whole by server and sniffer, and answered from where it was sent."""
    with (
        udp_server(bench.far, listen) as server,
        bench.near.socket(near_family(address), socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(WAIT_S)
        client.sendto(NEEDLE, (address, server.port))
        answer, peer = client.recvfrom(100)
        wire.settle()

        assert answer == NEEDLE
        assert peer[:2] == (address, server.port)
        assert [(d.local, d.data) for d in server.deliveries] == [((address, server.port), NEEDLE)]
        assert wire.payload_to(address, server.port) == NEEDLE


def test_sniffer_sees_what_no_server_does(bench, wire):
    """Packets to nobody, forged packets and foreign frames are reported with their true target."""
    with bench.near.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(b"\x08\x00\x00\x00\x00\x01\x00\x01" + NEEDLE, (OUTSIDE, 0))
    forged = bytes.fromhex("4500 0000 0000 4000 4084 0000") + socket.inet_aton("8.8.8.8")
    with bench.near.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(forged + socket.inet_aton(OUTSIDE_OTHER) + NEEDLE, (OUTSIDE_OTHER, 0))
    with bench.near.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
        packet.bind(("near0", 0))
        packet.send(b"\xff" * 12 + b"\x88\xb6" + NEEDLE)
    wire.settle()
    [ping] = wire.to(OUTSIDE)
    [strange] = wire.to(OUTSIDE_OTHER)

    assert (ping.protocol, ping.icmp_type, ping.payload) == (1, 8, NEEDLE)
    assert (strange.protocol, strange.source, strange.payload) == (132, "8.8.8.8", NEEDLE)
    assert [p.payload[: len(NEEDLE)] for p in wire.packets() if p.ether_type == 0x88B6] == [NEEDLE]


def test_sniffer_loses_nothing_in_a_burst(bench, wire):
    """Thousands of datagrams sent at once are all reported, in order."""
    with bench.near.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number in range(5000):
            client.sendto(number.to_bytes(4, "big"), (OUTSIDE, 9))
    wire.settle()
    # Wherever the sender was moved between processors, neighbours may have changed places.
    numbers = sorted(int.from_bytes(packet.payload, "big") for packet in wire.to(OUTSIDE, 9))

    assert numbers == list(range(5000))


def test_nothing_sent_is_nothing_seen(bench, wire):
    """Silence on the near side is silence in the record, but for the kernel's own talk."""
    with tcp_server(bench.far, OUTSIDE) as server:
        wire.settle()

        assert wire.packets() == []
        assert server.deliveries == []


@pytest.mark.parametrize(
    ("frame", "protocol", "ports", "payload"),
    [
        pytest.param(
            "86dd 60000000 0010 2c40" + "20010db8" + "00" * 12 + "20010db8" + "00" * 11 + "01"
            "1100 0001 00000001" + "aabbccdd00000000",
            17,
            (0xAABB, 0xCCDD),
            b"",
            id="first fragment",
        ),
        pytest.param(
            "86dd 60000000 0010 2c40" + "20010db8" + "00" * 12 + "20010db8" + "00" * 11 + "01"
            "1100 0009 00000001" + "aabbccdd00000000",
            17,
            (0, 0),
            bytes.fromhex("aabbccdd00000000"),
            id="later fragment has no ports",
        ),
        pytest.param(
            "0800 4600 0020 0000 0000 4011 0000 c0000202 c6336407 94040000 1234 0035 0008 0000",
            17,
            (0x1234, 53),
            b"",
            id="IPv4 options",
        ),
        pytest.param("0800 4500", None, (0, 0), b"\x45\x00", id="short"),
    ],
)
def test_frames_are_read_as_what_they_are(frame, protocol, ports, payload):
    """Headers are walked as the far kernel would, and a malformed frame is still a frame."""
    packet = parse_frame(bytes(12) + bytes.fromhex(frame.replace(" ", "")))

    assert packet.protocol == protocol
    assert (packet.source_port, packet.destination_port) == ports
    assert packet.payload == payload


def test_commands_run_where_they_are_told(bench):
    """A command runs in the namespace and the cgroup it was given, with cgroupfs in sight."""
    with temp_cgroup() as cgroup:
        done = bench.near.run(
            "sh", "-c", f"cat /proc/self/cgroup; ip -o address; ls {cgroup}", cgroup=cgroup
        )

        assert f"0::/{cgroup.relative_to(cgroup_root())}\n" in done.stdout
        assert f" {NEAR4}/24 " in done.stdout
        assert "cgroup.procs" in done.stdout


def test_cgroup_goes_with_everything_in_it():
    """Processes left in the cgroup, or in one made below it, are ended and both are removed."""
    with temp_cgroup("leftovers") as cgroup:
        below = cgroup / "below"
        below.mkdir()
        children = [subprocess.Popen(in_cgroup(place, "sleep", "600")) for place in (cgroup, below)]
        wait_until(lambda: len(members(cgroup)) == 2, what="both children")

    assert [child.wait(WAIT_S) for child in children] == [-signal.SIGKILL] * 2
    assert not cgroup.exists()


def fail_in_a_namespace(seen):
    with temp_netns("broken") as namespace:
        child = subprocess.Popen(namespace.inside("sleep", "600"))
        inode = namespace.path.stat().st_ino
        wait_until(
            lambda: Path(f"/proc/{child.pid}/ns/net").stat().st_ino == inode, what="the child"
        )
        seen += [namespace.path, child]
        raise ZeroDivisionError


def test_namespace_goes_after_an_error():
    """An exception in the block ends what runs in the namespace and removes it."""
    seen = []
    with pytest.raises(ZeroDivisionError):
        fail_in_a_namespace(seen)
    path, child = seen

    assert child.wait(WAIT_S) == -signal.SIGKILL
    assert not path.exists()


def test_interrupt_leaves_nothing_behind():
    """Ctrl-C in the middle of a test takes down namespaces, cgroups and servers."""
    script = (
        "import sys, time\n"
        "from rig import lab, sniff\n"
        "from rig.dns import name_server\n"
        "with lab() as bench, sniff(bench), name_server(bench, '203.0.113.53', {}):\n"
        "    print(bench.near.path, bench.far.path, bench.services, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        made = [Path(name) for name in child.stdout.readline().split()]
        there = [path.exists() for path in made]
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=WAIT_S)

    assert there == [True] * 3
    assert "KeyboardInterrupt" in errors
    assert [path for path in made if path.exists()] == []


def test_web_server_serves_over_tls(bench):
    """curl, trusting the test's authority only, gets the file; the access log names the request."""
    with web_server(bench, PERMITTED, name="models.example", files={"v1/x": "weights"}) as web:
        done = bench.near.run(
            *("curl", "-sS", "--cacert", web.authority),
            *("--resolve", f"models.example:443:{PERMITTED}", "https://models.example/v1/x"),
        )
        wait_until(web.requests, what="the access log")
        [request] = web.requests()

    assert (done.stdout, done.stderr) == ("weights", "")
    assert request.startswith(f"{NEAR4} TLSv1.")
    assert " models.example GET /v1/x 200 " in request


def test_name_server_answers_and_remembers(bench):
    """A question over UDP gets its answer, and appears in the list of questions."""
    question = bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\x01a\x07example\0\0\x01\0\x01"
    with (
        name_server(bench, "203.0.113.53", {"a.example": PERMITTED}) as names,
        bench.near.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(WAIT_S)
        client.sendto(question, ("203.0.113.53", 53))
        answer = client.recv(512)

        assert answer.endswith(socket.inet_aton(PERMITTED))
        assert names.questions() == [("A", "a.example", NEAR4)]


def test_reverse_tunnel_carries_the_secret(bench):
    """ssh -R logs in, and the far side reads through it what near's loopback says."""
    with (
        ssh_server(bench, OUTSIDE) as server,
        tcp_server(bench.near, "127.0.0.1", banner=b"near secret\n") as secret,
    ):
        forward = f"8022:127.0.0.1:{secret.port}"
        command = server.client_command(server.client_key, "-R", forward)
        done = bench.near.run(*command, "8022")

        assert (done.returncode, done.stderr) == (0, "")
        assert server.loot() == b"near secret\n"
        assert server.logins() == 1


def test_pool_speaks_stratum(bench):
    """A miner that logs in byte by byte is subscribed, authorized and given a job."""
    login = (
        b'{"id":1,"method":"mining.subscribe","params":["cpuminer/2.5.1"]}\n'
        b'{"id":2,"method":"mining.authorize","params":["worker","x"]}\n'
    )
    with (
        stratum_server(bench.far, OUTSIDE) as pool,
        bench.near.socket(socket.AF_INET, socket.SOCK_STREAM) as miner,
    ):
        miner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        miner.settimeout(WAIT_S)
        miner.connect((OUTSIDE, pool.port))
        for byte in login:
            miner.send(bytes([byte]))
        answers = b""
        while b'mining.notify", "params' not in answers:
            more = miner.recv(4096)
            assert more, "the pool has hung up"
            answers += more

        assert pool.received == login
        assert b'"id": 2, "result": true' in answers
