# SPDX-License-Identifier: Apache-2.0
"""Signatures where much happens at once: many senders, and connections of several paths."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, enclosure, parse_policy
from rig.inspection import SUBSCRIBE, Inspector
from rig.lab import NEAR_DEVICE, PERMITTED, Lab, lab
from rig.listeners import sink, tcp_server, udp_server
from rig.process import wait_until
from rig.puppet import PATIENCE_S, puppet
from rig.socket_features import missing

from agentwall.flow.verdict import ReasonCode, Verdict

pytestmark = pytest.mark.kernel

POLICY = parse_policy(
    f"""
    name: crowds
    allow:
      - {{cidr: {PERMITTED}, ports: [3333, udp/3333]}}
    """
)
PORT = 3333
SENDERS, ROUNDS = 48, 6
HARMLESS = b"{" + b"harmless" * 4000
SECOND_ADDRESS = "192.0.2.3"
CROWD = """
import socket, struct, sys, threading
address, port, senders, rounds = sys.argv[1], *map(int, sys.argv[2:5])
bad, good = (bytes.fromhex(line) for line in sys.stdin.read().split())
refused, together = [], threading.Barrier(senders)
def talk(number):
    said = bad if number % 2 else good
    for _ in range(rounds):
        together.wait()
        with socket.create_connection((address, port), 60) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(said)
            if said is good:
                sock.recv(1)
            else:
                sock.settimeout(0.3)
                try:
                    sock.recv(1)
                except TimeoutError:
                    refused.append(number)
threads = [threading.Thread(target=talk, args=(number,)) for number in range(senders)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(refused))
"""


@pytest.fixture(scope="module")
def wall() -> Iterator[tuple[Lab, Enclosure]]:
    """A lab with a wall that looks for the test set."""
    with lab() as made, enclosure(made.near) as loaded:
        loaded.inspector = Inspector(loaded.wall)
        yield made, loaded


class _Until:
    """Answers once all that is harmless has come."""

    def __init__(self) -> None:
        self._left = len(HARMLESS)

    def __call__(self, data: bytes) -> bytes:
        self._left -= len(data)
        return b"" if self._left else b"."


def test_many_senders(wall: tuple[Lab, Enclosure]) -> None:
    """However many speak at once, no message leaves, and what is harmless arrives whole."""
    made, loaded = wall
    with (
        temp_cgroup() as cgroup,
        loaded.enclosed(cgroup, POLICY),
        tcp_server(made.far, PERMITTED, PORT, session=_Until) as server,
    ):
        command = (sys.executable, "-c", CROWD, PERMITTED, *map(str, (PORT, SENDERS, ROUNDS)))
        message = b"\n" * 20_000 + SUBSCRIBE
        text = f"{message.hex()} {HARMLESS.hex()}"
        done = made.near.run(*command, cgroup=cgroup, text=text, timeout_s=600)
        heard = [delivery.data for delivery in server.deliveries]

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == SENDERS * ROUNDS // 2
    assert heard.count(HARMLESS) == SENDERS * ROUNDS // 2
    assert not any(b"subscribe" in data for data in heard)


@pytest.mark.skipif(missing("mptcp") is not None, reason="no MPTCP")
@pytest.mark.parametrize("is_terse", [False, True])
def test_a_second_path(wall: tuple[Lab, Enclosure], is_terse: bool) -> None:
    """No connection of MPTCP is joined: what is said could be spread over both.

    *is_terse*: without timestamps and scaling the SYN that joins, and without SACK its answer, have
    as many octets of options as the usual ones.
    """
    made, loaded = wall
    for key in ("tcp_timestamps", "tcp_window_scaling"):
        made.near.set(f"net/ipv4/{key}", int(not is_terse))
    made.far.set("net/ipv4/tcp_sack", int(not is_terse))
    made.near.ip("address", "replace", f"{SECOND_ADDRESS}/24", "dev", NEAR_DEVICE)
    for namespace in (made.near, made.far):
        namespace.ip("mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    with suppress(RuntimeError, OSError):
        made.near.ip("mptcp", "endpoint", "add", SECOND_ADDRESS, "dev", NEAR_DEVICE, "subflow")
    with (
        temp_cgroup() as cgroup,
        tcp_server(made.far, PERMITTED, PORT, protocol=262) as server,
        loaded.enclosed(cgroup, POLICY) as key,
        puppet(made.near, cgroup, timeout_s=PATIENCE_S) as actor,
    ):
        sock = actor.open("mptcp")
        sock.connect(PERMITTED, PORT)
        sock.send(b"{")
        assert sock.recv() == b"{"
        sock.send(b"}")
        event = loaded.await_event(key, lambda e: e.code is ReasonCode.UNREADABLE)
        sock.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

        assert event is not None
        assert event.verdict is Verdict.DENY
        assert server.connections == 1


def test_threads_that_share_a_datagram_socket(wall: tuple[Lab, Enclosure]) -> None:
    """Datagrams sent at once on one socket are all read, and none is turned away for that."""
    script = """
import socket, sys, threading
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
together, failed = threading.Barrier(8), []
def talk():
    together.wait()
    for _ in range(20):
        try:
            sock.send(b"q" * 1000)
        except OSError as err:
            failed.append(err)
threads = [threading.Thread(target=talk) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(failed))
"""
    made, loaded = wall
    with (
        temp_cgroup() as cgroup,
        loaded.enclosed(cgroup, POLICY),
        udp_server(made.far, PERMITTED, PORT, session=lambda: sink) as server,
    ):
        for _ in range(10):
            server.clear()
            done = made.near.run(
                *(sys.executable, "-c", script, PERMITTED, str(PORT)), cgroup=cgroup
            )
            assert done.stdout == "0\n", done.stderr
            wait_until(lambda: server.connections == 160, what="160 datagrams")
