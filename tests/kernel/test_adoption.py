# SPDX-License-Identifier: Apache-2.0
"""A new wall takes the place of one that was killed, and nothing is ever open or cut meanwhile."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from rig import in_cgroup, temp_cgroup
from rig.successor import Order, echoing, enforcing, permitting, probing, succeed

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Verdict
from agentwall.kernel import abi, abi_plain, adoption, pins
from agentwall.kernel.adoption import FOR_REPORTS, FOR_VERDICTS, IDENTITY
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.layout import of_ctypes, to_json
from agentwall.kernel.libbpf import AttachType, ProgramType
from agentwall.kernel.links import Link, pin
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.predecessor import Predecessor, open_map
from agentwall.kernel.probe import loaded
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

BPF = Path(__file__).parents[2] / "bpf"
ONE, OTHER = SandboxKey(1 << 40), SandboxKey(1 << 40 | 1)
PROGRAM, HOOK = ProgramType.CGROUP_SOCK, AttachType.SOCK_CREATE
CONNECT = """
import socket, sys
for port in sys.argv[1:]:
    with socket.socket() as one:
        print(one.connect_ex(("127.0.0.1", int(port))))
"""
KILLS = [
    "bpf_obj_pin:33",
    "bpf_link_update:3",
    "bpf_map_update_elem:6",
    "bpf_link_update:12",
    "rename:14",
    "unlink:2",
]


@pytest.fixture
def cgroups():
    """Two cgroups of the test's own."""
    with temp_cgroup("one") as one, temp_cgroup("other") as other:
        yield {ONE: one, OTHER: other}


@pytest.fixture
def ports():
    """Two TCP ports on loopback that send back what comes: the first is to be permitted."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
        echoing(one),
        echoing(other),
    ):
        yield one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def pin_dir(tmp_path):
    """A place for pins on a bpffs of the test's own."""
    point = tmp_path / "bpf"
    yield point / "daemon"
    pins.clear_pins(point / "daemon")

    assert pins.unmount_bpffs(point)


def order(pin_dir, cgroups, ports, **changes) -> Order:
    sandboxes = {str(key): str(path) for key, path in cgroups.items()}
    return Order(pin_dir=str(pin_dir), sandboxes=sandboxes, port=ports[0], **changes)


def connect(cgroup: Path, *ports: int) -> list[int]:
    """Connect inside *cgroup*; return the errno for each port, 0 for success."""
    command = in_cgroup(cgroup, sys.executable, "-c", CONNECT, *map(str, ports))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [int(line) for line in done.stdout.split()]


def take_over(
    wall: Wall, cgroups: dict[SandboxKey, Path], port: int
) -> dict[SandboxKey, list[str]]:
    generation = wall.highest_generation() + 1
    wall.apply(generation, permitting(port))
    for key in cgroups:
        wall.bind(key, enforcing(generation))
    return {key: wall.take_over(key, cgroup) for key, cgroup in cgroups.items()}


def variant(directory: Path, *changes: tuple[str, str, str]) -> Path:
    """Copy the sources and change them: file, pattern, replacement; every pattern must be there."""
    sources = directory / "bpf"
    shutil.copytree(BPF, sources)
    for name, pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, (sources / name).read_text())
        assert count == 1, pattern
        (sources / name).write_text(text)
    return sources


def one_member_more(
    struct: str, header: str, size: int | None = None
) -> list[tuple[str, str, str]]:
    changes = [(header, rf"(struct {struct} {{\n(?:.*\n)*?)(}};)", r"\1\t__u64 one_more;\n\2")]
    if size is not None:
        assertion = rf"(sizeof\(struct {struct}\) ==) \d+"
        changes.append((header, assertion, rf"\1 {size + 8}"))
    return changes


@pytest.fixture
def only_maps(tmp_path) -> Callable[..., Path]:
    """A function that compiles changed maps to an object that has nothing else."""
    numbers = itertools.count()

    def compile_maps(*changes: tuple[str, str, str]) -> Path:
        sources = variant(tmp_path / f"variant-{next(numbers)}", *changes)
        made = sources / "maps.o"
        flags = "-g -O2 -target bpf -mcpu=v3 -std=gnu11 -idirafter /usr/include/x86_64-linux-gnu"
        command = ["clang", *flags.split(), "-c", sources / "maps.bpf.c", "-o", made]
        subprocess.run(command, check=True)
        return made

    return compile_maps


