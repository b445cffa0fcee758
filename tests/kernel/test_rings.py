# SPDX-License-Identifier: Apache-2.0
"""Ring buffers hand over every record once, in order, and as many as were asked for."""

import select
import signal
import socket
import struct
import subprocess
import sys

import pytest
from rig import in_cgroup, temp_cgroup

from agentwall.errors import KernelError
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.links import Link
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.rings import Ring

pytestmark = pytest.mark.kernel

REFUSED_PORT = 4711
CONNECT_MANY = """
import socket, sys
for port in map(int, sys.argv[1:]):
    with socket.socket() as s:
        s.connect_ex(("127.0.0.1", port))
"""


@pytest.fixture
def reporting(compile_bpf):
    """A ring, and a function that connects to ports inside a cgroup whose program reports them."""
    with BpfObject.open(compile_bpf("binding")) as bpf, temp_cgroup() as cgroup:
        bpf.set_constant("refused_port", REFUSED_PORT)
        bpf.load()
        program = bpf.program("on_connect4")
        with attachable(cgroup) as fd:
            link = Link.attach(program.fd, fd, program.attach_type)
        ring = Ring(bpf.maps()["records"])

        def connect(*ports: int) -> None:
            command = [sys.executable, "-c", CONNECT_MANY, *map(str, ports)]
            subprocess.run(in_cgroup(cgroup, *command), check=True, timeout=60)

        yield ring, connect
        ring.close()
        link.close()


def ports_of(records) -> list[int]:
    return [struct.unpack("=QQ", record)[1] for record in records]


def test_order(reporting):
    """Records come in the order in which they were made, and only once."""
    ring, connect = reporting
    connect(1, 2, REFUSED_PORT, 3)

    assert ports_of(ring.consume(100)) == [1, 2, REFUSED_PORT, 3]
    assert ring.consume(100) == []


def test_limit(reporting):
    """At most the limit is taken, and the rest stays for the next call."""
    ring, connect = reporting
    connect(1, 2, 3)

    assert [ports_of(ring.consume(2)), ports_of(ring.consume(2))] == [[1, 2], [3]]


def test_readiness(reporting):
    """The descriptor is readable exactly while there are records."""
    ring, connect = reporting
    connect(1)
    ready = select.select([ring], [], [], 60)[0]
    ring.consume(100)

    assert ready == [ring]
    assert select.select([ring], [], [], 0)[0] == []


class Interrupted(Ring):
    """A ring to which a signal comes when records are first taken."""

    interrupted = False

    def _take(self, limit):
        super()._take(limit)
        if not self.interrupted:
            self.interrupted = True
            signal.raise_signal(signal.SIGUSR1)


def test_signals_lose_nothing(reporting):
    """A signal handler that raises while records are taken leaves them for the next call."""
    ring, connect = reporting
    interrupted = Interrupted(ring.map)
    connect(1, 2, 3)

    def interrupt(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(InterruptedError):
            interrupted.consume(100)
    finally:
        signal.signal(signal.SIGUSR1, before)
    left = interrupted.consume(100)
    interrupted.close()

    assert ports_of(left) == [1, 2, 3]


def test_over_the_end(reporting):
    """A record that goes over the ring's end is whole."""
    ring, connect = reporting
    taken = []
    for first in range(1000, 1500, 100):
        connect(*range(first, first + 100))
        taken += ports_of(ring.consume(1000))

    # Each takes 24 octets of 4096, so that one of them lies on both sides.
    assert taken == list(range(1000, 1500))


def test_not_a_ring():
    """Another map than a ring buffer is refused."""
    shape = MapShape(name="x", type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1)
    other = BpfMap.create(shape)
    try:
        with pytest.raises(KernelError, match="ring buffer x: expected a ring buffer, got array"):
            Ring(other)
    finally:
        other.close()


def test_gone():
    """A ring whose memory cannot be mapped is refused."""
    shape = MapShape(name="x", type=MapType.RINGBUF, key_size=0, value_size=0, max_entries=4096)
    with socket.socket() as other, pytest.raises(KernelError, match="ring buffer x: map: "):
        Ring(BpfMap(other.fileno(), shape))
