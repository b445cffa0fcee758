# SPDX-License-Identifier: Apache-2.0
"""``agentwall policy`` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest
from rig.tree import ROOT

from agentwall.cli.main import main
from agentwall.policy.schema import json_schema

POLICY = """\
version: 1
name: p
allow:
  - {cidr: 10.20.0.0/24, ports: [8000-8010], note: servers}
deny:
  - cidr: 10.20.0.9
inbound:
  - {cidr: 10.20.0.1, ports: [8000]}
tests:
  - {to: "10.20.0.7:8000", expect: allow}
  - {to: "10.20.0.9:8000", expect: deny}
"""

DETECT = (
    "  detect  mining: block, tunnel: block, p2p: alert, scan: alert, dns_exfil: alert, "
    "beacon: alert"
)


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(POLICY)


def _write(name, text):
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)


def _run(capsys, *argv):
    code = main(["policy", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check(capsys):
    """A good policy is said to be valid, on stdout."""
    code, out, err = _run(capsys, "check", "p.yaml", "--strict")

    assert (code, err) == (0, "")
    assert out == "p.yaml: valid (1 allow, 1 deny, 1 inbound, 2 tests)\n"


def test_check_mentions_exceptions(capsys):
    """How many rules have exceptions is said beside the counts."""
    _write("e.yaml", "version: 1\nallow: [{cidr: 1.1.1.1, ports: [22], except: [tunnel/ssh]}]\n")
    _, out, _ = _run(capsys, "check", "e.yaml")

    assert out == "e.yaml: valid (1 allow, 0 deny, 0 inbound, 0 tests, 1 with exceptions)\n"


def test_check_knows_the_dialects(capsys):
    """An exception of a dialect that no signature has is a warning with what may be meant."""
    rule = "{cidr: 1.1.1.1, ports: [22], except: [tunnel/sshh]}"
    _write("e.yaml", f"version: 1\nallow: [{rule}]\ntests: [{{to: 1.1.1.1:22, expect: allow}}]\n")
    code, _, err = _run(capsys, "check", "--strict", "e.yaml")

    assert code == 1
    assert err == (
        "e.yaml:2:9: e:allow[0]: warning: no signature has the dialect tunnel/sshh; "
        "did you mean tunnel/ssh?\n"
    )


def test_check_prints_every_problem(capsys):
    """Everything wrong with each file is printed; the good ones are still checked."""
    _write("bad.yaml", "version: 2\nalow: []\n")
    code, out, err = _run(capsys, "check", "bad.yaml", "missing.yaml", "p.yaml")

    assert code == 2
    assert err.splitlines() == [
        "agentwall: bad.yaml:1:10: version: expected 1, got 2",
        "agentwall: bad.yaml:2:1: alow: unknown key; did you mean allow?",
        "agentwall: missing.yaml:1:1: cannot be read: no such file or directory",
    ]
    assert out.startswith("p.yaml: valid")


@pytest.mark.parametrize(("options", "expected"), [([], 0), (["--strict"], 1)])
def test_warnings(capsys, options, expected):
    """A warning counts under --strict only."""
    _write("w.yaml", "version: 1\n")
    code, out, err = _run(capsys, "check", *options, "w.yaml")

    assert code == expected
    assert err == "w.yaml:1:1: tests: warning: no tests: a change of the rules goes unnoticed\n"
    assert "valid" in out


def test_terminal_is_not_steered(capsys):
    """What a policy file holds cannot act on the terminal."""
    _write("\x1b[2J.yaml", 'version: 1\n"\\e[31m": x\nname: "\\e"\n')
    code, out, err = _run(capsys, "check", "\x1b[2J.yaml")

    assert code == 2
    assert "\x1b" not in out + err
    assert "\\x1b[2J.yaml:2:1: '\\x1b[31m': unknown key" in err


def test_test(capsys):
    """Rows that hold are counted."""
    code, out, err = _run(capsys, "test", "p.yaml")

    assert (code, out, err) == (0, "p.yaml: 2 of 2 tests passed\n", "")


def test_failed_row(capsys):
    """A row that fails says what decided, and fails the command."""
    _write("f.yaml", POLICY.replace('9:8000", expect: deny', '9:8000", expect: allow'))
    code, out, err = _run(capsys, "test", "f.yaml", "p.yaml")

    assert code == 1
    assert err == (
        "f.yaml:11:5: tcp/10.20.0.9:8000: expected allow, got deny (p:deny[0] at f.yaml:6:11)\n"
    )
    assert out.splitlines() == ["f.yaml: 1 of 2 tests passed", "p.yaml: 2 of 2 tests passed"]


def test_rows_with_names(capsys):
    """A row with a name is judged as if the name had resolved to some address outside."""
    _write(
        "n.yaml",
        "version: 1\n"
        "dns: {servers: [10.20.0.2]}\n"
        "allow:\n"
        '  - {host: "*.example.com"}\n'
        "tests:\n"
        '  - {to: "Hub.Example.com:443", expect: allow}\n'
        '  - {to: "hub.example.com:80", expect: deny}\n'
        '  - {to: "example.com:443", expect: allow}\n'
        '  - {to: "udp/10.20.0.2:53", expect: allow}\n'
        '  - {to: "cdn.example.com:443", expect: deny}\n',
    )
    code, out, err = _run(capsys, "test", "n.yaml")

    assert (code, out) == (1, "n.yaml: 3 of 5 tests passed\n")
    assert err.splitlines() == [
        "n.yaml:8:5: tcp/example.com:443: expected allow, got deny (no rule matches)",
        "n.yaml:10:5: tcp/cdn.example.com:443: expected deny, got allow "
        "(n:allow[0] at n.yaml:4:12)",
    ]


def test_test_of_invalid_policy(capsys):
    """An invalid policy outweighs a failed row."""
    _write("bad.yaml", "")
    _write("f.yaml", POLICY.replace("expect: deny", "expect: allow"))
    code, _, _ = _run(capsys, "test", "bad.yaml", "f.yaml")

    assert code == 2


@pytest.mark.parametrize(
    ("argv", "expected", "lines"),
    [
        (
            ["10.20.0.7:8000"],
            0,
            [
                "allow  out tcp/10.20.0.7:8000",
                "  rule    p:allow[0]: 10.20.0.0/24, tcp/8000-8010",
                "  at      p.yaml:4:12",
                "  note    servers",
                DETECT,
            ],
        ),
        (
            ["[::ffff:10.20.0.9]:8000"],
            1,
            [
                "deny  out tcp/10.20.0.9:8000",
                "  rule    p:deny[0]: 10.20.0.9/32, everything",
                "  at      p.yaml:6:11",
                "  permit  no allow can undo it: denied by p:deny[0]",
            ],
        ),
        (
            ["udp/8.8.8.8:53"],
            1,
            [
                "deny  out udp/8.8.8.8:53",
                "  reason  no rule matches",
                "  permit  under allow: - {cidr: 8.8.8.8, ports: [udp/53]}",
            ],
        ),
        (
            ["10.20.0.1:40000", "--direction", "in", "--local-port", "8000"],
            0,
            [
                "allow  in tcp/10.20.0.1:40000",
                "  rule    p:inbound[0]: 10.20.0.1/32, tcp/8000",
                "  at      p.yaml:8:12",
                DETECT,
            ],
        ),
        (
            ["10.20.0.2:8000", "--direction", "in"],
            1,
            [
                "deny  in tcp/10.20.0.2:8000",
                "  reason  no rule matches",
                "  permit  under inbound: - {cidr: 10.20.0.2, ports: [8000]}",
            ],
        ),
    ],
)
def test_explain(capsys, argv, expected, lines):
    """The deciding rule and its place, or the line that would permit."""
    code, out, err = _run(capsys, "explain", "-p", "p.yaml", *argv)

    assert (code, err) == (expected, "")
    assert out.splitlines() == lines


@pytest.mark.parametrize(
    "argv",
    [
        ["explain", "-p", "p.yaml", "nowhere"],
        ["explain", "-p", "p.yaml", "hub..example.com:443"],
        ["explain", "-p", "p.yaml", "hub.example.com:443", "--direction", "in"],
        ["explain", "-p", "p.yaml"],
        ["explain", "10.0.0.1:1"],
        ["explain", "-p", "missing.yaml", "10.0.0.1:1"],
        ["explain", "-p", ".", "10.0.0.1:1"],
        ["check"],
        ["test"],
        ["learn"],
        ["diff"],
    ],
)
def test_wrong_usage(capsys, argv):
    """Wrong usage and invalid policies are exit code 2, with a reason and without a traceback."""
    code, out, err = _run(capsys, *argv)

    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err


PHASED = """\
version: 1
name: p
allow:
  - {cidr: 10.20.0.7, ports: [8000]}