@pytest.mark.slow
def test_killed_again_and_again(cgroups, ports, pin_dir):
    """Walls killed at every step, the first one too, leave one that stands, permits and is adopted.

    A prober in a sandbox tries all the while what is refused, and talks over one stream.
    """
    killed = [succeed(order(pin_dir, cgroups, ports, kill_at="bpf_obj_pin:7"))]
    assert succeed(order(pin_dir, cgroups, ports)) == 0
    with probing(cgroups[ONE], *ports) as seen:
        killed += [succeed(order(pin_dir, cgroups, ports, kill_at=kill_at)) for kill_at in KILLS]
        with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
            *staged, _ = sorted(pin_dir.glob("next-*"), key=lambda path: int(path.name[5:]))
            kept = [path.name for one in staged for path in one.glob("*/*")]
            repaired = take_over(wall, cgroups, ports[0])
            left = wall.settle()
            damage = [wall.damage(key) for key in cgroups]

    assert killed == [-signal.SIGKILL] * (1 + len(KILLS))
    assert seen.pop("rounds") > 100
    assert seen == {"reached": 0, "refused_wrongly": 0, "broken": 0}
    assert (repaired, left, damage) == ({ONE: [], OTHER: []}, [], [[], []])
    # Of walls that never took over only what says which numbers they used was still pinned.
    assert sorted(kept) == ["aw_sandboxes", "aw_signatures"]
    assert sorted(path.name for path in pin_dir.iterdir()) == ["links", "maps", "programs"]
    assert connect(cgroups[OTHER], *ports) == [0, errno.EPERM]


def pinned(pin_dir: Path) -> tuple[dict[str, int], list[int]]:
    """Return the kernel ids of the maps that are pinned, and the secrets."""
    with closing(Predecessor(pin_dir)) as found:
        secrets = [found.constant(name) for name in adoption.SECRETS]
        maps = {path.name: found.maps(path.name)[0].id for path in (pin_dir / "maps").iterdir()}
    return maps, secrets


def test_what_is_kept(cgroups, ports, pin_dir):
    """The kernel's own state is kept, with what it reported; what user space writes is not."""
    succeed(order(pin_dir, cgroups, ports))
    before, secrets = pinned(pin_dir)
    connect(cgroups[ONE], *ports)
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        first = wall.highest_generation()
        events = [event for event in wall.attempts() if event.verdict is Verdict.DENY]
        totals = [found for found in wall.totals() if found.remote.port == ports[0]]
        with pytest.raises(KernelError, match="beyond the predecessor's 1, got 1"):
            wall.apply(1, permitting(ports[0]))
        with pytest.raises(KernelError, match=f"sandbox {ONE} is not bound"):
            wall.take_over(ONE, cgroups[ONE])
        unbound = connect(cgroups[ONE], *ports)
        take_over(wall, cgroups, ports[0])
        wall.settle()
        migrated, denied = wall.migrated, wall.counters(ONE).denied
    after, same_secrets = pinned(pin_dir)

    assert (first, migrated) == (1, [])
    assert (unbound, denied) == ([0, errno.EPERM], 2)
    assert [event.remote.port for event in events] == [ports[1]]
    assert sum(found.sockets for found in totals) == 1
    assert secrets == same_secrets
    assert all(secrets)
    assert set(before) == set(after)
    layouts = {name for name in before if name.startswith("layouts-")}
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {IDENTITY, *FOR_VERDICTS, *FOR_REPORTS}
    assert len(layouts) == 3


