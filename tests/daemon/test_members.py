# SPDX-License-Identifier: Apache-2.0
"""Who is who: by key, by id, by path, and by what lies within."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.cgroup import temp_cgroup
from rig.keeping import OTHER, member_at

from agentwall.daemon.members import Admission, Members, sandbox_of, wanted_id
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import SandboxKey

pytestmark = pytest.mark.kernel

NAMES = st.text("abc/", min_size=0, max_size=8)


@pytest.fixture(scope="module")
def directory():
    """A cgroup that sandboxes of these tests are in."""
    with temp_cgroup() as made:
        yield made


def at(directory, path: str, key: int = 7, **changes: object):
    """A member at a path of the test's choice."""
    plain = member_at(directory, key, **changes)
    object.__setattr__(plain.cgroup, "path", path)
    return plain


def test_the_innermost_one_holds(directory):
    """A path lies in the sandbox that is nearest, itself included; whole names count."""
    members = Members()
    outer, inner = at(directory, "/s/a", 1, id="o"), at(directory, "/s/a/b/c", 2, id="i")
    members.add(outer)
    members.add(inner)

    assert members.holding("/s/a/b/c/d") is inner
    assert members.holding("/s/a/b/c") is inner
    assert members.holding("/s/a/b") is outer
    for free in ("/s", "/", "", "/s/ab", "/s/a2/b"):
        assert members.holding(free) is None


def test_who_leaves_frees_its_path_only(directory):
    """Another may come to its place; it is known by its key and its id until it is removed."""
    members = Members()
    old, new = at(directory, "/s/a", 1, id="old"), at(directory, "/s/a", 2, id="new")
    members.add(old)
    members.leave(old)
    freed = members.at("/s/a")
    members.add(new)
    members.leave(old)
    held = members.at("/s/a")
    members.remove(old)

    assert freed is None
    assert held is members.at("/s/a") is new
    assert members.get(old.key) is members.named("old") is None
    assert (members.cgroup_of(new.key), members.cgroup_of(old.key)) == ("/s/a", None)
    assert (len(members), list(members)) == (1, [new])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), NAMES), max_size=30))
def test_every_way_leads_to_the_same_ones(directory, steps):
    """Whatever comes and goes: key, id and path find who is there, and nobody else."""
    members, expected = Members(), {}
    for comes, key, path in steps:
        if comes and key not in expected and path not in {m.cgroup.path for m in expected.values()}:
            expected[key] = at(directory, f"/{path}", key, id=f"id-{key}")
            members.add(expected[key])
        elif not comes and key in expected:
            members.remove(expected.pop(key))

    assert {m.key: m for m in members} == expected
    assert all(members.named(m.id) is members.get(m.key) is m for m in expected.values())


def test_scopes_are_no_sandboxes(directory):
    """They are looked after as sandboxes are, and not counted as such."""
    members = Members()
    members.add(at(directory, "/s", 1, id="s", admission=Admission.SCOPE))
    members.add(at(directory, "/s/a", 2, id="a"))

    assert [each.id for each in members.sandboxes()] == ["a"]
    assert [each.is_scope for each in members] == [True, False]


@pytest.mark.parametrize(
    ("origin", "path", "expected"),
    [
        (Origin(runtime=Runtime.DOCKER, container="4f5e6d7c8b9a0123"), "/s/x", "4f5e6d7c8b9a"),
        (Origin(runtime=Runtime.SLURM, job="17"), "/s/job_17", "job-17"),
        (Origin(runtime=Runtime.SLURM, job="17", step="batch"), "/s/x", "job-17-step-batch"),
        (OTHER, "/s/episode-3", "episode-3"),
        (OTHER, "/s/" + "x" * 100, "x" * 64),
        (OTHER, "/", "sandbox"),
    ],
)
def test_an_id_tells_who_it_is(origin, path, expected):
    """The container's as runtimes print it, the job's and step's, else the cgroup's name."""
    assert wanted_id(origin, path) == expected


def test_an_id_is_given_once(directory):
    """A second one of the same name gets its key's digits; it stays within what an id may be."""
    members = Members()
    members.add(at(directory, "/s/" + "x" * 64, 1, id="x" * 64))
    again = members.free_id(OTHER, "/t/" + "x" * 64, SandboxKey(0xABCDEF0123456789))

    assert again == "x" * 55 + "-23456789"
    assert members.free_id(OTHER, "/t/y", SandboxKey(1)) == "y"


def test_an_event_names_it_as_it_is_then(directory):
    """What changes later does not change what was said."""
    member = member_at(directory, labels={"episode": "1"})
    named = sandbox_of(member)
    member.labels["episode"] = "2"

    assert (named.id, named.labels, named.policy) == (member.id, {"episode": "1"}, None)
