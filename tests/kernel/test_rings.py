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
from agentwall.kernel.cgroup2 import attachable
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
        ring = Ring(bpf.maps()["records"].fd, "records")

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
    ready = select.select([ring], [], [], 5)[0]
    ring.consume(100)

    assert ready == [ring]
    assert select.select([ring], [], [], 0)[0] == []


class Interrupted(Ring):
    """A ring to which a signal comes with every record."""

    def _keep(self, context, data, size):
        signal.raise_signal(signal.SIGUSR1)
        return super()._keep(context, data, size)


def test_signals_lose_nothing(reporting):
    """A signal handler that raises while records are taken leaves them for the next call."""
    ring, connect = reporting
    interrupted = Interrupted(ring.map_fd, "records")
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


def test_not_a_ring():
    """Another descriptor than a ring buffer's is refused."""
    with socket.socket() as other, pytest.raises(KernelError, match="ring buffer x"):
        Ring(other.fileno(), "x")