def test_other_sizes(cgroups, ports, pin_dir):
    """Rings and tables of another size are made anew; those before are read to their end."""
    small = {"denial_ring_bytes": 4096, "flows": 64}
    succeed(order(pin_dir, cgroups, ports, capacity=small))
    connect(cgroups[ONE], *ports)
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        connect(cgroups[ONE], *ports)
        take_over(wall, cgroups, ports[0])
        connect(cgroups[ONE], *ports)
        wall.settle()
        denied = [event for event in wall.attempts() if event.verdict is Verdict.DENY]
        totals = [found for found in wall.totals() if found.remote.port == ports[0]]

        assert [event.remote.port for event in denied] == [ports[1]] * 3
        assert sum(found.sockets for found in totals) == 3
        assert {one.map: one.lost for one in wall.migrated} == {"aw_denials": 0, "aw_flow_table": 0}
        assert "expected 1048576, got 4096" in wall.migrated[-1].why


def test_events_of_another_layout(cgroups, ports, pin_dir):
    """Events that the successor cannot read are counted as lost, and those after them are read."""
    succeed(order(pin_dir, cgroups, ports))
    for path in (pin_dir / "maps").glob("layouts-*"):
        found = open_map(path)
        text = to_json({"aw_event": of_ctypes(abi.Flow)}).encode()
        found.map.update(bytes(4), text.ljust(found.map.shape.value_size, b"\0"))
        found.map.close()
    connect(cgroups[ONE], ports[1], ports[1])
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        take_over(wall, cgroups, ports[0])
        connect(cgroups[ONE], ports[1])
        wall.settle()
        denied = [event for event in wall.attempts() if event.verdict is Verdict.DENY]

        assert len(denied) == 1
        assert {one.map: one.lost for one in wall.migrated} | {"aw_flows": 0} == {
            "aw_denials": 2,
            "aw_flows": 0,
            "aw_excerpts": 0,
        }


@pytest.mark.slow
def test_counters_of_another_layout(cgroups, ports, pin_dir, tmp_path):
    """Counters with other members are made anew, and begin with what was counted before."""
    size = abi.MAP_LAYOUTS["aw_counters"].value_size
    sources = variant(tmp_path / "variant", *one_member_more("aw_counters", "abi.h", size))
    built = tmp_path / "other.bpf.o"
    make = ["make", "-s", "-j2", "-C", sources, f"OUT={built}", f"BUILD={tmp_path / 'build'}"]
    subprocess.run(make, check=True)
    layouts = {"aw_counters": (8, size + 8)}
    succeed(order(pin_dir, cgroups, ports, object=str(built), layouts=layouts))
    connect(cgroups[ONE], ports[1], ports[1])
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        take_over(wall, cgroups, ports[0])
        connect(cgroups[ONE], ports[1])
        before = wall.counters(ONE).denied
        wall.settle()
        after = wall.counters(ONE).denied

        assert (before, after) == (3, 3)
        assert [one.map for one in wall.migrated] == ["aw_counters"]
        assert "layout" in wall.migrated[0].why or "size of values" in wall.migrated[0].why


def test_reading_inside_tls(cgroups, ports, pin_dir, only_maps):
    """Whose processes are read, and what is known of their connections, outlives the wall."""
    succeed(order(pin_dir, cgroups, ports))
    one = bytes(abi_plain.PlainKey(sandbox=ONE, connection=1, process=1))
    with closing(Predecessor(pin_dir)) as found:
        connections = found.maps("aw_plain_connections")[0].map
        connections.update(one, bytes(range(128)).ljust(connections.shape.value_size, b"\1"))
        known = connections.lookup(one)
        processes = sorted(found.maps("aw_plain_cgroups")[0].map.entries())
    # What is only reported, or read anew, refuses no other layout.
    more = one_member_more("aw_plain_connection", "spoken.bpf.h")
    with BpfObject.open(only_maps(*more)) as bpf, closing(Predecessor(pin_dir)) as found:
        changed = [each.map for each in adoption.choose(bpf, found)[1]]
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        take_over(wall, cgroups, ports[0])
        wall.settle()

        assert changed == ["aw_plain_connections"]
        assert {value for _, value in processes} == {k.to_bytes(8, "little") for k in cgroups}
        assert sorted(wall.maps()["aw_plain_cgroups"].entries()) == processes
        assert wall.maps()["aw_plain_connections"].lookup(one) == known
        assert wall.plain.sweep(set) == 1


