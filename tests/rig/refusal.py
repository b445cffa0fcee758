# SPDX-License-Identifier: Apache-2.0
"""An egress program that refuses DNS questions without knowing a policy, with or without a belt.

It stands in for the wall where only the manner of a refusal matters: a name whose first or second
label begins with an x is refused. See ``tests/kernel/bpf/belt_rig.bpf.c``.
"""

from __future__ import annotations

import enum
import errno
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agentwall.errors import KernelError
from agentwall.host.netns import netns_cookie
from agentwall.kernel import probe
from agentwall.kernel.belt import BELT, Belt, interfaces, new_mark
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.links import Link
from agentwall.kernel.objects import BpfObject
from rig.namespace import Namespace


class Refusal(enum.Enum):
    """What becomes of a refused question."""

    ANSWERED = BELT
    """Turned round by the belt: no such name."""
    EPERM = "drop"
    """Dropped at cgroup_skb/egress with 0: the system call fails."""
    ENOBUFS = "tell"
    """Dropped there with 2: it fails for sockets that want to hear of errors (IP_RECVERR)."""
    LOST = "lose"
    """Dropped without a word."""


_ASK = """
import socket, sys
wait_s, server, port, question, connected, *options = sys.argv[1:]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
asker = socket.socket(family, socket.SOCK_DGRAM)
asker.settimeout(float(wait_s))
for option in options:
    asker.setsockopt(*map(int, option.split(",")))
if connected == "connected":
    asker.connect((server, int(port)))
try:
    if connected == "connected":
        asker.send(bytes.fromhex(question))
    else:
        asker.sendto(bytes.fromhex(question), (server, int(port)))
    data, control, _, peer = asker.recvmsg(512, 512)
    marks = [int.from_bytes(value, sys.byteorder) for level, kind, value in control
        if (level, kind) == (socket.SOL_SOCKET, socket.SO_MARK)]
    print(data.hex(), peer[0], peer[1], *marks)
except OSError as err:
    print(type(err).__name__, err.errno)
"""
ANSWER_S = 60.0
SILENCE_S = 0.4
"""How long a question is waited for that is not to be answered."""
_MARKED = 0
_VERDICTS = {Refusal.EPERM: 1, Refusal.ENOBUFS: 2}


def skip_without_tcx() -> None:
    """Skip the test where this kernel has no tcx."""
    try:
        probe.try_tcx()
    except KernelError as err:
        if err.errno != errno.ENODEV:
            pytest.skip(f"tcx: {err}")


@contextmanager
def loaded_rig(rig: Path, *, verdict: int = _MARKED, port: int = 53) -> Iterator[BpfObject]:
    """Load the programs, which judge what goes to UDP *port*; nothing is attached."""
    with BpfObject.open(rig) as bpf:
        bpf.set_constant("aw_belt_mark", new_mark())
        bpf.set_constant("refusal", verdict)
        bpf.set_constant("refused_port", port)
        bpf.load()
        yield bpf


@contextmanager
def egress_of(bpf: BpfObject, cgroup: Path) -> Iterator[None]:
    """Let the rig's egress program judge *cgroup* for the length of the block."""
    with attachable(cgroup) as fd:
        program = bpf.program("refuse_x")
        with closing(Link.attach(program.fd, fd, AttachType.INET_EGRESS)):
            yield


def make_belt(
    bpf: BpfObject, near: Namespace, program: str = BELT, pin_dir: Path | None = None
) -> Belt:
    """Return a belt for *near*, put nowhere yet, or what another program makes of its place."""
    cookie = near.call(netns_cookie)
    return Belt(bpf.program(program), bpf.maps()["aw_belts"], netns=cookie, pin_dir=pin_dir)


def put_on(belt: Belt, near: Namespace) -> list[Link]:
    """Attach *belt* at every interface of *near*; return its links, which stay the belt's."""
    return near.call(lambda: [belt.attach(interface) for interface in interfaces()])


@contextmanager
def refusing(rig: Path, near: Namespace, cgroup: Path, how: Refusal) -> Iterator[None]:
    """Refuse questions of *cgroup*, which is in *near*, for the length of the block."""
    with loaded_rig(rig, verdict=_VERDICTS.get(how, _MARKED)) as bpf, egress_of(bpf, cgroup):
        if how in _VERDICTS:
            yield
            return
        with closing(make_belt(bpf, near, how.value)) as belt:
            put_on(belt, near)
            yield


def ask(
    near: Namespace,
    cgroup: Path,
    server: str,
    *options: str,
    question: str,
    how: str = "sent",
    wait_s: float = ANSWER_S,
) -> str:
    """Send *question* to port 53 of *server*; return what came back in *wait_s*, or the error."""
    python = (sys.executable, "-I", "-S", "-c", _ASK)
    command = (*python, str(wait_s), server, "53", question, how, *options)
    done = near.run(*command, cgroup=cgroup)
    assert done.stdout, done.stderr
    return done.stdout.strip()
