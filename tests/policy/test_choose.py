# SPDX-License-Identifier: Apache-2.0
"""Which policy a sandbox gets, and which policies are a tie."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import PolicyError, SourceLocation
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.verdict import Mode
from agentwall.policy.choose import check_ties, choose
from agentwall.policy.globs import matches
from agentwall.policy.model import Loopback, OnError, Policy, Selector

KEYS = ("name", "image", "namespace", "job", "unit")


def _policy(name, *entries) -> Policy:
    match = tuple(
        Selector(**{"where": SourceLocation(f"{name}.yaml", 4 + index, 3), **entry})
        for index, entry in enumerate(entries)
    )
    return Policy(
        name=name,
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.AUTO,
        allow=(),
        deny=(),
        inbound=(),
        tests=(),
        files=(f"{name}.yaml",),
        digest="",
        match=match,
    )


DOCKER = Origin(
    runtime=Runtime.DOCKER,
    name="rollout-7",
    image="registry.example/rl/box:1",
    labels={"role": "rollout", "team": "a"},
)


def _chosen(policies, *, cgroup="/a/b/c", origin=DOCKER, labels=None, wanted=None) -> str | None:
    found = choose(policies, cgroup=cgroup, origin=origin, labels=labels or {}, wanted=wanted)
    return found.name if found else None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"runtime": Runtime.DOCKER}, True),
        ({"runtime": Runtime.PODMAN}, False),
        ({"labels": {"role": "rollout"}}, True),
        ({"labels": {"role": "rollout", "team": "b"}}, False),
        ({"labels": {"absent": ""}}, False),
        ({"labels": {"stage": "eval"}}, True),
        ({"cgroup": "/a/**"}, True),
        ({"cgroup": "/a/*"}, False),
        ({"cgroup": "/a/b/c"}, True),
        ({"name": "rollout-*"}, True),
        ({"name": "rollout"}, False),
        ({"image": "registry.example/**"}, True),
        ({"image": "registry.example/*"}, False),
        ({"namespace": "*"}, False),
        ({"runtime": Runtime.DOCKER, "name": "x"}, False),
    ],
)
def test_what_an_entry_fits(entry, expected):
    """All keys of an entry must hold; what is not known of a sandbox fits nothing."""
    found = _chosen([_policy("p", entry)], labels={"stage": "eval"})

    assert found == ("p" if expected else None)


def test_any_entry_suffices():
    """A policy is for whoever fits one of its entries; one without entries is for nobody."""
    policies = [_policy("none"), _policy("p", {"job": "9"}, {"cgroup": "/a/**"})]

    assert _chosen(policies) == "p"
    assert _chosen(policies, cgroup="/z") is None
    assert _chosen(policies, origin=None) == "p"


def test_the_harness_speaks_before_the_image():
    """A label of the harness hides the runtime's of the same name."""
    policies = [_policy("p", {"labels": {"role": "rollout"}})]

    assert _chosen(policies) == "p"
    assert _chosen(policies, labels={"role": "eval"}) is None


ORDER = (
    ("labels", {"labels": {"role": "rollout"}}),
    ("deepest", {"cgroup": "/a/b/*", "name": "*"}),
    ("deep", {"cgroup": "/a/*/*", "runtime": Runtime.DOCKER, "name": "*"}),
    ("shallow", {"cgroup": "/a/**", "runtime": Runtime.DOCKER, "name": "*"}),
    ("keys", {"runtime": Runtime.DOCKER, "name": "*"}),
    ("least", {"runtime": Runtime.DOCKER}),
)


@given(st.permutations(ORDER), st.integers(0, len(ORDER) - 1))
def test_which_entry_wins(order, first):
    """Labels, then the deepest path, then more keys; the order of policies does not matter."""
    names = [name for name, _ in ORDER][first:]
    policies = [_policy(name, entry) for name, entry in order if name in names]

    check_ties(policies)
    assert _chosen(policies) == names[0]


def test_more_labels_win():
    """Each label counts as a key."""
    entries = {"one": {"team": "a"}, "both": {"role": "rollout", "team": "a"}}
    policies = [_policy(name, {"labels": labels}) for name, labels in entries.items()]

    check_ties(policies)
    assert _chosen(policies) == "both"


def test_who_admits_may_ask():
    """A policy that is asked for by name is the one, whatever matches; but it must be there."""
    policies = [_policy("p", {"runtime": Runtime.DOCKER}), _policy("other")]

    assert _chosen(policies, wanted="other") == "other"
    with pytest.raises(LookupError, match="policy: expected one of other, p, got 'x'"):
        _chosen(policies, wanted="x")


