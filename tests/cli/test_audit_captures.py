# SPDX-License-Identifier: Apache-2.0
"""``agentwall audit`` on captures: mining, benign, broken, compressed, piped, under a policy."""

from __future__ import annotations

import gzip
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from capture.making import SERVER, ethernet, handshake, ip, pcap, say, udp
from rig.records import rome_day, write_log
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from agentwall.cli.main import main

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["tester/1.0"]}\n'
ANSWER = b'{"id":1,"result":[[["mining.notify","ae6812eb4cd7735a"]],"08000002",4],"error":null}\n'
PAGE = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
POLICY = """\
version: 1
name: lab
allow:
  - {{cidr: {server}, ports: [{ports}]{more}}}
"""


def talk(client: bytes, server: bytes = b"", port: int = 40000, service: int = 3333):
    """Return the packets of a TCP flow in which each side says something."""
    ports = (port, service)
    return [
        *handshake(ports=ports),
        say(client, sequence=1001, ports=ports),
        say(server, back=True, sequence=5001, ports=ports),
    ]


@pytest.fixture
def mining(tmp_path):
    path = tmp_path / "mining.pcap"
    path.write_bytes(pcap(talk(SUBSCRIBE, ANSWER)))
    return str(path)


@pytest.fixture
def benign(tmp_path):
    path = tmp_path / "benign.pcap"
    path.write_bytes(pcap(talk(PAGE, b"HTTP/1.1 200 OK\r\n\r\n", service=80)))
    return str(path)


def policy(tmp_path, ports="3333", more=""):
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.format(server=SERVER, ports=ports, more=more))
    return str(path)


def audit_json(capsys, *arguments: str):
    code = main(["audit", *arguments, "--format", "json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_mining_is_found(mining, capsys):
    """One flow, one finding, exit code 1: class, signature, dialect, flow and what was said."""
    code, document, _ = audit_json(capsys, mining)

    (found,) = document["findings"]
    assert (code, document["captures"], document["events"]) == (1, 1, 0)
    assert (found["source"], found["class"], found["dialect"]) == (
        *(mining, "mining"),
        "stratum-v1",
    )
    assert (found["severity"], found["confidence"]) == ("high", "high")
    assert found["flow"]["remote"] == {"address": SERVER, "port": 3333, "name": None}
    assert found["flow"]["bytes_out"] == len(SUBSCRIBE)
    assert found["at"].startswith("2023-11-14T22:13:20")
    assert "mining.subscribe" in found["evidence"]["excerpt"]
    assert (found["verdict"], found["remedy"]) == (None, None)
    assert (document["denials"], document["permitted"]) == ([], [])


def test_benign_is_clean(benign, capsys):
    """Nothing found is exit code 0, and said."""
    code = main(["audit", benign])

    out = capsys.readouterr().out
    assert code == 0
    assert "1 capture (5 packets, 1 flow) from" in " ".join(out.split())
    assert "Nothing was found" in out
    assert "denied" not in out


@pytest.mark.parametrize(("fail_on", "code"), [("high", 1), ("critical", 0), ("never", 0)])
def test_fail_on(mining, fail_on, code):
    """Findings count from the named severity on."""
    assert main(["audit", mining, "--fail-on", fail_on]) == code


def test_one_byte_a_segment(tmp_path, capsys):
    """However it is cut up, it is one message; scapy made this one."""
    head = Ether() / IP(src="10.0.0.5", dst="203.0.113.9")
    packets = [head / TCP(sport=40000, dport=443, flags="S", seq=99)]
    packets += [
        head / TCP(sport=40000, dport=443, flags="A", seq=100 + at) / Raw(SUBSCRIBE[at : at + 1])
        for at in range(len(SUBSCRIBE))
    ]
    path = tmp_path / "split.pcap"
    wrpcap(str(path), packets)
    code, document, _ = audit_json(capsys, str(path))

    assert code == 1
    assert {found["class"] for found in document["findings"]} == {"mining"}


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("cut.pcap", lambda data: data[:-7], "record cut short"),
        ("empty.pcap", lambda data: b"", "empty file"),
        ("magic.pcap", lambda data: b"\x7fELF" + data[4:], "expected pcap or pcapng, got a file"),
        ("long.pcap", lambda data: data[:32] + b"\xff\xff\xff\xff" + data[36:], "record length"),
        ("cut.pcap.gz", lambda data: gzip.compress(data)[:-9], "gzip data ends"),
    ],
)
def test_broken_captures(tmp_path, mining, name, damage, problem, capsys):
    """A broken capture is an entry in errors, and the others are judged."""
    path = tmp_path / name
    path.write_bytes(damage(Path(mining).read_bytes()))

    code, document, err = audit_json(capsys, str(path), mining)

    (error,) = document["errors"]
    assert (code, err) == (1, "")
    assert (error["source"], error["severity"], error["damage"]) == (str(path), "low", "capture")
    assert error["problem"].startswith(problem)
    assert mining in {found["source"] for found in document["findings"]}