REFUSED = [
    (one_member_more("aw_socket", "maps.bpf.h"), "aw_sockets: size of values"),
    (
        [("maps.bpf.h", r"__u32 rule;\n\t__u32 pid;", "__u32 pid;\n\t__u32 rule;")],
        "aw_sockets: the layout of its entries has changed",
    ),
    (
        [("maps.bpf.h", r"(__type\(value, )__u64(\);\n} aw_sandbox_id)", r"\1__u32\2")],
        "aw_sandbox_id: size of values: expected 4, got 8",
    ),
]


def test_refused(cgroups, ports, pin_dir, only_maps):
    """An object that needs another layout for verdicts is refused, and nothing was touched."""
    succeed(order(pin_dir, cgroups, ports))
    before = pins.list_pins(pin_dir)
    for changes, problem in REFUSED:
        with (
            BpfObject.open(only_maps(*changes)) as bpf,
            pytest.raises(KernelError, match=problem) as caught,
        ):
            adoption.begin(bpf, pin_dir)
        assert "let them end first, or stay with the version" in str(caught.value)

    assert pins.list_pins(pin_dir) == before
    assert connect(cgroups[ONE], *ports) == [0, errno.EPERM]


def test_nothing_stands(cgroups, ports, pin_dir, only_maps):
    """Where no sandbox stands there is nothing to take over, and a new wall begins at once."""
    succeed(order(pin_dir, {}, ports))
    with BpfObject.open(only_maps(*one_member_more("aw_socket", "maps.bpf.h"))) as bpf:
        begun = adoption.begin(bpf, pin_dir)

    assert begun is None
    assert not pin_dir.exists()


def test_repaired(cgroups, ports, pin_dir):
    """What the predecessor left damaged is made good and named; what is new or gone is not."""
    with temp_cgroup("gone") as gone:
        succeed(order(pin_dir, {**cgroups, SandboxKey(99): gone}, ports))
    links = pin_dir / "links"
    with closing(Link.open(links / f"{ONE:016x}-aw_connect4")) as link:
        link.detach()
    (links / f"{ONE:016x}-aw_egress").unlink()
    # A hook that the predecessor did not have, and one that only it had.
    (links / f"{ONE:016x}-aw_connect6").unlink()
    (pin_dir / "programs" / "aw_connect6").unlink()
    pin_old_hook(pin_dir, cgroups[ONE])
    with closing(Predecessor(pin_dir)) as found:
        key = cgroups[ONE].stat().st_ino.to_bytes(8, sys.byteorder)
        found.maps(IDENTITY)[0].map.update(key, bytes(8))
    with Wall.load(pin_dir=pin_dir, adopt=True) as wall:
        repaired = take_over(wall, {ONE: cgroups[ONE]}, ports[0])
        left, damage = wall.settle(), wall.damage(ONE)
        taken, standing = connect(cgroups[ONE], *ports), connect(cgroups[OTHER], *ports)
        wall.detach(OTHER)
        again, pinned_for = wall.settle(), pins.pinned_links(pin_dir)

    assert sorted(repaired[ONE]) == [
        "aw_connect4: it was detached",
        "aw_egress: its pin has gone",
        "aw_sandbox_id: the cgroup was not this sandbox's",
    ]
    assert damage == []
    assert not (links / f"{ONE:016x}-aw_old").exists()
    # The one that nobody took over stood under its old rules until it was detached.
    assert (left, again) == ([OTHER], [])
    assert taken == standing == [0, errno.EPERM]
    assert connect(cgroups[OTHER], *ports) == [0, 0]
    assert set(pinned_for) == {ONE}


def pin_old_hook(pin_dir: Path, cgroup: Path) -> None:
    with attachable(cgroup) as fd, loaded(PROGRAM, HOOK) as program:
        pin(program, pin_dir / "programs" / "aw_old")
        with closing(Link.attach(program, fd, HOOK)) as link:
            link.pin(pin_dir / "links" / f"{ONE:016x}-aw_old")
