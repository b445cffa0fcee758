# SPDX-License-Identifier: Apache-2.0
"""Examples and counterexamples are run, and names of strangers found."""

from __future__ import annotations

import pytest
import yaml

from agentwall.detect.signature_check import check_signatures, check_together
from agentwall.detect.signature_load import load_files
from agentwall.errors import PolicyError


def _failures(pattern, examples, counterexamples, protocol="tcp", direction="client"):
    signature = {
        "id": "mining/x",
        "class": "mining",
        "dialect": "x",
        "protocol": protocol,
        "direction": direction,
        "pattern": pattern,
        "description": "d",
        "examples": examples,
        "counterexamples": counterexamples,
    }
    text = yaml.safe_dump({"version": 1, "signatures": [signature]})
    (checked,) = check_signatures(load_files([("f.yaml", text)]))

    assert checked.rows == len(examples) + len(counterexamples)
    return [f"{error.key}: {error.problem}" for error in checked.failures]


@pytest.mark.parametrize("direction", ["client", "server", "either"])
def test_all_well(direction):
    """Nothing is told of a signature that finds its examples and nothing else."""
    assert _failures("^ab|c", ["abx", "xc"], ["xab", "b"], direction=direction) == []


def test_failed_rows():
    """Each example that is not found and each counterexample that is, is told with its place."""
    assert _failures("^a", ["a", "ba"], ["ab", "b", "a"]) == [
        "signatures[0].examples[1]: expected a match, got none",
        "signatures[0].counterexamples[0]: expected no match, got one",
        "signatures[0].counterexamples[2]: expected no match, got one",
    ]


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_datagrams_end(protocol):
    """Examples of UDP and ICMP are whole datagrams, whose end a pattern may ask for."""
    assert _failures("^ab$", ["ab"], ["abc", "a"], protocol) == []


def test_too_large():
    """A pattern that needs too many states alone is told as such, at the pattern."""
    (problem,) = _failures("a[^b]{200}(?:c.{200}d|e.{200}f)", ["x"], ["x"])

    assert problem.startswith("signatures[0].pattern: ")


def test_too_large_together():
    """Signatures that fit alone and not together are refused, those that need most by name."""
    signatures = "".join(
        f"  - {{id: mining/{name}, class: mining, dialect: x, protocol: tcp, direction: client,\n"
        f"     pattern: '{name}.{{10}}{name}', description: d,\n"
        f"     examples: [{name}], counterexamples: [z]}}\n"
        for name in "abcdefgh"
    )
    loaded = load_files([("f.yaml", f"version: 1\nsignatures:\n{signatures}")])
    few = load_files([("f.yaml", f"version: 1\nsignatures:\n{signatures[: len(signatures) // 8]}")])
    check_together(few.signatures)

    with pytest.raises(PolicyError, match=r"^f\.yaml:3:5: .*mining/a"):
        check_together(loaded.signatures)


def test_names_of_strangers():
    """A name below which anybody buys names gives nothing away; one that a company shares may."""
    text = (
        "version: 1\nindicators:\n"
        "  - {id: mining/x, class: mining, dialect: x, dated: 2026-02-03,\n"
        "     names: [pool.example, com, co.uk, github.io, x.github.io, localhost]}\n"
    )
    (checked,) = check_signatures(load_files([("f.yaml", text)]))

    assert checked.rows == 6
    assert [error.key for error in checked.failures] == [
        f"indicators[0].names[{index}]" for index in (1, 2, 5)
    ]
    assert checked.failures[0].problem == (
        "expected a name of one owner, got com, below which anybody can have names"
    )
