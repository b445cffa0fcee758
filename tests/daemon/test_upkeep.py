# SPDX-License-Identifier: Apache-2.0
"""The regular work, on a real wall that somebody damages, and on sandboxes that leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.keeping import keeping, make_edition, owned, spelled
from rig.process import wait_until

from agentwall.daemon import upkeep as upkeep_module
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.members import Override
from agentwall.daemon.pump import Pump
from agentwall.daemon.upkeep import LEAVE_NS, ROUND_S, Upkeep
from agentwall.errors import KernelError
from agentwall.flow.record import StateRecord
from agentwall.flow.verdict import Mode
from agentwall.kernel.links import Link

pytestmark = pytest.mark.kernel

LOCAL = "allow: [{cidr: 127.0.0.1, ports: [any]}]\nmatch: [{labels: {role: web}}]\n"
LEAVE_DATA = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.setblocking(False)
try:
    while True:
        s.send(bytes(65536))
except BlockingIOError:
    pass
"""
"""Ends with more in its socket than its peer, who does not read, has room for."""


class Drawer:
    """An outlet that keeps state records."""

    def __init__(self) -> None:
        self.states: list[StateRecord] = []

    def write(self, record) -> None:
        """Keep it if it is one."""
        if isinstance(record, StateRecord):
            self.states.append(record)

    def damage(self) -> list[StateRecord]:
        """What was said of damage."""
        return [each for each in self.states if each.state == "damaged"]


@pytest.fixture
def scope():
    """An owned scope with one cgroup."""
    with temp_cgroup("scope") as made:
        (made / "one").mkdir()
        yield made


@pytest.fixture
def bench(small_wall, tmp_path, scope):
    """A keeper with one policy."""
    with keeping(small_wall, make_edition(tmp_path, {"web": LOCAL}, owned(spelled(scope)))) as made:
        yield made


@pytest.fixture
def drawer():
    """Where records go."""
    return Drawer()


@pytest.fixture
def upkeep(bench, drawer):
    """The upkeep of the keeper."""
    pump = Pump(bench.keeper.wall, bench.keeper.members.cgroup_of, drawer, print)
    bench.keeper.emit = pump.emit
    yield Upkeep(bench.keeper, pump, lambda member: None)
    pump.close()


def key_of(number: int) -> bytes:
    """A key of the maps."""
    return number.to_bytes(8, sys.byteorder)


def connect(cgroup) -> int:
    """Connect to a closed port of loopback from inside *cgroup*; return the errno."""
    script = "import socket,sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', 1)))"
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", script)
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.mark.parametrize("how", ["taken out", "pointed elsewhere", "overwritten"])
def test_settings_that_somebody_changed_are_written_again(bench, upkeep, drawer, scope, how):
    """Whatever was done to the entry: an alarm, and it is as it was."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    maps, key = bench.keeper.wall.maps(), key_of(member.key)
    slots, settings = maps["aw_slots"], maps["aw_sandboxes"]
    slot = slots.lookup(key)
    before = settings.lookup(slot)
    match how:
        case "taken out":
            slots.delete(key)
        case "pointed elsewhere":
            slots.update(key, (settings.shape.max_entries - 1).to_bytes(4, sys.byteorder))
        case "overwritten":
            settings.update(slot, bytes(len(before)))
    during = connect(scope / "one")
    upkeep.look_at(member)
    upkeep.look_at(member)
    (record,) = drawer.damage()

    assert during == 1
    assert settings.lookup(slots.lookup(key)) == before
    assert connect(scope / "one") == 111
    assert "aw_sandboxes" in record.detail["what"]
    assert upkeep.problems == {}


def test_an_identity_that_somebody_changed_is_written_again(bench, upkeep, drawer, scope):
    """The cgroup's storage names another sandbox: an alarm, and it is this one's again."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    storage = bench.keeper.wall.maps()["aw_sandbox_id"]
    storage.update(key_of(member.cgroup_id), key_of(4711))
    during = connect(scope / "one")
    upkeep.look_at(member)
    (record,) = drawer.damage()

    assert during == 1
    assert storage.lookup(key_of(member.cgroup_id)) == key_of(member.key)
    assert connect(scope / "one") == 111
    assert "aw_sandbox_id" in record.detail["what"]


def test_links_that_were_torn_off_are_put_back(bench, upkeep, drawer, scope):
    """All of them at once; what is whole again is no problem any more."""
    member = bench.admit(scope / "one")
    for link in bench.keeper.wall.links(member.key):
        link.detach()
    during = connect(scope / "one")
    upkeep.problems["one"] = "as it was before"
    upkeep.look_at(member)
    after = connect(scope / "one")
    upkeep.look_at(member)

    assert (during, after) == (111, 1)
    assert len(drawer.damage()) == 1
    assert upkeep.problems == {}


def test_what_cannot_be_put_back_is_told_once(bench, upkeep, drawer, scope):
    """The same problem is one alarm, however often it is looked at, and stands in status."""
    *_, member = [bench.admit(scope / "one") for _ in range(64)]
    name, first = next(iter(bench.keeper.wall.hooks(member.key).items()))
    program = next(each for each in bench.keeper.wall.programs() if each.name == name)
    first.detach()
    # Somebody takes the room that is free now: there is none for more than 64 at one hook.
    cgroup = os.open(scope / "one", os.O_RDONLY)
    try:
        blocker = Link.attach(program.fd, cgroup, program.attach_type)
        upkeep.look_at(member)
        upkeep.look_at(member)
        stands = dict(upkeep.problems)
        blocker.detach()
        blocker.close()
    finally:
        os.close(cgroup)
    upkeep.look_at(member)

    assert "not repaired" in stands[member.id]
    assert [each.detail.get("repaired") is not None for each in drawer.damage()] == [False, True]
    assert upkeep.problems == {}


