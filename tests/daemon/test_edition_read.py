# SPDX-License-Identifier: Apache-2.0
"""Editions read from files: all of it, or every reason why not."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from rig.keeping import make_edition, owned

from agentwall.daemon.edition import Edition, Rejected, Request
from agentwall.daemon.edition_read import _answer, read_edition
from agentwall.errors import PolicyError

SCOPE = owned("/agentwall-test")


@pytest.fixture
def make(tmp_path):
    """A function that reads an edition of some policies."""
    return lambda scope=SCOPE, **policies: make_edition(tmp_path, policies, scope)


def faults(make, **policies: str) -> list[str]:
    """What is wrong with these policies, a line each."""
    with pytest.raises(PolicyError) as found:
        make(**policies)
    return [str(each) for each in found.value.errors]


def again(tmp_path) -> Edition:
    """Read what is there once more."""
    return read_edition(Request(config=str(tmp_path / "agentwall.yaml"), must_exist=True))


def test_every_fault_of_every_file_is_told(make):
    """Whoever mends them should have to do it once."""
    found = faults(make, a="mode: nosuch\n", b="allow: []\n", c="alow: []\n")

    assert [line.split("/policies/")[1].split(":")[0] for line in found] == ["a.yaml", "c.yaml"]


def test_two_files_of_one_name(make, tmp_path):
    """The second one is told, with the first one's place."""
    make(a="allow: []\n")
    (tmp_path / "policies" / "b.yaml").write_text("version: 1\nname: a\n")
    with pytest.raises(PolicyError, match=r"b\.yaml:1:1: name: expected a name of its own, got a"):
        again(tmp_path)


def test_a_file_of_the_built_in_name_takes_its_place(make):
    """The policy of last resort may be somebody's own."""
    own = make(**{"default-deny": "allow: [{cidr: 192.0.2.1, ports: [1]}]\n"})
    built_in = make()

    assert own.initial("default-deny").policy.files != ()
    assert built_in.initial("default-deny").policy.digest != (
        own.initial("default-deny").policy.digest
    )


def test_scopes_name_policies_that_there_are(make):
    """The answer lists these."""
    scope = owned("/agentwall-test", "gone", ("a", "lost"))
    with pytest.raises(PolicyError) as found:
        make(scope, a="allow: []\n")
    lines = [str(each) for each in found.value.errors]

    assert [line.rpartition(" ")[2] for line in lines] == ["gone", "lost"]
    assert "scopes[0]: expected one of the policies (a, default-deny)" in lines[0]


def test_two_policies_for_the_same_sandbox(make):
    """Nobody could say which one holds."""
    match = "match: [{labels: {role: web}}]\n"

    assert any("match" in line for line in faults(make, a=match, b=match))


@pytest.mark.parametrize("kind", ["directory", "dangling", "binary", "bomb"])
def test_what_is_no_policy(make, tmp_path, kind):
    """A directory, a link to nothing, bytes, or a nest of YAML: a line that names the file."""
    make()
    path = tmp_path / "policies" / "odd.yaml"
    match kind:
        case "directory":
            path.mkdir()
        case "dangling":
            path.symlink_to("/nonexistent/policy.yaml")
        case "binary":
            path.write_bytes(bytes(range(256)))
        case "bomb":
            lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 30)]
            path.write_text("\n".join(lines))
    with pytest.raises(PolicyError, match=r"odd\.yaml"):
        again(tmp_path)


def test_a_directory_that_is_not_there(make, tmp_path):
    """The built-in policy is left; where the directory should be is not watched."""
    make(a="allow: []\n")
    (tmp_path / "policies" / "a.yaml").unlink()
    (tmp_path / "policies").rmdir()
    found = again(tmp_path)

    assert list(found.policies) == ["default-deny"]
    assert str(tmp_path / "policies") not in found.directories
    assert str(tmp_path) in found.directories


def test_the_digest_is_of_what_is_said(make):
    """Another rule, another digest; the same rules, the same."""
    first = make(a="allow: []\n")
    same = make(a="allow: []\n")
    other = make(a="allow: [{cidr: 192.0.2.1, ports: [1]}]\n")

    assert first.digest == same.digest != other.digest


def test_the_commit_is_in_every_policy_of_the_directory(make, tmp_path):
    """Of the checkout in which the directory lies; the built-in one is of none."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    before = make(a="allow: []\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "policies"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    after = again(tmp_path)

    assert before.commit is None
    assert after.commit == head.stdout.strip()
    assert {name: bodies[0].policy.commit for name, bodies in after.policies.items()} == {
        "a": after.commit,
        "default-deny": None,
    }


@pytest.mark.parametrize("is_good", [True, False])
def test_the_process_answers_what_it_read(make, tmp_path, is_good):
    """An edition or the lines for people, pickled, and exit code 0."""
    make(a="allow: []\n")
    if not is_good:
        (tmp_path / "policies" / "a.yaml").write_text("version: 1\nname: a\nmode: nosuch\n")
    request = Request(config=str(tmp_path / "agentwall.yaml"), must_exist=True)
    done = subprocess.run(
        [sys.executable, "-m", "agentwall.daemon.edition_read"],
        input=pickle.dumps(request),
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    answer = pickle.loads(done.stdout)

    assert isinstance(answer, Edition if is_good else Rejected)
    assert is_good or (answer.is_usage and "a.yaml:3:7: mode:" in answer.problems[0])


def test_a_pipe_is_no_policy(make, tmp_path):
    """Nobody waits for what will never be written."""
    make(a="allow: []\n")
    os.mkfifo(tmp_path / "policies" / "b.yaml")

    with pytest.raises(PolicyError, match=r"b\.yaml:1:1: expected a regular file"):
        again(tmp_path)


def test_another_version_asks_for_a_restart(tmp_path):
    """A daemon does not read what a later version writes."""
    request = Request(config=str(tmp_path / "none"), must_exist=False, version="0.0.0")

    assert "start the daemon again" in _answer(request).problems[0]
