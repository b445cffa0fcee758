# SPDX-License-Identifier: Apache-2.0
"""Sandboxes behind a real wall, without the daemon around: what fails leaves nothing half done."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.keeping import keeping, make_edition, owned, spelled

from agentwall.daemon.choosing import NotAdmitted
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.live_sockets import LiveSockets
from agentwall.daemon.members import Admission, Override
from agentwall.daemon.upkeep import is_let_go
from agentwall.engine.events import (
    ModeOverridden,
    RulesApplied,
    SandboxFinished,
    SandboxInspected,
    SandboxLabelled,
    SandboxRenamed,
    SandboxStarted,
)
from agentwall.errors import HostError, KernelError
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.verdict import Mode
from agentwall.host.cgroup import Cgroup

pytestmark = pytest.mark.kernel

LOCAL = "allow: [{cidr: 127.0.0.1, ports: [any]}]\n"
BIG = ", ".join(f"{{cidr: 10.{n >> 8}.{n & 255}.0/24, ports: [1]}}" for n in range(400))
"""Three of that are more than the wall has room for."""
RL = "match: [{labels: {role: rl}}]\n"
POLICIES = {
    "web": LOCAL + "match: [{labels: {role: web}}]\n",
    "rl": RL + f"phases: {{setup: {{{LOCAL.strip()}}}, agent: {{}}}}\n",
}


@pytest.fixture
def scope():
    """An owned scope with two cgroups."""
    with temp_cgroup("scope") as made:
        (made / "one").mkdir()
        (made / "two").mkdir()
        yield made


@pytest.fixture
def make(tmp_path, scope):
    """A function that returns an edition of some policies."""
    return lambda **policies: make_edition(tmp_path, policies, owned(spelled(scope)))


@pytest.fixture
def bench(small_wall, make):
    """A keeper with a web policy and one with phases."""
    with keeping(small_wall, make(**POLICIES)) as made:
        yield made


def connect(cgroup) -> int:
    """Connect to a closed port of loopback from inside *cgroup*; return the errno."""
    script = "import socket,sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', 1)))"
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", script)
    return subprocess.run(command, check=False, timeout=60).returncode


def written(bench) -> list[str]:
    """The ids of the sandboxes that are written down."""
    found = bench.keeper.records.read()
    return sorted(each if isinstance(each, str) else each.id for each in found)


def test_an_admission_is_complete_or_nothing(bench, scope):
    """Judged, written down, told of: with where it is, and how much is covered."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    code = connect(scope / "one")
    (started,) = bench.told(SandboxStarted)

    assert (member.policy, member.unwatched_ms, code) == ("web", 0, 111)
    assert written(bench) == ["one"]
    assert bench.keeper.members.at(spelled(scope / "one")) is member
    assert started.coverage == member.coverage.level.value
    assert [each.policy.name for each in bench.told(RulesApplied)] == ["web"]


def test_a_cgroup_that_has_gone_is_an_error_of_the_host(bench, scope):
    """Between the look and the admission anything may end; nothing is left of the attempt."""
    cgroup = Cgroup(spelled(scope / "one"), scope / "one")
    (scope / "one").rmdir()
    with pytest.raises(HostError, match=r"/one: No such file"):
        bench.admit(scope / "two", cgroup=cgroup)

    assert written(bench) == []
    assert len(bench.keeper.members) == 0


def test_what_cannot_be_attached_leaves_nothing(bench, scope):
    """No record, no member, no event; the cgroup is as free as before, and may be tried again."""
    # A hook takes 64 programs at one cgroup, whoever attached them.
    members = [bench.admit(scope / "one") for _ in range(64)]
    # Now there is room at the first hook, and at none of the others.
    first = next(iter(bench.keeper.wall.hooks(members[0].key).values()))
    first.detach()
    told = len(bench.events), written(bench)
    links = attached(scope / "one")
    with pytest.raises(KernelError, match="attach "):
        bench.admit(scope / "one")
    after = attached(scope / "one")
    then = len(bench.events), written(bench)
    bench.keeper.release(members[1], "test")
    again = bench.admit(scope / "one")

    assert (len(members), links) == (64, 64 * len(bench.keeper.wall.links(again.key)) - 1)
    assert after == links
    assert then == told
    assert bench.keeper.members.get(again.key) is again


