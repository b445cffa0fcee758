# SPDX-License-Identifier: Apache-2.0
"""Which policy a sandbox gets, at its admission and when the files have changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.keeping import OTHER, make_edition, member_at, owned, spelled

from agentwall.daemon.choosing import (
    DEFAULT_DENY,
    Applicant,
    NotAdmitted,
    body_for,
    choose_again,
    choose_body,
    scope_applicant,
)
from agentwall.daemon.config import Scope, ScopeKind
from agentwall.daemon.members import Admission
from agentwall.host.cgroup import Cgroup

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def directory():
    """A cgroup for applicants, within a scope."""
    with temp_cgroup("scope") as scope:
        made = scope / "team"
        made.mkdir()
        yield made


@pytest.fixture(scope="module")
def edition(tmp_path_factory, directory):
    """Policies by label, by path, with phases, and one that nothing matches."""
    return make_edition(
        tmp_path_factory.mktemp("edition"),
        {
            "base": "allow: []\n",
            "rl": "match: [{labels: {role: rl}}]\nphases: {setup: {}, agent: {}}\n",
            "here": f"match: [{{cgroup: {spelled(directory)}, labels: {{at: here}}}}]\n",
            "named": "allow: []\n",
        },
        owned(spelled(directory.parent), "base"),
    )


def applicant(directory, scope: Scope, **changes: object) -> Applicant:
    """A cgroup that was found in *scope*."""
    plain = Applicant(
        cgroup=Cgroup(spelled(directory), directory),
        scope=scope,
        origin=OTHER,
        admission=Admission.FOUND,
    )
    return replace(plain, **changes)


OWNED = owned("/s", "base")
LISTED = owned("/s", "base", ("named",))
SHARED = Scope(cgroup="/s", kind=ScopeKind.SHARED)


@pytest.mark.parametrize(
    ("scope", "labels", "wanted", "expected"),
    [
        (OWNED, {}, None, "base"),
        (OWNED, {"role": "rl"}, None, "rl"),
        (OWNED, {"at": "here"}, None, "here"),
        (OWNED, {"at": "there"}, None, "base"),
        (OWNED, {}, "named", "named"),
        (OWNED, {"role": "rl"}, "named", "named"),
        (owned("/s"), {}, None, DEFAULT_DENY),
        (LISTED, {"role": "rl"}, None, "base"),
        (LISTED, {}, "named", "named"),
        (LISTED, {}, "base", "base"),
        (SHARED, {}, None, None),
        (SHARED, {"role": "rl"}, None, "rl"),
        (SHARED, {}, "named", "named"),
    ],
)
def test_who_gets_what(edition, directory, scope, labels, wanted, expected):
    """What it asks for, else what matches, of what its scope offers; else the scope's default."""
    found = body_for(edition, applicant(directory, scope, labels=labels, wanted=wanted))

    assert (found.policy.name if found else None) == expected


@pytest.mark.parametrize(
    ("scope", "wanted", "said"),
    [
        (OWNED, "nosuch", r"policy: expected one of /s's \(base, default-deny, here, named, rl\)"),
        (LISTED, "rl", r"policy: expected one of /s's \(base, named\), got rl"),
        (SHARED, "nosuch", r"got nosuch"),
    ],
)
def test_what_may_not_be_had(edition, directory, scope, wanted, said):
    """The answer names what there is; the scope's list is kept to."""
    with pytest.raises(NotAdmitted, match=said):
        choose_body(edition, applicant(directory, scope, wanted=wanted))


def test_a_policy_begins_with_its_first_phase(edition, directory):
    """Whatever the labels say: a sandbox starts at the beginning."""
    labels = {"role": "rl", "phase": "agent"}
    found = body_for(edition, applicant(directory, OWNED, labels=labels))

    assert found.key == ("rl", "setup")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"policy": "rl", "phase": "agent", "labels": {"role": "rl"}}, ("rl", "agent")),
        ({"policy": "rl", "phase": "gone", "labels": {"role": "rl"}}, ("rl", "setup")),
        ({"policy": "rl", "phase": "agent", "labels": {}}, ("base", None)),
        ({"policy": "base", "labels": {"role": "rl"}}, ("rl", "setup")),
        ({"policy": "named", "wanted": "named"}, ("named", None)),
        ({"policy": "old", "wanted": "old"}, ("base", None)),
        ({"policy": "old", "admission": Admission.SCOPE}, ("base", None)),
        ({"policy": "named", "scope": "/no/more"}, ("named", None)),
        ({"policy": "old", "scope": "/no/more"}, (DEFAULT_DENY, None)),
        ({"policy": "rl", "phase": "agent", "scope": "/no/more"}, ("rl", "agent")),
    ],
)
def test_who_is_there_already(edition, directory, changes, expected):
    """It keeps its phase while it keeps its policy; one that is nobody's any more is closed."""
    member = member_at(directory, **changes)

    assert choose_again(edition, member).key == expected


def test_an_owned_scope_is_put_behind_the_wall_itself(edition, directory):
    """Its default judges who is there and not bound yet."""
    made = scope_applicant(OWNED, Cgroup(spelled(directory), directory))

    assert made.admission is Admission.SCOPE
    assert body_for(edition, made).policy.name == "base"
