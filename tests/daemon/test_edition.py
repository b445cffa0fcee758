# SPDX-License-Identifier: Apache-2.0
"""What an edition says of its policies."""

from __future__ import annotations

import pickle

import pytest
from rig.keeping import make_edition, owned


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """Two policies, one of them with phases."""
    return make_edition(
        tmp_path_factory.mktemp("edition"),
        {"rl": "phases: {setup: {}, agent: {}, grade: {}}\n", "web": "allow: []\n"},
        owned("/agentwall-test"),
    )


def test_phases_are_in_their_order(edition):
    """The first one is initial; a policy without phases has one body, and no phase."""
    assert edition.phases("rl") == ("setup", "agent", "grade")
    assert edition.initial("rl").key == ("rl", "setup")
    assert (edition.phases("web"), edition.initial("web").key) == ((), ("web", None))
    assert edition.phases("nosuch") == ()


@pytest.mark.parametrize(
    ("name", "phase", "is_there"),
    [
        ("rl", "agent", True),
        ("rl", None, False),
        ("rl", "over", False),
        ("web", None, True),
        ("web", "setup", False),
        ("nosuch", None, False),
    ],
)
def test_a_body_is_a_policy_in_a_phase(edition, name, phase, is_there):
    """Or there is none: never another one instead."""
    found = edition.body(name, phase)

    assert (found is not None) == is_there
    assert found is None or found.key == (name, phase)


def test_a_policy_that_is_not_there_is_an_error(edition):
    """Who asks for the initial body of one has checked that there is one."""
    with pytest.raises(KeyError):
        edition.initial("nosuch")


def test_what_can_be_chosen_is_each_policy_once(edition):
    """In its first phase; the built-in one is always there."""
    found = [(each.name, each.phase) for each in edition.selectable()]

    assert sorted(found, key=str) == [("default-deny", None), ("rl", "setup"), ("web", None)]


def test_it_comes_through_a_pipe_as_it_was(edition):
    """A process of its own reads it, and hands it on."""
    assert pickle.loads(pickle.dumps(edition)) == edition
