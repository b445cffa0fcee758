# SPDX-License-Identifier: Apache-2.0
"""What the next daemon finds written down."""

from __future__ import annotations

import json

import pytest
from rig.cgroup import cgroup_root, temp_cgroup

from agentwall.daemon.members import Admission, Judged, Member, Override, Place
from agentwall.daemon.records import Records
from agentwall.errors import HostError
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.host.cgroup import Cgroup


def member_at(directory, key: int = 7) -> Member:
    """A sandbox with everything that is written down of one."""
    return Member(
        key=SandboxKey(key),
        id="4f5e6d7c8b9a",
        cgroup=Cgroup(f"/{directory.relative_to(cgroup_root())}", directory),
        cgroup_id=directory.stat().st_ino,
        scope="/agentwall.slice",
        admission=Admission.HOOK,
        origin=Origin(runtime=Runtime.DOCKER, container="4f" * 32, labels={"role": "rollout"}),
        labels={"episode": "17"},
        policy="rl-rollout",
        phase="agent",
        wanted="rl-rollout",
        override=Override(mode=Mode.AUDIT, until_ns=99, reason="an incident", by="pid 7"),
        place=Place(own_netns=True, netns_cookie=41),
        judged=Judged(
            version="1",
            policy="rl-rollout",
            phase="agent",
            digest="d1",
            commit="c0ffee",
            generation=3,
            table=2,
            signatures="d2",
        ),
        pid=4242,
        admitted_ns=5,
        unwatched_ms=0,
    )


@pytest.fixture
def records(tmp_path):
    """Records of the test's own."""
    opened = Records(tmp_path / "daemon")
    yield opened
    opened.close()


def test_a_sandbox_is_read_as_it_was_written(records):
    """Nothing of it is lost."""
    with temp_cgroup() as directory:
        member = member_at(directory)
        records.write(member)
        (found,) = records.read()

    assert found == member


def test_a_record_of_a_cgroup_that_has_gone_is_no_sandbox(records):
    """Also where another cgroup has its name by now. It stays till the kernel has let go of it."""
    with temp_cgroup() as directory:
        member = member_at(directory)
        member.cgroup_id += 1
        records.write(member)
        assert list(records.read()) == []
    assert list(records.read()) == []
    assert records.gone == {member.key}
    records.remove(member.key)
    assert records.gone == set()


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "agentwall.daemon/1"}', "[1, 2", "null"])
def test_a_record_that_cannot_be_understood_is_told_of(records, tmp_path, text):
    """It is neither dropped nor does it keep the daemon from its other sandboxes."""
    with temp_cgroup() as directory:
        records.write(member_at(directory))
        (tmp_path / "daemon" / "sandboxes" / "0000000000000001.json").write_text(text)
        found = list(records.read())

    assert [isinstance(each, str) for each in found] == [True, False]
    assert "0000000000000001.json" in found[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("origin", 3), ("place", {"x": 1}), ("key", "x"), ("labels", None), ("cgroup_id", "7")],
)
def test_a_record_with_a_wrong_value_is_told_of(records, tmp_path, key, value):
    """Whatever is wrong with it, it is one line."""
    with temp_cgroup() as directory:
        member = member_at(directory)
        records.write(member)
        (path,) = (tmp_path / "daemon" / "sandboxes").iterdir()
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        found = list(records.read())

    assert all(isinstance(each, str) for each in found)


def test_two_daemons_do_not_share_records(records, tmp_path):
    """The second one is told that another is running."""
    with pytest.raises(HostError, match="another daemon is running"):
        Records(tmp_path / "daemon")


def test_generations_are_never_used_twice(tmp_path):
    """Not by a daemon that follows one that was killed, either."""
    used = []
    for _ in range(3):
        records = Records(tmp_path / "daemon")
        used += [records.next_generation() for _ in range(5)]
        records.close()
    records = Records(tmp_path / "daemon")
    records.beyond(1_000_000)
    used.append(records.next_generation())
    records.close()

    assert used == sorted(set(used))
    assert used[-1] == 1_000_001


def test_records_are_roots_alone(records, tmp_path):
    """They hold what a sandbox could use to pass for another."""
    with temp_cgroup() as directory:
        records.write(member_at(directory))
        (path,) = (tmp_path / "daemon" / "sandboxes").iterdir()

        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_another_version_wrote_of_the_rules_is_passed_over(records, tmp_path):
    """The sandbox is taken over all the same."""
    with temp_cgroup() as directory:
        records.write(member_at(directory))
        (path,) = (tmp_path / "daemon" / "sandboxes").glob("*.json")
        document = json.loads(path.read_text())
        document["judged"] = {"later": 1}
        path.write_text(json.dumps(document))
        (found,) = records.read()

    assert (found.id, found.judged) == ("4f5e6d7c8b9a", None)
