# SPDX-License-Identifier: Apache-2.0
"""Signatures are read and judged before anything is made, and then written into the kernel."""

from __future__ import annotations

import textwrap

import pytest
from rig.enclosure import parse_policy

from agentwall.daemon.inspection import begin_search, plan_search
from agentwall.detect.budget import BudgetError
from agentwall.errors import PolicyError
from agentwall.host import signature_files
from agentwall.kernel.wall import Wall
from agentwall.policy.compile import compile_policy

SIGNATURE = """
  - id: tunnel/own{number}
    class: tunnel
    dialect: own{number}
    protocol: tcp
    direction: client
    pattern: '^EXFIL{number}!'
    description: a protocol of this site
    examples: ['EXFIL{number}!']
    counterexamples: ['HELLO']
"""
ALL_OFF = "detect: {mining: off, tunnel: off, p2p: off}"


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """One signature stands for those that come with agentwall, and nothing is kept on disk."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    (directory / "one.yaml").write_text("version: 1\nsignatures:" + SIGNATURE.format(number=0))
    monkeypatch.setattr(signature_files, "default_directories", lambda: [str(directory)])
    monkeypatch.setattr(signature_files, "cache_directory", lambda: None)
    return directory


def search(text="", *extra):
    policy = parse_policy(textwrap.dedent(text))
    return plan_search(policy, compile_policy(policy), extra)


def test_default():
    """By default tunnels and miners are blocked, and 64 KiB of each side are read."""
    found = search()

    assert [each.id for each in found.signatures.signatures] == ["tunnel/own0"]
    assert (found.masks.blocks, found.masks.alerts) == (1, 0)
    assert found.depth_bytes == 65536
    assert found.accepts == found.table.accepts


def test_exceptions():
    """The masks are by the rules of the policy's tables."""
    text = """
        allow:
          - {cidr: 192.0.2.1, ports: [1]}
          - {cidr: 192.0.2.2, ports: [1], except: [tunnel/own0]}
    """

    assert search(text).masks.excepts == {1: 1}


def test_off():
    """Where every class that has signatures is off there is no table; lists of names hold."""
    found = search(ALL_OFF)

    assert found.table is None
    assert found.accepts == ()
    assert found.signatures.signatures


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("signatures: [{id: x}]", PolicyError, r"more\.yaml:2:14"),
        (
            "signatures:" + "".join(SIGNATURE.format(number=n) for n in range(1, 65)),
            BudgetError,
            "at most 63 dialects",
        ),
    ],
    ids=["malformed", "too many"],
)
def test_errors(tmp_path, text, error, said):
    """What is wrong with signatures, or is too much of them, is an error at once."""
    more = tmp_path / "more.yaml"
    more.write_text(f"version: 1\n{text}\n")

    with pytest.raises(error, match=said):
        search("", str(more))


@pytest.mark.kernel
def test_written():
    """What is looked for is in the kernel's maps, with the exceptions of its generation."""
    found = search("allow: [{cidr: 192.0.2.2, ports: [1], except: [tunnel]}]")
    with Wall.load() as wall:
        inspection = begin_search(wall, found, 7)
        excepts = wall.maps()["aw_excepts"].entries()

        assert begin_search(wall, search(ALL_OFF), 7) is None
        assert wall.signatures.generation == 1
    assert inspection.masks == found.masks
    assert inspection.depth_bytes == 65536
    assert len(excepts) == 1
