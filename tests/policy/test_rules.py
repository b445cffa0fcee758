# SPDX-License-Identifier: Apache-2.0
"""Rules in files as typed values, and where they stand."""

from __future__ import annotations

import pytest

from agentwall.policy.extends import gather
from agentwall.policy.model import Section
from agentwall.policy.rules import make_rules, make_selectors, merge_phases, place_of

TEXT = """\
version: 1
allow: [{cidr: 1.1.1.1, ports: [1]}, {cidr: 2.2.2.2, ports: [2, 2], note: ''}]
phases:
  a: {deny: [{cidr: 3.3.3.3}]}
match: [{name: x}]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return gather(str(path), ())[-1]


def test_places_are_those_of_the_file(file):
    """The place of each rule leads back to its line and column."""
    rules = [
        *make_rules(file, "p", Section.ALLOW),
        *make_rules(file, "p", Section.DENY),
        *make_rules(file, "p", Section.DENY, "a"),
    ]

    assert [place_of(rule) for rule in rules] == [
        ("allow", 0),
        ("allow", 1),
        ("phases", "a", "deny", 0),
    ]
    assert [file.source.locate(place_of(rule)) for rule in rules] == [r.where for r in rules]


def test_values_are_tidied(file):
    """A port that is named twice counts once, and an empty note is none."""
    rule = make_rules(file, "p", Section.ALLOW)[1]

    assert (len(rule.ports), rule.note) == (1, None)


def test_phases_of_several_files(file):
    """The same phase in two files is one, with the rules of both under their own names."""
    [phase] = merge_phases([(file, "base"), (file, "p")])

    assert [rule.id for rule in phase.deny] == ["base:phases.a.deny[0]", "p:phases.a.deny[0]"]
    assert (phase.mode, phase.allow) == (None, ())


def test_entries(file):
    """Keys that are absent ask for nothing."""
    [entry] = make_selectors(file)

    assert (entry.name, entry.image, entry.cgroup, entry.runtime) == ("x", None, None, None)
