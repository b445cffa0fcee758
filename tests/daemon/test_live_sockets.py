# SPDX-License-Identifier: Apache-2.0
"""Sockets that a sandbox had before its wall: judged, ended, or reported as outside of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from rig.cgroup import cgroup_root, in_cgroup, temp_cgroup
from rig.enclosure import parse_policy
from rig.namespace import Namespace, temp_netns
from rig.process import stop, wait_until
from rig.puppet import Puppet, puppet

from agentwall.daemon import live_sockets
from agentwall.daemon.live_sockets import (
    MAX_LISTED,
    Fate,
    HostSockets,
    LiveSockets,
    judge_live_sockets,
)
from agentwall.flow.verdict import Direction, Mode
from agentwall.host.cgroup import Cgroup
from agentwall.net.endpoint import Endpoint
from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel

OWN, PERMITTED, REFUSED = "198.51.100.1", "198.51.100.2", "198.51.100.3"
ADDRESSES = (PERMITTED, REFUSED)
POLICY = parse_policy(
    f"""
allow:
  - {{cidr: {PERMITTED}, ports: [1-65535, udp/*]}}
inbound:
  - {{cidr: {PERMITTED}, ports: [8000]}}
"""
)


@pytest.fixture(scope="module")
def here() -> Iterator[Namespace]:
    with temp_netns("live") as made:
        for address in (OWN, PERMITTED, REFUSED):
            made.ip("address", "add", f"{address}/32", "dev", "lo")
        yield made


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with temp_cgroup("live") as made:
        yield made


@pytest.fixture
def hand(here, cgroup) -> Iterator[Puppet]:
    with puppet(here, cgroup) as made:
        yield made


@pytest.fixture
def servers(here) -> Iterator[dict[str, socket.socket]]:
    """Listeners outside the sandbox, by address."""
    with ExitStack() as stack:
        made = {}
        for address in ADDRESSES:
            sock = stack.enter_context(here.socket(socket.AF_INET, socket.SOCK_STREAM))
            sock.bind((address, 0))
            sock.listen()
            made[address] = sock
        yield made


def judged(
    cgroup: Path,
    mode: Mode = Mode.ENFORCE,
    loopback: LoopbackScope = LoopbackScope.FREE,
    host: HostSockets | None = None,
) -> LiveSockets:
    path = "/" + cgroup.relative_to(cgroup_root()).as_posix()
    return judge_live_sockets(Cgroup(path, cgroup), POLICY, mode, loopback, host)


def by_remote(found: LiveSockets) -> dict[tuple[str, int] | None, live_sockets.LiveSocket]:
    return {
        (str(live.seen.remote.address), live.seen.remote.port) if live.seen.remote else None: live
        for live in found.sockets
    }


def connected(hand: Puppet, servers: dict[str, socket.socket], address: str):
    """Connect the puppet's socket to a server; return it and the address."""
    port = servers[address].getsockname()[1]
    client = hand.open("tcp")
    client.connect(address, port)
    return client, (address, port)


def test_enforced(cgroup, hand, servers):
    """What the policy refuses is ended at once; what it permits lives, and is not touched."""
    good, kept = connected(hand, servers, PERMITTED)
    bad, refused = connected(hand, servers, REFUSED)
    found = judged(cgroup)
    by = by_remote(found)

    assert (by[kept].fate, by[kept].ended) == (Fate.KEPT, False)
    assert (by[refused].fate, by[refused].ended) == (Fate.REFUSED, True)
    assert by[kept].holder.pid == hand.pid
    assert found.roads() == ()
    with pytest.raises(ConnectionAbortedError):
        bad.recv()
    peer = servers[PERMITTED].accept()[0]
    good.send(b"alive")
    assert peer.recv(16) == b"alive"
    peer.close()


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.OBSERVE])
def test_audited(cgroup, hand, servers, mode):
    """In other modes it is only said."""
    bad, refused = connected(hand, servers, REFUSED)
    live = by_remote(judged(cgroup, mode))[refused]

    assert (live.fate, live.ended) == (Fate.REFUSED, False)
    bad.send(b"alive")
    peer = servers[REFUSED].accept()[0]
    assert peer.recv(16) == b"alive"
    peer.close()


def test_udp(cgroup, hand):
    """A connected UDP socket is judged as well, an unconnected one has nothing to judge yet."""
    permitted, refused = hand.open("udp"), hand.open("udp")
    permitted.connect(PERMITTED, 9)
    refused.connect(REFUSED, 9)
    loose = hand.open("udp")
    loose.bind("0.0.0.0", 0)
    by = by_remote(judged(cgroup))

    assert by[(PERMITTED, 9)].fate is Fate.KEPT
    assert (by[(REFUSED, 9)].fate, by[(REFUSED, 9)].ended) == (Fate.REFUSED, True)
    assert (by[None].fate, by[None].decision) == (Fate.KEPT, None)


def test_below(here, cgroup, servers):
    """Sockets of cgroups below are the sandbox's too."""
    inner = cgroup / "inner"
    inner.mkdir()
    with puppet(here, inner) as hand:
        _, refused = connected(hand, servers, REFUSED)

        assert by_remote(judged(cgroup))[refused].fate is Fate.REFUSED


@pytest.mark.parametrize(
    ("client", "port", "fate"),
    [(PERMITTED, 8000, Fate.KEPT), (REFUSED, 8000, Fate.REFUSED), (PERMITTED, 8001, Fate.REFUSED)],
)
def test_inbound(here, cgroup, hand, client, port, fate):
    """An accepted connection is judged as inbound, by the sandbox's own port."""
    server = hand.open("tcp")
    server.bind(OWN, port)
    server.listen()
    with here.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.bind((client, 0))
        caller.connect((OWN, port))
        server.accept()
        live = by_remote(judged(cgroup))[caller.getsockname()]

        assert (live.direction, live.fate) == (Direction.IN, fate)
        assert by_remote(judged(cgroup))[None].fate is Fate.KEPT


@pytest.mark.parametrize("is_own", [True, False])
def test_loopback(here, cgroup, hand, is_own):
    """In the host's namespace loopback leads to the sandbox's own listeners only."""
    with here.socket(socket.AF_INET, socket.SOCK_STREAM) as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        own = hand.open("tcp")
        own.bind("127.0.0.1", 0)
        own.listen()
        port = own.port() if is_own else foreign.getsockname()[1]
        hand.open("tcp").connect("127.0.0.1", port)
        found = judged(cgroup, Mode.AUDIT, LoopbackScope.OWN_LISTENERS)
        fate = Fate.KEPT if is_own else Fate.REFUSED

        assert by_remote(found)[("127.0.0.1", port)].fate is fate


@contextmanager
def heir(
    cgroup: Path, *sockets: socket.socket, into: Namespace | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in *cgroup* that has inherited sockets, and sleeps."""
    command = in_cgroup(cgroup, "sleep", "60")
    child = subprocess.Popen(
        into.inside(*command) if into else command,
        pass_fds=[sock.fileno() for sock in sockets],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", what="an heir")
        yield child
    finally:
        stop(child)


@pytest.mark.parametrize("address", ADDRESSES)
def test_inherited(here, cgroup, servers, address):
    """A socket made outside is a road whatever its peer, and ended too where that is refused."""
    remote = (address, servers[address].getsockname()[1])
    with here.socket(socket.AF_INET, socket.SOCK_STREAM) as passed:
        passed.connect(remote)
        passed.settimeout(2)
        with heir(cgroup, passed, into=here) as child:
            found = judged(cgroup)
            live = by_remote(found)[remote]

            assert (live.fate, live.holder.pid) == (Fate.OUTSIDE, child.pid)
            assert live.ended is (address == REFUSED)
            assert found.roads() == (f"tcp to {address}:{remote[1]} (process {child.pid})",)
        if address == REFUSED:
            with pytest.raises(ConnectionAbortedError):
                passed.recv(1)


def test_inherited_from_the_host(here, cgroup):
    """One of the host's network namespace is found though the sandbox is in another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as passed:
        passed.connect(("127.0.0.1", 9))
        with heir(cgroup, passed, into=here) as child:
            found = judged(cgroup, Mode.AUDIT)

            assert found.roads() == (f"udp to 127.0.0.1:9 (process {child.pid})",)


def test_inherited_listener(cgroup):
    """A listener made outside has no peer, and lets others in where nobody judges."""
    with socket.create_server(("127.0.0.1", 0)) as passed, heir(cgroup, passed) as child:
        found = judged(cgroup)
        port = passed.getsockname()[1]

        assert found.roads() == (f"tcp at 127.0.0.1:{port} (process {child.pid})",)
        assert not found.sockets[0].ended


@pytest.mark.parametrize(
    ("arguments", "roads"),
    [
        ((socket.AF_PACKET, socket.SOCK_RAW, 0), ("packet socket",)),
        ((socket.AF_NETLINK, socket.SOCK_RAW, 0), ("netlink socket",)),
        ((socket.AF_UNIX, socket.SOCK_STREAM, 0), ()),
        ((socket.AF_VSOCK, socket.SOCK_STREAM, 0), ("1 of another family or network namespace",)),
    ],
)
def test_other_families(here, cgroup, arguments, roads):
    """Families that are not judged are roads; a netlink socket is if it is another namespace's."""
    try:
        passed = socket.socket(*arguments)
    except OSError as err:
        pytest.skip(f"family {arguments[0]}: {err.strerror}")
    with passed:
        if arguments[0] == socket.AF_NETLINK:
            passed.bind((0, 0))
        with heir(cgroup, passed, into=here):
            assert judged(cgroup).roads() == roads


def test_raw(here, cgroup):
    """A raw socket made outside is a road, whether the kernel lists such (CONFIG_INET_RAW_DIAG)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as passed:
        passed.connect(("127.0.0.1", 0))
        with heir(cgroup, passed, into=here):
            found = judged(cgroup)

    [road] = found.roads()
    assert road.startswith("raw ")
    assert not any(live.ended for live in found.sockets)


def test_third_namespace(here, cgroup):
    """A socket of a namespace that nobody here is in cannot be told, and that is said."""
    with (
        temp_netns("third") as third,
        third.socket(socket.AF_INET, socket.SOCK_STREAM) as passed,
        heir(cgroup, passed, into=here),
    ):
        assert judged(cgroup).roads() == ("1 of another family or network namespace",)


def test_several_sandboxes(cgroup):
    """The host's sockets are listed once for all of them."""
    program = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.connect(('127.0.0.1', 9)); print(flush=True); time.sleep(60)"
    )
    with (
        temp_cgroup("other") as other,
        subprocess.Popen(
            in_cgroup(cgroup, sys.executable, "-c", program), stdout=subprocess.PIPE
        ) as child,
    ):
        child.stdout.readline()
        host = HostSockets()

        assert [live.seen.remote.port for live in judged(cgroup, host=host).sockets] == [9]
        assert judged(other, host=host).sockets == []
        host.close()
        child.kill()


def test_detail(cgroup, hand, servers):
    """The event's detail is JSON, bounded, the worst first, with the line that decided."""
    permitted, kept = connected(hand, servers, PERMITTED)
    for _ in range(MAX_LISTED + 5):
        hand.open("udp").connect(REFUSED, 9)
    detail = judged(cgroup, Mode.AUDIT).detail()
    by_fate = [each["fate"] for each in detail["sockets"]]

    assert json.loads(json.dumps(detail)) == detail
    assert (detail["kept"], detail["refused"], detail["outside"]) == (1, MAX_LISTED + 5, 0)
    assert (len(by_fate), detail["more"], by_fate[0]) == (MAX_LISTED, 6, "refused")
    whole = LiveSockets(sockets=judged(cgroup, Mode.AUDIT).sockets[:1]).detail()["sockets"][0]
    assert whole["remote"] == {"address": kept[0], "port": kept[1]}
    assert (whole["rule"], whole["line"], whole["verdict"]) == ("test:allow[0]", 4, "allow")
    permitted.close()


def test_many_roads():
    """A few are named, the others counted."""
    seen = live_sockets.SocketSeen(
        protocol=6,
        local=Endpoint(IPv6Address("::1"), 9, 6),
        remote=None,
        state=10,
        cookie=1,
        inode=1,
        cgroup=1,
        uid=0,
    )
    live = live_sockets.LiveSocket(
        seen=seen, fate=Fate.OUTSIDE, direction=Direction.OUT, decision=None, holder=None
    )
    roads = LiveSockets(sockets=[live] * 20, unread=["x"]).roads()

    assert roads == (*["tcp at [::1]:9"] * 8, "12 more", "x")
