# SPDX-License-Identifier: Apache-2.0
"""The wall denies from attach on, permits what its tables say, and outlives its maker."""

import errno
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from rig import cgroup_root, in_cgroup, temp_cgroup, wait_until
from rig.lending import lent_wall

from agentwall.errors import HostError, KernelError
from agentwall.flow.verdict import Hook, Mode, ReasonCode, Verdict
from agentwall.kernel import abi, pins
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.decode import FLOW, FLOW_KEY
from agentwall.kernel.features import has_set_retval
from agentwall.kernel.learned import BOUND, BOUND_KEY, KNOWN, KNOWN_KEY
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.wall import Wall
from agentwall.net.domain import name_key
from agentwall.net.endpoint import key_bytes
from agentwall.net.ports import selector
from agentwall.policy.model import LoopbackScope
from agentwall.policy.tables import Interval, RuleTables, TableEntry

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
SANDBOX = 7
CONNECT = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60).sendall(b"x")
except OSError as error:
    sys.exit(error.errno)
"""
CONNECT_OFTEN = """
import socket, sys
for _ in range(60):
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", int(sys.argv[1])))
"""
MAKE_A_WALL = """
import os, signal, sys
from pathlib import Path
from agentwall.kernel.wall import Wall

wall = Wall.load(pin_dir=Path(sys.argv[1]))
wall.attach(Path(sys.argv[2]), 7)
os.kill(os.getpid(), signal.SIGKILL)
"""
SMALL = Capacity(prefixes=16, intervals=8, sandboxes=2, denial_ring_bytes=4096)


def tables(*permitted: int) -> RuleTables:
    """Tables that permit these TCP ports of 127.0.0.1, and nothing else."""
    allowed = tuple(
        Interval(selector(6, port), selector(6, port), rule, allow=True)
        for rule, port in enumerate(sorted(permitted))
    )
    wide = (TableEntry(bytes(16), 0, 0), TableEntry(key_bytes(ip_address("0.0.0.0")), 96, 0))
    narrow = TableEntry(key_bytes(ip_address("127.0.0.1")), 128, 1)
    return RuleTables(
        rules=(),
        outbound=(*wide, narrow),
        inbound=wide,
        interval_sets=((), allowed),
        protocols=(),
    )


def settings(generation: int = 1, **changes) -> SandboxSettings:
    given = {
        "generation": generation,
        "mode": Mode.ENFORCE,
        "loopback": LoopbackScope.CLOSED,
        "refuse_errno": errno.EPERM,
    }
    return SandboxSettings(**(given | changes))


def raise_wall(wall: Wall, cgroup: Path, *permitted: int, **changes) -> None:
    wall.attach(cgroup, SANDBOX)
    wall.apply(1, tables(*permitted))
    wall.bind(SANDBOX, settings(**changes))
    wall.activate(cgroup, SANDBOX)


def connect(cgroup: Path, port: int) -> int:
    """Connect inside *cgroup*; return the errno, 0 for success."""
    command = in_cgroup(cgroup, sys.executable, "-c", CONNECT, str(port))
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.fixture
def wall():
    """A wall, loaded for this test or an earlier one."""
    with lent_wall() as wall:
        yield wall


@pytest.fixture
def small_wall():
    """As *wall*, with room for two sandboxes and few events."""
    with lent_wall(capacity=SMALL) as wall:
        yield wall


@pytest.fixture
def cgroup():
    """A cgroup of the test's own."""
    with temp_cgroup() as path:
        yield path


@pytest.fixture
def ports():
    """Two listening TCP ports on loopback, the smaller first."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        yield tuple(sorted((one.getsockname()[1], other.getsockname()[1])))


@pytest.fixture
def pin_dir(tmp_path):
    """A place for pins on a bpffs of the test's own."""
    point = tmp_path / "bpf"
    yield point / "run-1"
    pins.clear_pins(point / "run-1")

    assert pins.unmount_bpffs(point)


def test_attached_is_denied(wall, cgroup, ports):
    """From attach until activate everything is refused, also once the sandbox is bound."""
    wall.attach(cgroup, SANDBOX)
    attached = connect(cgroup, ports[0])
    wall.apply(1, tables(*ports))
    wall.bind(SANDBOX, settings())
    bound = connect(cgroup, ports[0])

    assert (attached, bound) == (errno.EPERM, errno.EPERM)
    assert wall.counters(0).denied >= 2
    assert {attempt.code for attempt in wall.attempts()} == {ReasonCode.NO_SANDBOX}


def test_activated(wall, cgroup, ports):
    """Once active, what the tables list succeeds, and the rest is refused and reported."""
    # The errno can be chosen where the kernel has bpf_set_retval: not on 5.10.
    expected = errno.EHOSTUNREACH if has_set_retval() else errno.EPERM
    raise_wall(wall, cgroup, ports[0], refuse_errno=errno.EHOSTUNREACH)

    assert connect(cgroup, ports[0]) == 0
    assert connect(cgroup, ports[1]) == expected
    denied = [a for a in wall.attempts() if a.verdict is Verdict.DENY]
    assert [(a.hook, a.remote.port, a.code, a.errno) for a in denied] == [
        (Hook.CONNECT4, ports[1], ReasonCode.NO_RULE, expected)
    ]
    assert denied[0].sandbox == SANDBOX
    assert denied[0].task.comm.startswith(b"python")
    assert wall.counters(SANDBOX).denied == 1