TIES = (
    ({"runtime": Runtime.DOCKER}, {"runtime": Runtime.DOCKER}),
    ({"runtime": Runtime.DOCKER}, {"name": "x"}),
    ({"labels": {"a": "1"}}, {"labels": {"b": "1"}}),
    ({"cgroup": "/a/**"}, {"cgroup": "/**/a"}),
    ({"cgroup": "/a/x*"}, {"cgroup": "/a/*y"}),
    ({"cgroup": "/a/x*y*"}, {"cgroup": "/a/xz*y"}),
    ({"name": "ab*"}, {"name": "a*"}),
    ({"image": "r/**"}, {"image": "r/x/*"}),
)
DISJOINT = (
    ({"runtime": Runtime.DOCKER}, {"runtime": Runtime.PODMAN}),
    ({"labels": {"a": "1"}}, {"labels": {"a": "2"}}),
    ({"labels": {"a": "1", "b": "1"}}, {"labels": {"a": "2", "c": "1"}}),
    ({"cgroup": "/a/**"}, {"cgroup": "/b/**"}),
    ({"cgroup": "/a/x*"}, {"cgroup": "/a/y*"}),
    ({"cgroup": "/a/*x"}, {"cgroup": "/a/*y"}),
    ({"cgroup": "/*/b"}, {"cgroup": "/*/c"}),
    ({"name": "a"}, {"name": "b"}),
    ({"name": "a", "job": "1"}, {"name": "a", "job": "2"}),
    ({"image": "r/x/**"}, {"image": "r/y/**"}),
)


@pytest.mark.parametrize(("one", "other"), TIES)
def test_ties(one, other):
    """Entries of the same rank that somebody may fit are an error that names both places."""
    policies = [_policy("one", {"job": "1", "unit": "u", "name": "n"}, one), _policy("two", other)]

    with pytest.raises(PolicyError) as caught:
        check_ties(policies)
    assert [str(error) for error in caught.value.errors] == [
        "two.yaml:4:3: match[0]: expected something that tells it from the entry of policy one at "
        "one.yaml:5:3, got a tie: a sandbox may fit both"
    ]


@pytest.mark.parametrize(("one", "other"), DISJOINT)
def test_no_ties(one, other):
    """Entries that nobody fits both of are fine, in either order."""
    check_ties([_policy("one", one), _policy("two", other)])
    check_ties([_policy("two", other), _policy("one", one)])


def test_own_entries_are_no_tie():
    """Entries of one policy lead to the same policy."""
    check_ties([_policy("one", *({"runtime": Runtime.DOCKER} for _ in range(3)))])


GLOBS = st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "*b", "a*b"]), min_size=1, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "runtime": st.sampled_from((Runtime.DOCKER, Runtime.PODMAN)),
        "labels": st.dictionaries(st.sampled_from("kl"), st.sampled_from("xy"), min_size=1),
        "cgroup": GLOBS.map(lambda names: "/" + "/".join(names)),
        "name": GLOBS.map("/".join),
    },
).filter(bool)
TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "aab", "ba"]), min_size=1, max_size=3)


@given(
    st.lists(ENTRIES, min_size=2, max_size=4),
    TEXTS.map(lambda names: "/" + "/".join(names)),
    st.none()
    | st.builds(
        Origin,
        runtime=st.sampled_from((Runtime.DOCKER, Runtime.PODMAN)),
        name=st.none() | TEXTS.map("/".join),
    ),
    st.dictionaries(st.sampled_from("kl"), st.sampled_from("xy")),
)
def test_without_ties_order_does_not_matter(entries, cgroup, origin, labels):
    """Whatever policies pass the check, every sandbox gets the same one in whatever order."""
    policies = [_policy(f"p{number}", entry) for number, entry in enumerate(entries)]
    try:
        check_ties(policies)
    except PolicyError:
        return
    found = {
        _chosen(order, cgroup=cgroup, origin=origin, labels=labels)
        for order in itertools.permutations(policies)
    }

    assert len(found) == 1


@given(GLOBS, GLOBS, TEXTS)
def test_who_fits_both_globs_is_a_tie(one, other, names):
    """Two globs over one path are never taken for disjoint."""
    first, second = ("/" + "/".join(glob) for glob in (one, other))
    path = "/" + "/".join(names)
    entries = [_policy(glob, {"job": "x", "name": glob[1:]}) for glob in (first, second)]
    if not all(matches(glob[1:], path[1:]) for glob in (first, second)):
        return

    with pytest.raises(PolicyError, match="a sandbox may fit both"):
        check_ties(entries)