def test_compressed(tmp_path, mining, capsys):
    """A gzipped capture is one, whatever it is called."""
    path = tmp_path / "x.bin"
    path.write_bytes(gzip.compress(Path(mining).read_bytes()))

    code, document, _ = audit_json(capsys, str(path))

    assert (code, len(document["findings"])) == (1, 1)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_stdin(mining, pack):
    """A dash reads a capture from stdin, compressed or not."""
    done = subprocess.run(
        [sys.executable, "-m", "agentwall", "audit", "-", "--format", "json"],
        input=pack(Path(mining).read_bytes()),
        capture_output=True,
        timeout=300,
        check=False,
    )
    document = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (1, b"")
    assert [found["source"] for found in document["findings"]] == ["stdin"]


def test_a_directory_of_both(tmp_path, mining, benign, capsys):
    """Event files and captures are told apart; what is neither is left alone."""
    write_log(tmp_path / "day.jsonl", rome_day())
    (tmp_path / "below").mkdir()
    Path(benign).rename(tmp_path / "below" / "noname")
    (tmp_path / "notes.txt").write_text("not a capture")

    code, document, err = audit_json(capsys, str(tmp_path))

    assert (code, err) == (1, "")
    assert (document["captures"], document["events"]) == (2, len(rome_day()))
    assert {found["class"] for found in document["findings"]} == {"mining", "scan"}
    assert document["totals"]["denied"] == 51


def test_probing_is_found_in_an_event_file(tmp_path, capsys):
    """ROME's probing of the internal network shows without a daemon having watched it."""
    path = write_log(tmp_path / "day.jsonl", rome_day())

    code, document, _ = audit_json(capsys, str(path), "--fail-on", "high")

    (found,) = document["findings"]
    assert (code, found["class"], found["dialect"]) == (1, "scan", "scan-horizontal")
    assert found["evidence"]["private"] >= 30


@pytest.mark.parametrize(
    ("ports", "more", "outcomes", "denied"),
    [
        ("3333", "", [("would-deny", "block")], 0),
        ("3333", ", except: [mining/stratum-v1]", [], 0),
        ("443", "", [("would-deny", "block")], 1),
    ],
)
def test_a_policy(tmp_path, mining, ports, more, outcomes, denied, capsys):
    """Every flow is judged, and what was found by detect and the permitting rule's except."""
    code, document, _ = audit_json(capsys, mining, "--policy", policy(tmp_path, ports, more))

    found = document["findings"]
    assert [(each["verdict"], each["response"]) for each in found] == outcomes
    assert len(document["denials"]) == denied
    assert document["totals"]["would_denied"] == denied
    assert document["totals"]["permitted"] == 1 - denied
    assert code == int(bool(outcomes or denied))


def test_a_denial_of_a_capture(tmp_path, mining, capsys):
    """It names the client, the destination and the line that would permit it."""
    main(["audit", mining, "--policy", policy(tmp_path, "443")])

    out = " ".join(capsys.readouterr().out.split())
    assert "1 would be denied" in out
    assert f"tcp {SERVER}:3333" in out
    assert "192.0.2.10" in out
    assert "ports: [3333]}" in out
    assert "found by its signature; the" in out


