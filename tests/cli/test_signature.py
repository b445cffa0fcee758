# SPDX-License-Identifier: Apache-2.0
"""``agentwall signature`` as a user runs it, and ``policy check`` of signature files."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from rig.tree import ROOT

from agentwall.cli.main import main
from agentwall.cli.signature import response_by_default
from agentwall.detect.signature_load import load_signatures
from agentwall.host import kept_files, signature_files
from agentwall.sinks.pretty import make_console

SHIPPED = ROOT / "policies" / "signatures"
GOOD = """\
version: 1
signatures:
  - {id: p2p/one, class: p2p, dialect: one, protocol: tcp, direction: either, pattern: '^one',
     description: d, examples: [one], counterexamples: [two, none]}
  - {id: tunnel/two, class: tunnel, dialect: two, protocol: udp, direction: client,
     pattern: '^two', description: "d\\u202e", examples: [two], counterexamples: [one]}
indicators:
  - {id: mining/three, class: mining, dialect: pool, confidence: medium, dated: 2026-11-29,
     names: [a.example, b.example]}
"""


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    """Files of the test's own, and nothing else in force."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signature_files, "SITE_SIGNATURES", tmp_path / "site")
    monkeypatch.setattr(signature_files, "shipped_signatures", lambda: tmp_path / "shipped")
    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", tmp_path / "cache")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "good.yaml").write_text(GOOD)


def _run(capsys, *argv):
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ls(capsys):
    """A line for each signature and list, sorted, with what follows on a match by default."""
    code, out, err = _run(capsys, "signature", "ls", "--signatures", "good.yaml")
    rows = [line.split() for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert rows[0][:4] == ["id", "class", "dialect", "protocol"]
    assert rows[2:] == [
        ["p2p/one", "p2p", "one", "tcp", "either", "high", "stable", "alert"],
        ["tunnel/two", "tunnel", "two", "udp", "client", "high", "stable", "block"],
        ["mining/three", "mining", "pool", "name", "client", "medium", "2026-11-29", "alert"],
        ["2", "signatures,", "2", "names", "in", "1", "lists"],
    ]
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_ls_is_whole_in_a_pipe(capsys):
    """Nothing of the shipped signatures is cut where stdout is no terminal."""
    code, out, _ = _run(capsys, "signature", "ls", "--signatures", str(SHIPPED))

    assert code == 0
    assert "mining/stratum" in out
    assert "\u2026" not in out


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(140, None), (120, "direction"), (80, "class, protocol, direction, maturity")],
)
def test_ls_in_a_terminal(capsys, monkeypatch, width, left_out):
    """No cell is cut: a narrow terminal goes without columns, and is told which."""
    for module in ("agentwall.cli.signature", "agentwall.cli.control"):
        command = importlib.import_module(module)
        monkeypatch.setattr(command, "console", lambda: make_console(sys.stdout, width=width))
    code, out, _ = _run(capsys, "signature", "ls", "--signatures", str(SHIPPED))
    heading, _, *rows = out.splitlines()
    told = [row for row in rows if row.startswith("left out")]

    assert code == 0
    assert "\u2026" not in out
    assert heading.startswith("id ")
    assert heading.endswith(" by default")
    assert told == ([f"left out in this terminal: {left_out}"] if left_out else [])
    assert max(map(len, rows)) <= width