def test_totals(wall, cgroup, ports):
    """A permitted flow's bytes are handed over once."""
    raise_wall(wall, cgroup, ports[1])
    connect(cgroup, ports[1])
    totals = [t for t in wall.totals() if t.remote.port == ports[1]]

    assert sum(t.sockets for t in totals) == 1
    assert sum(t.bytes_out for t in totals) > 100
    assert totals[0].rule == 0
    wait_until(lambda: not wall.totals(), what="an empty flow table")


def test_rebind(wall, cgroup, ports):
    """Binding a sandbox again switches it to another generation, and the old one can go."""
    raise_wall(wall, cgroup, ports[0])
    wall.apply(2, tables(ports[1]))
    wall.rebind(SANDBOX, settings(2))
    wall.forget(1)

    assert connect(cgroup, ports[0]) == errno.EPERM
    assert connect(cgroup, ports[1]) == 0
    assert len(wall.maps()["aw_rules"].entries()) == 5


def test_audit(wall, cgroup, ports):
    """In audit mode what the rules refuse passes, and is reported as would-deny."""
    raise_wall(wall, cgroup, mode=Mode.AUDIT)

    assert connect(cgroup, ports[0]) == 0
    assert Verdict.WOULD_DENY in {a.verdict for a in wall.attempts()}
    assert wall.counters(SANDBOX).would_denied >= 1


def test_children_inherit(wall, cgroup, ports):
    """A cgroup made below the sandbox's is behind the same wall."""
    raise_wall(wall, cgroup, ports[0])
    (cgroup / "below").mkdir()

    assert connect(cgroup / "below", ports[0]) == 0
    assert connect(cgroup / "below", ports[1]) == errno.EPERM


def test_detach(wall, cgroup, ports):
    """After detach the wall is gone, and so is everything kept for the sandbox."""
    raise_wall(wall, cgroup)
    wall.detach(SANDBOX)

    assert connect(cgroup, ports[0]) == 0
    with pytest.raises(KernelError, match="counters of sandbox 7: not bound"):
        wall.counters(SANDBOX)
    wall.attach(cgroup, SANDBOX)


def test_cgroup_that_has_gone(wall):
    """A sandbox whose cgroup was removed first is detached without an error."""
    with temp_cgroup() as cgroup:
        wall.attach(cgroup, SANDBOX)
    wall.detach(SANDBOX)

    assert wall.maps()["aw_slots"].entries() == []


@pytest.mark.parametrize("kill", [False, True])
def test_pins_outlive_their_maker(cgroup, ports, pin_dir, kill):
    """A pinned wall stands after its maker was closed, or killed, until its pins are cleared."""
    if kill:
        command = [sys.executable, "-c", MAKE_A_WALL, str(pin_dir), str(cgroup)]
        ended = subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode
        assert ended == -signal.SIGKILL
    else:
        with Wall.load(pin_dir=pin_dir) as wall:
            wall.attach(cgroup, SANDBOX)
    standing = connect(cgroup, ports[0])
    pinned = {path.parent.name for path in pins.list_pins(pin_dir)}
    pins.clear_pins(pin_dir)

    assert standing == errno.EPERM
    assert pinned == {"links", "maps", "programs"}
    assert connect(cgroup, ports[0]) == 0
    assert not pin_dir.exists()


def test_detach_unpins(cgroup, pin_dir):
    """Detaching a sandbox removes its links' pins and no others."""
    with Wall.load(pin_dir=pin_dir) as wall:
        wall.attach(cgroup, SANDBOX)
        before = len(list((pin_dir / "links").iterdir()))
        wall.detach(SANDBOX)

        assert before == len(wall.programs())
        assert list((pin_dir / "links").iterdir()) == []
        assert len(list((pin_dir / "programs").iterdir())) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "expected a cgroup v2 directory"),
        ("/", "expected a cgroup v2 directory"),
        (str(cgroup_root()), "refusing the root cgroup"),
        (f"{cgroup_root()}/../{cgroup_root().name}", "refusing the root cgroup"),
        ("/proc", "expected a cgroup v2 directory"),
        ("/does/not/exist", "no such file or directory"),
    ],
)
def test_places_it_never_stands(wall, path, message):
    """The root cgroup, the root directory and what is no cgroup are refused; no link is left."""
    with pytest.raises(HostError, match=message):
        wall.attach(Path(path), SANDBOX)

    with pytest.raises(KeyError):
        wall.links(SANDBOX)