def test_detect_off(tmp_path, mining, capsys):
    """What the policy does not look for is not told."""
    path = Path(policy(tmp_path))
    path.write_text(path.read_text() + "detect: {mining: off}\n")

    code, document, _ = audit_json(capsys, mining, "--policy", str(path))

    assert (code, document["findings"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--process", "x"), "--process: expected event files, got captures, which do not tell"),
        (("--verdict", "deny"), "--verdict: expected --policy with it"),
        (("--policy", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("--signatures", "/nonexistent.yaml"), "/nonexistent.yaml"),
    ],
)
def test_what_makes_no_sense(mining, arguments, problem, capsys):
    """An option that means nothing for captures is wrong usage, not a clean report."""
    code = main(["audit", mining, *arguments])

    captured = capsys.readouterr()
    assert code == 2
    assert problem in captured.err
    assert "Nothing" not in captured.out


def test_verdicts_under_a_policy(tmp_path, mining, capsys):
    """With a policy captures have verdicts, and filters hold for them."""
    path = policy(tmp_path)
    _, allowed, _ = audit_json(capsys, mining, "--policy", path, "--verdict", "allow")
    _, denied, _ = audit_json(capsys, mining, "--policy", path, "--verdict", "deny")

    assert (len(allowed["findings"]), allowed["totals"]["permitted"]) == (0, 1)
    assert (len(denied["findings"]), denied["totals"]["permitted"]) == (1, 0)


@pytest.mark.parametrize(("since", "count"), [("2023-01-01T00:00:00Z", 1), ("1h", 0)])
def test_since(mining, since, count, capsys):
    """What had ended before is left out."""
    _, document, _ = audit_json(capsys, mining, "--since", since)

    assert len(document["findings"]) == count


def test_further_signatures(tmp_path, benign, capsys):
    """A file of one's own adds what is looked for."""
    path = tmp_path / "own.yaml"
    path.write_text(
        "version: 1\nsignatures:\n"
        "  - {id: tunnel/own, class: tunnel, dialect: own, protocol: tcp, direction: client,\n"
        "     pattern: '^GET / HTTP', description: d, examples: ['GET / HTTP/1.1'],\n"
        "     counterexamples: [PUT]}\n"
    )
    code, document, _ = audit_json(capsys, benign, "--signatures", str(path))

    assert code == 1
    assert [found["signature"] for found in document["findings"]] == ["tunnel/own"]


def test_many_flows_of_one_miner(tmp_path, capsys):
    """A document has every flow; people get one row with a count."""
    packets = [p for port in range(40000, 40012) for p in talk(SUBSCRIBE, ANSWER, port)]
    path = tmp_path / "many.pcap"
    path.write_bytes(pcap(packets))
    _, document, _ = audit_json(capsys, str(path))
    main(["audit", str(path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "mining (stratum" in line]

    assert len(document["findings"]) == 12
    (line,) = lines
    assert line.split()[:2] == ["high", "12"]


def test_dns_questions_under_a_policy(tmp_path, capsys):
    """A question for a name that no rule permits would be refused by name."""
    question = b"\0\7\1\0\0\1\0\0\0\0\0\0\4evil\7example\3net\0\0\1\0\1"
    path = tmp_path / "dns.pcap"
    path.write_bytes(pcap([ethernet(ip(udp(question), 17))]))
    rules = tmp_path / "dns.yaml"
    rules.write_text(
        f"version: 1\nname: lab\ndns: {{servers: [{SERVER}]}}\n"
        "allow:\n  - {host: good.example.org}\n"
    )
    _, document, _ = audit_json(capsys, str(path), "--policy", str(rules))

    (denial,) = document["denials"]
    assert denial["question"] == {"name": "evil.example.net", "type": "A"}
    assert denial["reason"]["code"] == "question"
    assert denial["permit"] == "under allow: - {host: evil.example.net}"


def test_a_terminal_shows_progress(tmp_path):
    """On a terminal a large capture shows how far it is; nothing of that stays in the report."""
    path = tmp_path / "large.pcap"
    path.write_bytes(pcap(say(b"x" * 1400, sequence=at) for at in range(4000)))
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    report = tmp_path / "report.json"
    with (
        report.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "agentwall", "audit", str(path), "--format", "json"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=slave,
            env=environment,
        ),
    ):
        os.close(slave)
        # To its end: a terminal that nobody reads takes so much and no more.
        shown = b"".join(iter(lambda: _read(master), b""))
    os.close(master)

    assert json.loads(report.read_bytes())["captures"] == 1
    assert b"large.pcap" in shown


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # EIO: closed on Linux
        return b""