phases:
  setup:
    allow: [{cidr: 10.30.0.1, ports: [443]}]
  agent:
    deny: [{cidr: 10.20.0.7}]
tests:
  - {to: "10.30.0.1:443", expect: allow}
  - {to: "10.20.0.7:8000", expect: allow}
"""


def test_check_of_phases(capsys):
    """Phases are listed; with --phase the warnings are those of one."""
    _write("p.yaml", PHASED)
    code, out, err = _run(capsys, "check", "p.yaml", "--strict")
    alone, _, warning = _run(capsys, "check", "p.yaml", "--strict", "--phase", "agent")

    assert (code, err) == (0, "")
    assert out == "p.yaml: valid (1 allow, 0 deny, 0 inbound, 2 tests, phases setup, agent)\n"
    assert alone == 1
    assert "p:allow[0]: warning: allows nothing: p:phases.agent.deny[0] denies all of" in warning


def test_test_of_phases(capsys):
    """Rows are judged in the first phase, or in the one that is asked for."""
    _write("p.yaml", PHASED)
    code, out, err = _run(capsys, "test", "p.yaml")
    failed, told, why = _run(capsys, "test", "p.yaml", "--phase", "agent")

    assert (code, out, err) == (0, "p.yaml: 2 of 2 tests passed in phase setup\n", "")
    assert (failed, told) == (1, "p.yaml: 0 of 2 tests passed in phase agent\n")
    assert "10.20.0.7:8000: expected allow, got deny (p:phases.agent.deny[0] at p.yaml:9:19)" in why


def test_explain_in_phases(capsys):
    """The rules of the phase decide, and the phase is named."""
    _write("p.yaml", PHASED)
    code, out, _ = _run(capsys, "explain", "-p", "p.yaml", "10.20.0.7:8000", "--phase", "agent")
    first, _, _ = _run(capsys, "explain", "-p", "p.yaml", "10.30.0.1:443")
    _, text, _ = _run(capsys, "explain", "-p", "p.yaml", "1.1.1.1:1", "--format", "json")

    assert code == 1
    assert "  rule    p:phases.agent.deny[0]: 10.20.0.7/32" in out
    assert "  phase   agent\n" in out
    assert first == 0
    assert json.loads(text)["phase"] == "setup"


@pytest.mark.parametrize(
    "argv", [("check", "p.yaml"), ("test", "p.yaml"), ("explain", "-p", "p.yaml", "1.1.1.1:1")]
)
def test_unknown_phase(capsys, argv):
    """A phase that the policy does not have is wrong usage, with those it has."""
    _write("p.yaml", PHASED)
    code, out, err = _run(capsys, *argv, "--phase", "x")

    assert (code, out) == (2, "")
    assert err == "agentwall: phase of p: expected one of setup, agent, got 'x'\n"


def test_schema(capsys):
    """The schema is printed as it is."""
    code, out, _ = _run(capsys, "schema")

    assert (code, out) == (0, json_schema())


def test_shipped_policies_from_the_command_line(capsys):
    """The examples are valid without a warning, and pass their tests."""
    found = sorted((ROOT / "policies").rglob("*.yaml"))
    paths = [str(path) for path in found if path.parent.name != "signatures"]

    assert _run(capsys, "check", "--strict", *paths)[0] == 0
    assert _run(capsys, "test", *paths)[0] == 0


def _in_terminal(*argv):
    """Run a command whose stdout is a terminal; return what it showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    subprocess.run(
        [sys.executable, "-m", "agentwall", "policy", *argv],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment,
        timeout=300,
        check=False,
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    return shown.decode()


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: closed on Linux
        return b""


def test_colour_only_on_terminals(capsys):
    """A terminal gets colour, a pipe plain text."""
    argv = ["explain", "-p", "p.yaml", "8.8.8.8:53"]
    _, piped, _ = _run(capsys, *argv)

    assert "\x1b[31m" in _in_terminal(*argv)
    assert "\x1b" not in piped