def attached(cgroup) -> int:
    """How many programs are attached at *cgroup* itself."""
    listed = subprocess.run(
        ["bpftool", "-j", "cgroup", "show", str(cgroup)], capture_output=True, check=True
    )
    return len(json.loads(listed.stdout))


def test_no_record_no_sandbox(bench, scope, small_wall):
    """What the next daemon could not find is not admitted: the directory of records is full."""
    records = small_wall.records
    before = records._sandboxes
    records._sandboxes = before / "nowhere"
    try:
        with pytest.raises(HostError, match="writing a record"):
            bench.admit(scope / "one", labels={"role": "web"})
    finally:
        records._sandboxes = before

    assert connect(scope / "one") == 111
    assert bench.events == []
    assert len(bench.keeper.members) == 0


def test_labels_choose_again(bench, scope):
    """A pooled sandbox becomes somebody's; phases of the policy before are of no meaning then."""
    member = bench.admit(scope / "one", labels={"role": "rl"})
    begun = (member.policy, member.phase, member.labels["phase"])
    bench.keeper.set_labels(member, {**member.labels, "role": "web"}, "test")
    then = (member.policy, member.phase, dict(member.labels))
    bench.keeper.set_labels(member, {"role": "rl"}, "test")

    assert begun == ("rl", "setup", "setup")
    assert then == ("web", None, {"role": "web"})
    assert (member.policy, member.phase) == ("rl", "setup")
    assert [each.by for each in bench.told(SandboxLabelled)] == ["test", "test"]


@pytest.mark.parametrize("labels", [{"role": "rl", "phase": "over"}, {"role": "web", "phase": "x"}])
def test_an_unknown_phase_changes_nothing(bench, scope, labels):
    """Not the labels, not the policy, not what judges; and nothing is told."""
    member = bench.admit(scope / "one", labels={"role": "rl"})
    before = (dict(member.labels), member.policy, member.phase, member.generation)
    told = len(bench.events)
    with pytest.raises(NotAdmitted, match=r"phase: expected one of (rl|web)'s \(.*\), got"):
        bench.keeper.set_labels(member, labels, "test")

    assert (dict(member.labels), member.policy, member.phase, member.generation) == before
    assert len(bench.events) == told
    assert connect(scope / "one") == 111


def test_labels_without_a_phase_keep_it(bench, scope):
    """Who removes the label ``phase`` does not start over."""
    member = bench.admit(scope / "one", labels={"role": "rl"})
    bench.keeper.set_labels(member, {"role": "rl", "phase": "agent"}, "test")
    bench.keeper.set_labels(member, {"role": "rl"}, "test")

    assert (member.phase, member.labels["phase"], connect(scope / "one")) == ("agent", "agent", 1)


def test_an_override_is_told_when_it_begins_and_ends(bench, scope):
    """With its reason and by whom; the kernel ends it by itself meanwhile."""
    member = bench.admit(scope / "one")
    audit = Override(mode=Mode.AUDIT, until_ns=boot_ns() + 10**12, reason="a look", by="pid 7")
    before = connect(scope / "one")
    bench.keeper.set_override(member, audit, "pid 7")
    during = connect(scope / "one")
    bench.keeper.set_override(member, None, "agentwall")
    begun, ended = bench.told(ModeOverridden)

    assert (before, during, connect(scope / "one")) == (1, 111, 1)
    assert (begun.mode, begun.reason, ended.mode, ended.reason) == (
        Mode.AUDIT,
        "a look",
        Mode.ENFORCE,
        "its time is over",
    )