def test_ls_of_a_class(capsys):
    """--class leaves the others out."""
    (shipped := signature_files.shipped_signatures() / "a.yaml").write_text(GOOD)
    code, out, _ = _run(capsys, "signature", "ls", "--class", "tunnel", "--format", "json")
    document = json.loads(out)

    assert code == 0
    assert document["schema"] == "agentwall.signatures/1"
    assert document["indicators"] == []
    assert document["signatures"] == [
        {
            "id": "tunnel/two",
            "class": "tunnel",
            "dialect": "two",
            "severity": "high",
            "confidence": "high",
            "by_default": "block",
            "file": f"shipped/{shipped.name}",
            "line": 5,
            "protocol": "udp",
            "direction": "client",
            "maturity": "stable",
            "hand_over": False,
            "description": "d\u202e",
            "references": [],
            "pattern": "^two",
        }
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", "block"),
        ("confidence: low,", "alert"),
        ("maturity: experimental,", "alert"),
        ("hand_over: true,", "decode"),
    ],
)
def test_response_by_default(change, expected):
    """Only what is sure and stable blocks; what hands over is for decoders."""
    text = GOOD.replace("pattern: '^two',", f"pattern: '^two', {change}")
    (found,) = load_signatures([("f", text)]).signatures[1:]

    assert response_by_default(found) == expected


def test_ls_of_a_bad_file(capsys):
    """An invalid file ends with 2 and its places."""
    (signature_files.shipped_signatures() / "a.yaml").write_text("version: 1\nx: 1\ny: 2\n")
    code, out, err = _run(capsys, "signature", "ls")

    assert (code, out) == (2, "")
    assert err.count("agentwall: shipped/a.yaml:") == 2


def test_test(capsys):
    """Rows that are as they should be are counted, names among them."""
    code, out, err = _run(capsys, "signature", "test", "good.yaml")

    assert (code, err) == (0, "")
    assert out == "3 signatures and lists, 7 of 7 examples as they should be\n"


@pytest.mark.parametrize("argv", [(), ("shipped",), ("shipped/a.yaml", "good.yaml")])
def test_test_fails(capsys, argv):
    """A row that is not as it should be is told with its place; it ends with 1."""
    text = GOOD.replace("two, none", "'one'").replace("/one", "/x").replace("/two", "/y")
    path = signature_files.shipped_signatures() / "a.yaml"
    path.write_text(text.replace("/three", "/z"))
    code, out, err = _run(capsys, "signature", "test", *argv)

    assert code == 1
    assert err == (
        "agentwall: shipped/a.yaml:4:57: signatures[0].counterexamples[0]: expected no match, got "
        "one\n"
    )
    assert " examples as they should be\n" in out


def test_test_of_a_bad_file(capsys):
    """A file that is missing or invalid ends with 2."""
    code, out, err = _run(capsys, "signature", "test", "none.yaml")

    assert (code, out) == (2, "")
    assert err == "agentwall: none.yaml:1:1: cannot be read: no such file or directory\n"


def test_policy_check(capsys):
    """policy check knows a signature file by its keys, and policies beside it."""
    (signature_files.SITE_SIGNATURES.parent / "p.yaml").write_text(
        'version: 1\ntests: [{to: "1.1.1.1:1", expect: deny}]\n'
    )
    code, out, err = _run(capsys, "policy", "check", "good.yaml", "p.yaml")

    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "good.yaml: 3 signatures and lists, 7 of 7 examples as they should be"
    assert second.startswith("p.yaml: valid")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("'^two'", "'^(two'", "good.yaml:6:1"),
        ("examples: [two]", "examples: [tow]", "good.yaml:6:58: signatures[1].examples[0]: "),
        ("version: 1", "version: 7", "good.yaml:1:10: version: expected 1, got 7"),
    ],
)
def test_policy_check_of_a_bad_file(capsys, tmp_path, old, new, expected):
    """An invalid signature file, or one whose examples are wrong, ends with 2."""
    (tmp_path / "good.yaml").write_text(GOOD.replace(old, new))
    code, _, err = _run(capsys, "policy", "check", "good.yaml")

    assert code == 2
    assert err.startswith(f"agentwall: {expected}")


@pytest.mark.parametrize(
    "path", [SHIPPED, *sorted(SHIPPED.glob("*.yaml"))], ids=lambda path: path.name
)
def test_shipped_signatures(capsys, path):
    """Every shipped signature finds its examples and nothing else, and all fit together."""
    code, _, err = _run(capsys, "signature", "test", str(path))

    assert (code, err) == (0, "")
