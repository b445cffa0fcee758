# SPDX-License-Identifier: Apache-2.0
"""Every technique of catalog.yaml, first without a wall, then behind one."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.attempts import (
    EVASION,
    Blocked,
    Outcome,
    Technique,
    attempt,
    has_arrived,
    make_marker,
    read_catalog,
)
from rig.cgroup import temp_cgroup
from rig.deputies import deputies, translation
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.ground import (
    IPV6_PORT,
    OTHER_PORT,
    PORT,
    PROXY,
    Ground,
    ground,
    is_noise,
    is_of_another,
    remote_of,
)
from rig.inspection import Inspector
from rig.lab import OUTSIDE_OTHER, PERMITTED, PERMITTED6
from rig.packet import Packet
from rig.process import wait_until
from rig.socket_features import missing
from rig.zone import DOCKER_PORT, DOCKER_STUB, HONEST, RESOLVER, STUB, ZONE

from agentwall.flow.record import Attempt, SandboxKey
from agentwall.flow.verdict import Hook, ReasonCode, Verdict
from agentwall.host.netns import netns_cookie

POLICY = parse_policy(
    f"""
    name: evasion
    loopback: deny
    dns:
      servers: [{RESOLVER}, {STUB}, {DOCKER_STUB}]
      search: [cluster.example]
      min_ttl: 1
    allow:
      - {{host: "*.{ZONE}", ports: [{PORT}, udp/{PORT}]}}
      - {{proxy: {PROXY}, ports: [{OTHER_PORT}]}}
      - {{cidr: {PERMITTED}, ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "{PERMITTED6}", ports: [{PORT}, udp/{PORT}]}}
      - {{cidr: "::/0", ports: [{IPV6_PORT}, udp/{IPV6_PORT}]}}
    inbound:
      - {{cidr: {PERMITTED}, ports: [8888, udp/8888]}}
    """
)
CATALOG = read_catalog()
RACING_SENDS = 200_000
ERRNOS = {"EPERM": 1}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Field:
    """The ground with one cgroup behind the wall, one without, and room for more."""

    ground: Ground
    enclosure: Enclosure
    free: Path
    walled: Path
    key: SandboxKey
    stack: ExitStack
    stopped: list[bytes]
    """The payloads that the wall stopped."""

    def cgroup(self) -> Path:
        """Return a new cgroup that stays, as its wall does, until the end of the module."""
        return self.stack.enter_context(temp_cgroup())


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    """Build the ground and load the wall, once."""
    with ExitStack() as stack:
        wall = stack.enter_context(enclosure())
        free, walled = (stack.enter_context(temp_cgroup()) for _ in range(2))
        # Last, so that it goes first: what a dead sandbox still retransmits meets no road.
        made = stack.enter_context(ground())
        stack.enter_context(deputies(made.near))
        wall.netns = made.near.call(netns_cookie)
        wall.inspector = Inspector(wall.wall)
        key = wall.enclose(walled, POLICY)
        yield Field(
            ground=made, enclosure=wall, free=free, walled=walled, key=key, stack=stack, stopped=[]
        )


def run_behind_the_wall(
    field: Field, technique: Technique, marker: bytes
) -> tuple[Outcome, SandboxKey]:
    """Run *technique* in a cgroup whose wall stands before it, or comes while it waits."""
    keys = [] if technique.is_late else [field.key]
    cgroup = field.cgroup() if technique.is_late else field.walled
    skipped = len(field.enclosure.events(field.key))

    def attach_wall() -> None:
        if technique.is_late:
            keys.append(field.enclosure.enclose(cgroup, POLICY))
            field.ground.settle()

    def is_refused() -> bool:
        assert technique.blocked
        wanted = matches(technique.blocked, "TIMEOUT", field.ground.ports)
        since = 0 if technique.is_late else skipped
        return bool(keys) and any(map(wanted, field.enclosure.events(keys[0], since)))

    is_silent = technique.blocked is not None and technique.blocked.errno == "TIMEOUT"
    outcome = attempt(
        field.ground,
        technique,
        marker,
        cgroup=cgroup,
        outside=field.free,
        prepared=attach_wall,
        is_walled=True,
        is_refused=is_refused if is_silent else None,
    )
    return outcome, keys[0]


def is_permitted(packet: Packet) -> bool:
    """Say whether the policy permits what *packet* says of itself.

    What may be asked of a DNS server, what it may answer, and what may be said at an address that
    is open by name or at a proxy, is for each row to say.
    """
    return packet.protocol in (6, 17) and (
        packet.is_to(RESOLVER, 53)
        or (packet.source, packet.source_port) == (RESOLVER, 53)
        or is_asked_of_deputy(packet)
        or packet.is_to(PERMITTED, PORT)
        or packet.is_to(PERMITTED6, PORT)
        or packet.is_to(HONEST, PORT)
        or packet.is_to(PROXY, OTHER_PORT)
        or (":" in packet.destination and packet.destination_port == IPV6_PORT)
    )


def is_asked_of_deputy(packet: Packet) -> bool:
    """Say whether *packet* is to or from a DNS server on loopback."""
    ends = ((packet.source, packet.source_port), (packet.destination, packet.destination_port))
    return any(end in ((STUB, 53), (DOCKER_STUB, DOCKER_PORT), (DOCKER_STUB, 53)) for end in ends)


def matches(blocked: Blocked, seen_errno: str | None, ports: range) -> Callable[[Attempt], bool]:
    """Return the condition that an event reports what *blocked* expects, of who had *ports*."""
    address, port = remote_of(blocked.remote) if blocked.remote != "none" else (None, None)

    def condition(event: Attempt) -> bool:
        answers = event.hook not in (Hook.EGRESS, Hook.INGRESS)
        return (
            event.hook is Hook(blocked.hook)
            and not (event.local and is_of_another(event.local.port, ports))
            and event.verdict is Verdict.DENY
            and event.direction.value == blocked.direction
            and (event.remote and event.remote.address) == address
            and (
                blocked.port == "any"
                or event.remote is None
                or event.remote.port == (port if blocked.port is None else blocked.port)
            )
            and (blocked.reason is None or event.code is ReasonCode(blocked.reason))
            and event.errno == (ERRNOS.get(seen_errno or "") if answers else None)
        )

    return condition


@pytest.mark.kernel
@pytest.mark.parametrize(
    "technique",
    [
        pytest.param(t, id=t.id, marks=[pytest.mark.slow] if t.tried == "here" else [])
        for t in CATALOG
    ],
)
def test_technique_delivers_without_the_wall_and_nothing_behind_it(
    field: Field, technique: Technique
) -> None:
    """The payload arrives unhindered; behind the wall no byte does, and an event says so."""
    if reasons := [reason for name in technique.needs if (reason := missing(name))]:
        pytest.skip("; ".join(reasons))
    rewrites = "nftables" in technique.needs
    with translation(field.ground.near) if rewrites else nullcontext():
        try_technique(field, technique)


def try_technique(field: Field, technique: Technique) -> None:
    """Try it in either cgroup and look at what came of it."""
    control, marker = make_marker(), make_marker()
    field.ground.settle()

    free = attempt(field.ground, technique, control, cgroup=field.free, outside=field.free)
    assert has_arrived(field.ground, control, technique.reaches), f"void: {free}"
    assert free.errno is None

    field.ground.settle()
    before = len(field.enclosure.events(field.key))
    probes = field.enclosure.counters(field.key).probes
    outcome, key = run_behind_the_wall(field, technique, marker)
    strays = [
        packet
        for packet in field.ground.settle()
        if not is_permitted(packet)
        and not is_noise(packet)
        and not is_of_another(packet.source_port, outcome.ports)
        and not is_of_another(packet.destination_port, outcome.ports)
    ]

    assert not strays
    if technique.blocked is None:
        assert outcome.errno is None
        return
    field.stopped.append(marker)
    assert not delivered(field.ground, marker)
    assert outcome.errno == technique.blocked.errno
    if technique.blocked.passed is not None:
        assert told(field, technique.blocked) == technique.blocked.passed
    if technique.blocked.reported == "nothing":
        return
    skipped = before if key == field.key else 0
    if technique.blocked.reported == "probe":
        assert field.enclosure.counters(key).probes == probes + 1
        assert not field.enclosure.refusals(key, skipped)
        return
    wanted = matches(technique.blocked, outcome.errno, outcome.ports)
    found = field.enclosure.await_event(key, wanted, skipped)
    assert found, [describe(e) for e in field.enclosure.events(key, skipped)]


def told(field: Field, blocked: Blocked) -> int:
    """Return the payload octets that the refused destination heard, once it has all that passed."""

    def octets() -> int:
        return field.ground.told(blocked.remote)

    wait_until(lambda: octets() >= (blocked.passed or 0), what=f"what passes to {blocked.remote}")
    return octets()


def delivered(made: Ground, marker: bytes) -> bool:
    """Say whether *marker* reached a tap or a server by now."""
    return any(marker in packet.raw for packet in made.history) or marker in made.received()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("run", "role"),
    [
        ("tcp.connect", "permitted4"),
        ("tcp.connect", "permitted6"),
        ("udp.sendto", "permitted4"),
        ("udp.sendto", "permitted6"),
        ("udp.connect_send", "permitted4"),
        ("udp.connect_send", "permitted6"),
        ("uring.connect_send", "permitted4"),
    ],
)
def test_what_is_permitted_arrives_behind_the_wall(field: Field, run: str, role: str) -> None:
    """The wall that stops the techniques is no dead wire: permitted destinations are reached."""
    marker = make_marker()
    technique = Technique(
        id=role, reference="", does="", run=run, arguments={"to": role}, reaches=role, blocked=None
    )
    field.ground.settle()

    outcome = attempt(field.ground, technique, marker, cgroup=field.walled, outside=field.free)

    assert outcome.errno is None
    assert has_arrived(field.ground, marker, role)


@pytest.fixture(scope="module")
def hammer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile techniques/hammer.c."""
    program = tmp_path_factory.mktemp("hammer") / "hammer"
    source = EVASION / "techniques" / "hammer.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-pthread", "-o", program, source], check=True)
    return program


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "denied"),
    [
        ("sendto", f"{OUTSIDE_OTHER}:{PORT}"),
        ("sendto", f"{PERMITTED}:{OTHER_PORT}"),
        ("connect", f"{PERMITTED}:{OTHER_PORT}"),
    ],
)
def test_racing_sends_on_one_socket_never_share_a_verdict(
    field: Field, hammer: Path, how: str, denied: str
) -> None:
    """Threads race a permitted and a denied destination; the denied one gets nothing at all."""
    address, port = denied.split(":")
    command: list[str | Path] = [hammer, how, str(RACING_SENDS), f"{PERMITTED}:{PORT}", denied]

    def run_freely(_: int) -> bool:
        # Whether the threads meet in the midst of it depends on what else the machine does.
        free = made.near.run(*command[:2], "10000", *command[3:], cgroup=field.free)
        assert free.returncode == 0
        return any(p.is_to(address, int(port)) for p in made.settle())

    # A ground of its own: the permitted flood would swell the field's.
    with ground() as made:
        made.far_tap.ignore(PERMITTED, PORT)
        unhindered = any(map(run_freely, range(50)))
        made.far_tap.count_lost()

        walled = made.near.run(*command, cgroup=field.walled)
        strays = [p for p in made.settle() if not is_noise(p)]
        lost = made.far_tap.count_lost()

    assert unhindered, "void: no datagram to the denied destination without the wall"
    assert walled.returncode == 0
    permitted, refused = map(int, walled.stdout.split())
    assert permitted > RACING_SENDS // 10
    assert refused == 0 or how == "connect"
    assert not strays
    assert lost == 0


@pytest.mark.kernel
def test_nothing_arrives_late(field: Field) -> None:
    """After all of it, no payload that was stopped has come through by a later retransmission."""
    field.ground.settle()

    arrived = b"".join(packet.raw for packet in field.ground.history) + field.ground.received()

    assert field.stopped
    assert not [marker for marker in field.stopped if marker in arrived]


def test_catalog_is_sound() -> None:
    """Ids are unique and say their class, every hook is there, every function exists."""
    ids = Counter(technique.id for technique in CATALOG)
    hooks = {technique.blocked.hook for technique in CATALOG if technique.blocked}
    programs = {path.stem: path.read_text() for path in (EVASION / "techniques").glob("*.py")}

    assert [name for name, count in ids.items() if count > 1] == []
    assert hooks == {hook.value for hook in Hook} - {Hook.SOCK_RELEASE.value, Hook.PLAIN.value}
    for technique in CATALOG:
        module, function = technique.run.split(".")
        assert f"\ndef {function}(" in programs[module], technique.id