def test_what_a_runtime_tells_may_choose_again(bench, scope):
    """Its labels count as those of the harness do; who is told nothing new keeps its rules."""
    member = bench.admit(scope / "one")
    told = Origin(runtime=Runtime.DOCKER, container="4f" * 32, labels={"role": "web"})
    changed = bench.keeper.rename(member, told)
    again = bench.keeper.rename(member, told)

    assert (changed, again, member.policy) == (True, False, "web")
    assert len(bench.told(SandboxRenamed)) == 2
    assert connect(scope / "one") == 111


def test_no_room_keeps_everyone_as_they_are(bench, scope, make, small_wall):
    """An edition that does not fit is refused whole, and leaves no generation behind."""
    members = [
        bench.admit(scope / "one", labels={"role": "web"}),
        bench.admit(scope / "two", labels={"role": "rl"}),
    ]
    rules = small_wall.wall.maps()["aw_rules"]
    before = [(each.policy, each.phase, each.generation) for each in members]
    bench.admit(scope / "one")
    entries = len(list(rules.entries()))
    old = bench.keeper.rules.edition
    huge = make(
        **{
            "web": POLICIES["web"] + f"deny: [{BIG}]\n",
            "rl": POLICIES["rl"] + f"deny: [{BIG}]\n",
            "default-deny": f"deny: [{BIG}]\n",
        }
    )
    with pytest.raises(KernelError, match=r"the policy needs .*, and .* are free"):
        bench.keeper.install(huge)
    after = [(each.policy, each.phase, each.generation) for each in members]

    assert bench.keeper.rules.edition is old
    assert after == before
    assert len(list(rules.entries())) == entries
    assert connect(scope / "two") == 111


def test_a_new_edition_switches_whom_it_concerns(bench, scope, make):
    """Who is judged as before is not told otherwise; one whose policy is gone is closed."""
    web = bench.admit(scope / "one", labels={"role": "web"})
    rl = bench.admit(scope / "two", labels={"role": "rl"})
    told = len(bench.told(RulesApplied))
    switched, problems = bench.keeper.install(make(web=POLICIES["web"]))
    codes = connect(scope / "one"), connect(scope / "two")

    assert (switched, problems) == (1, [])
    assert (web.policy, rl.policy, rl.phase, "phase" in rl.labels) == (
        "web",
        "default-deny",
        None,
        False,
    )
    assert codes == (111, 1)
    assert len(bench.told(RulesApplied)) == told + 1


def test_one_that_cannot_be_written_down_is_told(bench, scope, make, small_wall):
    """The edition is in force for everyone all the same, and the outcome says what is wrong."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    records = small_wall.records
    before = records._sandboxes
    records._sandboxes = before / "nowhere"
    try:
        switched, problems = bench.keeper.install(make(web=POLICIES["web"] + "mode: observe\n"))
    finally:
        records._sandboxes = before

    assert switched == 1
    assert problems[0].startswith("sandbox one: ")
    assert member.generation == bench.told(RulesApplied)[-1].generation


def test_what_was_held_before_is_told(bench, scope):
    """Sockets from elsewhere make the coverage what it is."""
    member = bench.admit(scope / "one", labels={"role": "web"})
    bench.keeper.note_sockets(member, LiveSockets())
    (inspected,) = bench.told(SandboxInspected)

    assert inspected.coverage == member.coverage.level.value


def test_the_end_leaves_nothing(bench, scope):
    """Links, entries and record are gone, and the last word is that it ended."""
    member = bench.admit(scope / "one")
    standing = is_let_go(bench.keeper.wall, member)
    bench.keeper.release(member, "a test")

    assert not standing
    assert written(bench) == []
    assert connect(scope / "one") == 111
    assert bench.events[-1].detail == {"why": "a test"}
    assert isinstance(bench.events[-1], SandboxFinished)


def test_a_scope_is_looked_at_once(bench, scope):
    """It has no processes of its own to follow."""
    member = bench.admit(scope / "one", admission=Admission.SCOPE)
    told = len(bench.events)
    bench.keeper.refresh(member)

    assert len(bench.events) == told
    assert member.is_scope