def test_an_override_that_is_over_is_cleared_away(bench, upkeep, drawer, scope):
    """The kernel has ended it by itself; the record says that it is over, once."""
    member = bench.admit(scope / "one")
    audit = Override(mode=Mode.AUDIT, until_ns=boot_ns() + 10**12, reason="x", by="y")
    bench.keeper.set_override(member, audit, "y")
    during = connect(scope / "one")
    upkeep.tick()
    early = member.override
    soon = replace(audit, until_ns=boot_ns() + 50_000_000)
    bench.keeper.set_override(member, soon, "y")
    time.sleep(0.06)
    after = connect(scope / "one")
    upkeep.tick()
    upkeep.tick()
    modes = [each.detail["mode"] for each in drawer.states if each.state == "mode"]

    assert (during, after) == (111, 1)
    assert early is not None
    assert member.override is None
    assert modes == ["audit", "audit", "enforce"]


def test_who_has_unsent_data_is_judged_until_it_is_gone(bench, upkeep, scope):
    """A socket outlives its process and its cgroup, as long as its peer leaves no room."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        leave = in_cgroup(scope / "one", sys.executable, "-I", "-S", "-c", LEAVE_DATA, str(port))
        subprocess.run(leave, check=True, timeout=60)
        peer, _ = server.accept()
        (scope / "one").rmdir()
        upkeep.see_leaving(member)
        time.sleep(0.2)
        upkeep.see_leaving(member)
        leaving = member.leaving_ns
        stands = bench.keeper.members.get(member.key), bench.keeper.members.at(member.cgroup.path)
        links = len(bench.keeper.wall.links(member.key))
        peer.close()

    def has_gone() -> bool:
        upkeep.look_at(member)
        return bench.keeper.members.get(member.key) is None

    wait_until(has_gone, what="the socket's end")

    assert leaving is not None
    assert stands == (member, None)
    assert links > 0
    with pytest.raises(KeyError):
        bench.keeper.wall.links(member.key)


def test_who_stays_too_long_is_let_go(bench, upkeep, scope, monkeypatch):
    """Some time it has to end: what it held was refused until then."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    (scope / "one").rmdir()
    monkeypatch.setattr(upkeep_module, "is_let_go", lambda wall, member: False)
    upkeep.see_leaving(member)
    still = bench.keeper.members.get(member.key)
    member.leaving_ns -= LEAVE_NS + 1
    upkeep.see_leaving(member)

    assert still is member
    assert bench.keeper.members.get(member.key) is None


def test_who_is_there_does_not_leave(bench, upkeep, scope):
    """Whoever says so: the cgroup decides."""
    member = bench.admit(scope / "one")
    upkeep.see_leaving(member)

    assert member.leaving_ns is None
    assert upkeep.is_there(member)
    assert bench.keeper.members.at(member.cgroup.path) is member


@pytest.mark.parametrize("is_seen", ["by what is wrong", "by an error"])
def test_who_ends_while_it_is_looked_at_is_not_damaged(
    bench, upkeep, drawer, scope, monkeypatch, is_seen
):
    """An end is no alarm, whenever it comes: the next look has it leave."""
    member = bench.admit(scope / "one")
    damage = bench.keeper.wall.damage

    def late(key: object) -> list[str]:
        (scope / "one").rmdir()
        if is_seen == "by an error":
            raise KernelError(19, "programs at a cgroup: no such device")
        return damage(key)

    with monkeypatch.context() as patch:
        patch.setattr(bench.keeper.wall, "damage", late)
        upkeep.look_at(member)
    told, problems = drawer.damage(), dict(upkeep.problems)
    upkeep.look_at(member)

    assert (told, problems) == ([], {})
    assert member.leaving_ns is not None


def test_everyone_has_a_turn(bench, upkeep, scope, monkeypatch):
    """Within a round, however many there are; who came meanwhile is in the next."""
    members = []
    for number in range(24):
        (scope / f"n{number}").mkdir()
        members.append(bench.admit(scope / f"n{number}"))
    seen: list[str] = []
    monkeypatch.setattr(upkeep, "look_at", lambda member: seen.append(member.id))
    for _ in range(int(ROUND_S)):
        upkeep.tick()

    assert {member.id for member in members} <= set(seen)
    assert len(seen) <= ROUND_S * upkeep_module._AT_LEAST


def test_counters_are_told_when_they_change(bench, upkeep, scope):
    """A sandbox at rest costs nobody anything; its end takes nothing with it."""
    member = bench.admit(scope / "one")
    upkeep.read_counters()
    rest = member.counters
    connect(scope / "one")
    upkeep.read_counters()
    moved = member.counters
    upkeep.read_counters()

    assert rest is None or rest.denied == 0
    assert moved.denied == 1
    assert member.counters is moved


def test_a_kernel_that_does_not_answer_is_no_end(bench, upkeep, scope, monkeypatch):
    """The problem is told, and the next look may do better."""
    member = bench.admit(scope / "one")

    def fail(_: object) -> list[str]:
        raise KernelError(12, "link: no memory")

    with monkeypatch.context() as patch:
        patch.setattr(bench.keeper.wall, "damage", fail)
        upkeep.look_at(member)
    problem = dict(upkeep.problems)
    upkeep.look_at(member)

    assert problem == {"one": "link: no memory"}
    assert upkeep.problems == {}
