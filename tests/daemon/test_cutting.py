# SPDX-License-Identifier: Apache-2.0
"""Sockets of flows that are cut, and of sandboxes that end, are ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.namespace import temp_netns
from rig.process import wait_until

from agentwall.daemon import cutting
from agentwall.daemon.cutting import ELSEWHERE, FlowCutter, ending_sockets
from agentwall.engine.commands import KillFlow
from agentwall.errors import HostError
from agentwall.flow.record import SandboxKey
from agentwall.host.cgroup import Cgroup
from agentwall.host.netns import netns_id
from agentwall.host.sock_diag import SockDiag, cookie_of
from agentwall.net.endpoint import Endpoint

pytestmark = pytest.mark.kernel

STUFFED = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.setblocking(False)
sent = 0
try:
    while True:
        sent += sock.send(b"x" * 65536)
except BlockingIOError:
    print(sent, flush=True)
time.sleep(60)
"""


def command_for(sock: socket.socket, pid: int = 0) -> KillFlow:
    """Return the command to end a connected TCP socket of IPv4."""
    ends = (sock.getsockname(), sock.getpeername())
    local, remote = (Endpoint(ip_address(at), port, socket.IPPROTO_TCP) for at, port in ends)
    return KillFlow(
        sandbox=SandboxKey(1),
        cookie=cookie_of(sock),
        protocol=socket.IPPROTO_TCP,
        local=local,
        remote=remote,
        pid=pid,
    )


@pytest.fixture
def cutter():
    made = FlowCutter()
    yield made
    made.close()


@pytest.fixture
def client(listener):
    with socket.create_connection(listener.getsockname(), timeout=60) as made:
        yield made


def test_cut(cutter, client):
    """A flow is ended, and its end is no failure the second time."""
    command = command_for(client)

    assert cutter.cut(command) is None
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    assert cutter.cut(command) is None


def test_elsewhere(cutter):
    """A socket is found where its process is; if it is elsewhere still, that is said."""
    with (
        temp_netns("third") as third,
        temp_netns("cut") as other,
        other.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        other.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        other.process("sleep", "60") as here,
        third.process("sleep", "60") as there,
    ):
        server.bind(("127.0.0.1", 0))
        server.listen()
        sock.settimeout(60)
        sock.connect(server.getsockname())
        for process in (here, there):
            wait_until(lambda pid=process.pid: netns_id(pid) != netns_id("self"), what="nsenter")

        assert cutter.cut(command_for(sock, there.pid)) == ELSEWHERE
        assert cutter.cut(command_for(sock, os.getpid())) is None
        sock.send(b"alive")
        command = command_for(sock, here.pid)
        assert cutter.cut(command) is None
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)
        # It has ended, so that it is not found is no failure.
        assert cutter.cut(command) is None


def test_its_process_ends_meanwhile(cutter, client, monkeypatch):
    """Of who was there a moment ago, elsewhere, and has ended since, nothing is left to hang."""
    command = command_for(client, 1 << 22)
    was_there = iter([(0, 1)])
    monkeypatch.setattr(cutting, "netns_id", lambda pid: next(was_there, None))
    monkeypatch.setattr(cutting.SockDiag, "destroy", lambda *_: False)

    assert cutter.cut(command) is None


@pytest.mark.parametrize(("ends", "expected"), [(True, None), (False, ELSEWHERE)])
def test_its_process_is_about_to_end(cutter, client, monkeypatch, ends, expected):
    """Who ends has closed its sockets by itself, and is for a moment where it was."""
    monkeypatch.setattr(cutting, "netns_id", lambda pid: (0, 2 if pid == "self" else 1))
    monkeypatch.setattr(cutting.SockDiag, "destroy", lambda *_: False)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        if ends:
            child.stdin.close()
            # It is not reaped: /proc has it still.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr(cutting, "SockDiag", lambda *_: SockDiag())
        found = cutter.cut(command_for(client, child.pid))
    finally:
        child.kill()
        child.communicate()

    assert found == expected


def test_a_kernel_that_cannot(cutter, client, monkeypatch):
    """That the kernel cannot end sockets is said once, not for each flow."""

    def refuse(*_: object) -> None:
        raise HostError("no such thing")

    monkeypatch.setattr(cutting.SockDiag, "destroy", refuse)
    command = command_for(client)

    assert [cutter.cut(command) for _ in range(3)] == ["no such thing", None, None]


@pytest.mark.parametrize("is_apart", [False, True])
def test_the_dead_send_no_more(is_apart):
    """What a process leaves in its socket is not sent once it is dead, in any namespace."""
    with (
        temp_cgroup("dead") as directory,
        temp_netns("dead") as other,
        contextlib.ExitStack() as on,
    ):
        make = other.socket if is_apart else socket.socket
        server = on.enter_context(make(socket.AF_INET, socket.SOCK_STREAM))
        server.bind(("127.0.0.1", 0))
        server.listen()
        words = (sys.executable, "-c", STUFFED, *map(str, server.getsockname()))
        inside = in_cgroup(directory, *words)
        child = on.enter_context(
            subprocess.Popen(
                other.inside(*inside) if is_apart else inside, stdout=subprocess.PIPE, text=True
            )
        )
        on.callback(child.kill)
        peer = on.enter_context(server.accept()[0])
        sent = int(child.stdout.readline())
        with ending_sockets(Cgroup("/dead", directory)):
            child.kill()
            child.wait()

        assert 0 < _received(peer) < sent


def _received(peer: socket.socket) -> int:
    """Read until the other side resets; return how much came."""
    peer.settimeout(60)
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while chunk := peer.recv(1 << 20):
            size += len(chunk)
    return size


def test_what_is_permitted_gets_there(monkeypatch):
    """What is on its way when a process ends arrives, if its peer takes it in time."""
    monkeypatch.setattr(cutting, "LINGER_S", 60.0)
    with temp_cgroup("late") as directory, socket.create_server(("127.0.0.1", 0)) as server:
        words = (sys.executable, "-c", STUFFED, *map(str, server.getsockname()))
        with subprocess.Popen(
            in_cgroup(directory, *words), stdout=subprocess.PIPE, text=True
        ) as child:
            peer, _ = server.accept()
            sent = int(child.stdout.readline())
            reader = ThreadPoolExecutor(1)
            with peer, reader, ending_sockets(Cgroup("/late", directory)):
                child.terminate()
                child.wait()
                got = reader.submit(_received, peer)

            assert got.result() == sent
