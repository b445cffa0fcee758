# SPDX-License-Identifier: Apache-2.0
"""What ``match`` loads to, and how bad entries are refused."""

from __future__ import annotations

import pytest

from agentwall.errors import PolicyError
from agentwall.flow.origin import Runtime
from agentwall.policy.load import load_policy


def _load(directory, text, name="p"):
    path = directory / f"{name}.yaml"
    path.write_text(f"version: 1\n{text}\n")
    return load_policy(path, search_path=())


def _problems(directory, text) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        _load(directory, text)
    prefix = f"{directory / 'p.yaml'}:"
    return [str(error).removeprefix(prefix) for error in caught.value.errors]


def test_every_key(tmp_path):
    """Every key arrives, with the place of its entry."""
    policy = _load(
        tmp_path,
        "match:\n"
        "  - {runtime: cri-o, labels: {role: rollout, team: '7'}, cgroup: /a/**/b-*}\n"
        "  - {name: n-*, image: r.example/**, namespace: rl, job: '12*', unit: x.scope}",
    )
    first, second = policy.match

    assert first.runtime is Runtime.CRI_O
    assert first.labels == {"role": "rollout", "team": "7"}
    assert first.cgroup == "/a/**/b-*"
    assert (first.name, first.image, first.namespace, first.job, first.unit) == (None,) * 5
    assert str(first.where) == f"{tmp_path / 'p.yaml'}:3:5"
    assert second.runtime is None
    assert second.labels == {}
    assert second.cgroup is None
    assert (second.name, second.image, second.namespace) == ("n-*", "r.example/**", "rl")
    assert (second.job, second.unit) == ("12*", "x.scope")


def test_it_is_not_inherited(tmp_path):
    """Who stands on a policy does not get its sandboxes."""
    _load(tmp_path, "match: [{runtime: docker}]", "base")

    assert _load(tmp_path, "extends: [base]").match == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("match: {}", "2:8: match: expected a list, got a map"),
        ("match: [x]", "2:9: match[0]: expected a map, got 'x'"),
        ("match: [{}]", "2:9: match[0]: expected at least one of runtime, labels, cgroup, name, i"),
        ("match: [{image: a}, {imgae: b}]", "2:22: match[1].imgae: unknown key; did you mean imag"),
        ("match: [{qqq: b}]", "2:10: match[0].qqq: unknown key; expected one of runtime, labels, "),
        ("match: [{runtime: dokcer}]", "2:19: match[0].runtime: expected agentwall, docker, podma"),
        ("match: [{runtime: }]", "2:19: match[0].runtime: expected agentwall, docker, podman, con"),
        ("match: [{labels: {}}]", "2:18: match[0].labels: expected a map of 1 to 16 labels, got a"),
        ("match: [{labels: x}]", "2:18: match[0].labels: expected a map of 1 to 16 labels, got 'x"),
        ("match: [{labels: {a: 1}}]", "2:18: match[0].labels: expected text for 'a' (quote it), g"),
        ("match: [{labels: {a: }}]", "2:18: match[0].labels: expected text for 'a' (quote it), go"),
        ("match: [{cgroup: a/b}]", "2:18: match[0].cgroup: expected a path from the root, startin"),
        ("match: [{cgroup: /a//b}]", "2:18: match[0].cgroup: expected a name between two '/', got"),
        ("match: [{cgroup: /a**}]", "2:18: match[0].cgroup: expected '**' to stand alone between "),
        ("match: [{cgroup: [/a]}]", "2:18: match[0].cgroup: expected the path of a cgroup, got a "),
        ("match: [{cgroup: ''}]", "2:18: match[0].cgroup: expected a path from the root, starting"),
        ("match: [{name: ''}]", "2:16: match[0].name: expected text, in which * stands for anythi"),
        ("match: [{job: 12}]", "2:15: match[0].job: expected text, in which * stands for anything"),
        ("match: [{unit: a**b}]", "2:16: match[0].unit: expected '**' to stand alone between two "),
        ("match: [{namespace: true}]", "2:21: match[0].namespace: expected text, in which * stand"),
    ],
)
def test_bad_entries(tmp_path, text, problem):
    """Each kind of bad entry is one error with its line and column."""
    found = _problems(tmp_path, text)

    assert len(found) == 1
    assert found[0].startswith(problem)


def test_bounds(tmp_path):
    """There is an end to entries and labels."""
    many = ", ".join(f"k{n}: v" for n in range(17))
    entries = ", ".join("{runtime: docker}" for _ in range(65))

    assert (
        "of 1 to 16 labels, got a map" in _problems(tmp_path, f"match: [{{labels: {{{many}}}}}]")[0]
    )
    assert "match: expected at most 64 entries" in _problems(tmp_path, f"match: [{entries}]")[0]