@pytest.mark.parametrize("sandbox", [0, SANDBOX])
def test_sandbox_ids(wall, cgroup, sandbox):
    """An id is used once, and 0, which means deny, never."""
    wall.attach(cgroup, SANDBOX)
    try:
        with pytest.raises(KernelError, match=f"expected an unused sandbox id, got {sandbox}"):
            wall.attach(cgroup, sandbox)

        assert len(wall.links(SANDBOX)) == len(wall.programs())
    finally:
        wall.detach(SANDBOX)


def test_order_of_use(wall, cgroup):
    """A sandbox cannot be bound to rules that are not there, nor activated before it is bound."""
    wall.attach(cgroup, SANDBOX)

    with pytest.raises(KernelError, match="generation 1 is not applied"):
        wall.bind(SANDBOX, settings())
    with pytest.raises(KernelError, match="sandbox 7 is not bound"):
        wall.activate(cgroup, SANDBOX)
    wall.apply(1, tables())
    wall.bind(SANDBOX, settings())
    with temp_cgroup() as other, pytest.raises(KernelError, match="map aw_sandbox_id: update"):
        wall.activate(other, SANDBOX)


def test_capacity(small_wall, cgroup):
    """Sandboxes beyond the capacity are refused, and those there stay bound."""
    small_wall.apply(1, tables(80))
    small_wall.bind(1, settings())
    small_wall.bind(2, settings())

    with pytest.raises(KernelError, match="map aw_"):
        small_wall.bind(3, settings())

    assert small_wall.counters(2).denied == 0


def test_losses_are_counted(small_wall, cgroup, ports):
    """What a full ring could not take is counted, and what is in it arrives."""
    raise_wall(small_wall, cgroup)
    command = in_cgroup(cgroup, sys.executable, "-c", CONNECT_OFTEN, str(ports[0]))
    subprocess.run(command, check=True, timeout=60)
    counters, arrived = small_wall.counters(SANDBOX), len(small_wall.attempts())

    assert counters.denied == 60
    assert 0 < arrived < 60
    assert counters.lost_denials == 60 - arrived


def test_sandbox_of_test_runs():
    """With a test sandbox, packets are judged for it although test runs have no storage."""
    with Wall.load(test_sandbox=SANDBOX) as wall:
        wall.apply(1, tables(443))
        wall.bind(SANDBOX, settings())
        egress = next(p for p in wall.programs() if p.name == "aw_egress")
        verdicts = [egress.test_run(frame(port)).retval for port in (443, 444)]

        assert verdicts == [1, 0]


def frame(port: int) -> bytes:
    """An Ethernet frame with a TCP SYN from 192.0.2.2 to 127.0.0.1."""
    tcp = struct.pack(">HHIIBBHHH", 40_000, port, 1, 0, 0x50, 0x02, 1024, 0, 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0)
    addresses = bytes([192, 0, 2, 2]) + bytes([127, 0, 0, 1])
    return bytes(12) + b"\x08\x00" + ip + addresses + tcp


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("binding", "constant aw_test_sandbox: expected it in .rodata, got none"),
        ("test_object", "expected aw_test_sandbox 0: a test object"),
        ("wrong_layout", "map aw_sandboxes: expected .*value_size=80.* got .*value_size=41"),
    ],
)
def test_other_objects(compile_bpf, name, message):
    """An object of another version, or one made for tests, is refused before any attach."""
    with pytest.raises(KernelError, match=message):
        Wall.load(object_path=compile_bpf(name))


def test_no_object(tmp_path):
    """Without the object the error names the file that is missing."""
    with pytest.raises(KernelError, match=r"agentwall\.bpf\.o: expected a BPF object"):
        Wall.load(object_path=tmp_path / "agentwall.bpf.o")


def test_learned_names(small_wall, cgroup):
    """Flows speak of the name, what is over goes, and the rest goes with the sandbox."""
    text = name_key("hub.example.com")
    key = FLOW_KEY.pack(SANDBOX, 99, bytes(16), 1, abi.NO_RULE, 5, 443, 6, 0, 1, 1)
    maps = small_wall.maps()
    raise_wall(small_wall, cgroup, 443)
    maps["aw_known"].update(
        KNOWN_KEY.pack(SANDBOX, 99), KNOWN.pack(1, bytes(8), 0, 1, len(text), text)
    )
    for number, until_ns in ((1, 1), (2, 10**18)):
        bound = BOUND_KEY.pack(SANDBOX, bytes([number]) * 16)
        maps["aw_bound"].update(bound, BOUND.pack(99, until_ns, *[0] * 14))
    maps["aw_flow_table"].update(key, bytes(FLOW.size))
    [totals] = small_wall.totals()
    before = [one.until_ns for one in small_wall.learned(SANDBOX)]
    small_wall.expire(10**12)
    after = [one.until_ns for one in small_wall.learned(SANDBOX)]
    small_wall.detach(SANDBOX)

    assert totals.name == "hub.example.com"
    assert (sorted(before), after) == ([1, 10**18], [10**18])
    assert maps["aw_known"].entries() == maps["aw_bound"].entries() == []
