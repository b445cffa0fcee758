# SPDX-License-Identifier: Apache-2.0
"""``agentwall policy learn`` on real files, and on the events of a real run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rig.cli import run_agentwall
from rig.records import (
    DENIED,
    FINISHED,
    SANDBOX,
    START_NS,
    STARTED,
    UDP,
    endpoint,
    flow,
    permitted,
    rome_day,
    state,
    write_log,
)

from agentwall.cli.main import main
from agentwall.flow.record import GapRecord
from agentwall.flow.verdict import Reason, ReasonCode

OBSERVED = Reason(code=ReasonCode.OBSERVED)
DNS = permitted(reason=OBSERVED, remote=endpoint("10.20.0.2", 53, UDP), protocol=UDP)
HUB = permitted(reason=OBSERVED, name="hub.example.com")
GAP = GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=5, where="flows", lost=2)


@pytest.fixture
def log(tmp_path):
    """A function that writes a log of the records between a start and an end."""

    def write(*records, name: str = "e.jsonl") -> str:
        return str(write_log(tmp_path / name, [STARTED, *records, FINISHED]))

    return write


def learn(*arguments: str) -> int:
    return main(["policy", "learn", *arguments])


def test_stdout(log, capsys):
    """The policy goes to stdout, and nothing to stderr."""
    code = learn(log(DNS, HUB))

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["allow"] == [{"host": "hub.example.com"}]
    assert "coverage of run-7f3a was partial" in out


def test_check_and_test_pass(log, tmp_path, capsys):
    """What is learned passes policy check and its own tests."""
    target = str(tmp_path / "learned.yaml")

    assert learn(log(DNS, HUB, permitted(reason=OBSERVED)), "-o", target) == 0
    assert main(["policy", "check", "--strict", target]) == 0
    assert main(["policy", "test", target]) == 0
    assert "4 of 4 tests passed" in capsys.readouterr().out


def test_no_overwriting(log, tmp_path, capsys):
    """A file that exists stays as it is unless --force says otherwise."""
    target = tmp_path / "learned.yaml"
    target.write_text("mine\n", encoding="ascii")
    events = log(DNS, HUB)

    assert learn(events, "-o", str(target)) == 2
    assert "the file exists" in capsys.readouterr().err
    assert target.read_text(encoding="ascii") == "mine\n"
    assert learn(events, "-o", str(target), "--force") == 0
    assert "hub.example.com" in target.read_text(encoding="ascii")


def test_unwritable(log, tmp_path, capsys):
    """A place that cannot be written is wrong usage, and says why."""
    assert learn(log(HUB), "-o", str(tmp_path / "none" / "x.yaml")) == 2
    assert "No such file" in capsys.readouterr().err


def test_several_files(log, capsys):
    """Files merge; one that is named twice counts once; their order does not matter."""
    one, other = log(DNS, HUB), log(HUB, permitted(reason=OBSERVED), name="f.jsonl")

    assert learn(one, other, one) == 0
    first = capsys.readouterr().out
    assert learn(other, one) == 0
    assert capsys.readouterr().out == first
    assert "# 2 flows by curl" in first


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([HUB, GAP, FINISHED], "2 events lost (flows)"),
        ([HUB], "no finish record"),
        ([HUB, state("damaged", {"what": "a hook"}), FINISHED], "damaged: a hook"),
    ],
)
def test_gaps(tmp_path, capsys, records, says):
    """A log of which parts are missing is refused; told to, it is learned from and says so."""
    path = str(write_log(tmp_path / "e.jsonl", [STARTED, *records]))

    assert learn(path) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "--allow-gaps" in err
    assert learn(path, "--allow-gaps") == 0
    out = capsys.readouterr().out
    assert says in out
    assert "198.51.100.10" in out


def altered(path: str, change) -> str:
    lines = Path(path).read_bytes().splitlines(keepends=True)
    Path(path).write_bytes(b"".join(change(lines)))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [lines[0], *lines[2:]], "chain broken"),
        (lambda lines: lines[1:], "does not begin here"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "cut short"),
        (lambda lines: [lines[0].replace(b"partial", b"portion"), *lines[1:]], "chain broken"),
        (
            lambda lines: [
                *lines,
                json.dumps({"schema": "agentwall.event/9", "kind": "detection"}).encode() + b"\n",
            ],
            "schema: expected agentwall.event/1",
        ),
    ],
)
def test_damage(log, capsys, change, says):
    """A log that was altered or cut, or says what is not understood, is refused unless told."""
    path = altered(log(DNS, HUB), change)

    assert learn(path) == 2
    assert says in capsys.readouterr().err
    assert learn(path, "--allow-gaps") == 0
    out = capsys.readouterr().out
    assert "# note: " in out
    assert says in out


def test_many_gaps_are_counted(log, capsys):
    """A log full of gaps does not fill the screen."""
    assert learn(log(*[GAP] * 50, HUB)) == 2
    assert "and 30 more gaps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--scan", "1"], ["--wildcards", "1"], ["--no-such-option"], []]
)
def test_usage(arguments, capsys):
    """Wrong usage is 2."""
    assert learn(*arguments) == 2
    assert capsys.readouterr().err


def test_not_events(tmp_path, capsys):
    """A file without events is bad input, whatever is allowed."""
    path = tmp_path / "x"
    path.write_text("hello\n", encoding="ascii")

    assert learn(str(path), "--allow-gaps") == 2
    assert "expected events" in capsys.readouterr().err


def test_nothing_to_learn(log, tmp_path, capsys):
    """Where nothing needs a rule there is no policy: 1, no file, and what was left out is told."""
    target = tmp_path / "x.yaml"

    assert learn(log(flow(reason=DENIED)), "-o", str(target)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "left out: deny: rl-rollout:deny[0]: 1" in err
    assert "nothing to learn" in err
    assert not target.exists()


def test_a_day_gone_astray(tmp_path, capsys):
    """Of an agent that scans, tunnels and mines only what the policy had permitted is learned."""
    path = str(write_log(tmp_path / "day.jsonl", rome_day()))

    assert learn(path, "--allow-gaps") == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["allow"] == [{"cidr": "198.51.100.10", "ports": [443]}]
    assert "#   tcp/22 of 30 addresses, 10.20.0.1 to 10.20.0.30: 30 flows by nmap" in out

    assert learn(path, "--allow-gaps", "--include-denied") == 0
    wider = {rule["cidr"] for rule in yaml.safe_load(capsys.readouterr().out)["allow"]}
    assert "203.0.113.99" in wider
    assert wider.isdisjoint({"10.20.0.1", "10.20.0.9", "169.254.169.254"})


def test_options_arrive(log, capsys):
    """--wildcards and --scan reach what learns."""
    names = [replace(HUB, name=f"{label}.cdn.example.com") for label in "ab"]
    hosts = [
        permitted(reason=OBSERVED, remote=endpoint(f"192.0.2.{host}", 22)) for host in (1, 2, 3)
    ]
    path = log(DNS, *names, *hosts)

    assert learn(path, "--wildcards", "2", "--scan", "3") == 0
    assert yaml.safe_load(capsys.readouterr().out)["allow"] == [{"host": "*.cdn.example.com"}]


OBSERVE = "version: 1\nmode: observe\nallow:\n  - {cidr: 192.0.2.9, ports: [1]}\n"
TALK = (
    "import socket\n"
    "s = socket.socket(); s.settimeout(0.2)\n"
    "try: s.connect(('192.0.2.1', 4444))\n"
    "except OSError: pass\n"
    "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "try: u.sendto(b'x', ('192.0.2.2', 5005))\n"
    "except OSError: pass\n"
)


@pytest.mark.kernel
def test_from_an_observed_run(tmp_path):
    """What a real run was seen to do is what the learned policy then permits, and enforces."""
    (tmp_path / "observe.yaml").write_text(OBSERVE, encoding="ascii")
    (tmp_path / "talk.py").write_text(TALK, encoding="ascii")

    def agentwall(*words: str):
        return run_agentwall(*words, cwd=tmp_path)

    talk = ("--", "python3", "talk.py")
    seen = agentwall("run", "-p", "observe.yaml", "--events", "e.jsonl", *talk)
    learned = agentwall("policy", "learn", "e.jsonl", "-o", "learned.yaml")
    tested = agentwall("policy", "test", "learned.yaml")
    again = agentwall("run", "-p", "learned.yaml", "--events", "f.jsonl", "--fail-on", "low", *talk)
    stranger = agentwall(
        *("run", "-p", "learned.yaml", "--events", "g.jsonl", "--fail-on", "low", "--"),
        *("python3", "-c", TALK.replace("4444", "4445")),
    )

    assert (seen.returncode, learned.returncode, tested.returncode) == (0, 0, 0), learned.stderr
    document = yaml.safe_load((tmp_path / "learned.yaml").read_text(encoding="ascii"))
    assert document["allow"] == [
        {"cidr": "192.0.2.1", "ports": [4444]},
        {"cidr": "192.0.2.2", "ports": ["udp/5005"]},
    ]
    assert again.returncode == 0, again.stderr
    assert stranger.returncode == 86
