# SPDX-License-Identifier: Apache-2.0
"""What ``agentwall policy explain`` says of addresses and names."""

from __future__ import annotations

import json

import pytest

from agentwall.cli.main import main

POLICY = """\
version: 1
name: p
dns: {servers: [10.20.0.2], search: [svc.example]}
allow:
  - {host: "**.cdn.example.com", note: the hub}
  - {host: ssh.example.com, ports: [22], sni: optional}
  - {cidr: any, ports: [8443]}
  - {proxy: 10.0.0.5, ports: [3128]}
deny:
  - {host: bad.cdn.example.com}
"""

DETECT = (
    "  detect  mining: block, tunnel: block, p2p: alert, scan: alert, dns_exfil: alert, "
    "beacon: alert"
)


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(POLICY)


def _explain(capsys, *argv):
    code = main(["policy", "explain", "-p", "p.yaml", *argv])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out


@pytest.mark.parametrize(
    ("to", "expected", "lines"),
    [
        (
            "a.b.cdn.example.com:443",
            0,
            [
                "allow  out tcp/a.b.cdn.example.com:443",
                "  rule    p:allow[0]: **.cdn.example.com, tcp/443",
                "  at      p.yaml:5:12",
                "  match   2 labels below cdn.example.com",
                "  terms   sni: required, ech: refuse, quic: refuse",
                "  note    the hub",
                DETECT,
                "  asked   yes: permitted by p:allow[0] at p.yaml:5:12",
            ],
        ),
        (
            "ssh.example.com:22",
            0,
            [
                "allow  out tcp/ssh.example.com:22",
                "  rule    p:allow[1]: ssh.example.com, tcp/22",
                "  at      p.yaml:6:12",
                "  terms   sni: optional, ech: refuse, quic: refuse",
                DETECT,
                "  asked   yes: permitted by p:allow[1] at p.yaml:6:12",
            ],
        ),
        (
            "ssh.example.com:443",
            1,
            [
                "deny  out tcp/ssh.example.com:443",
                "  reason  no rule matches",
                "  permit  under allow: - {host: ssh.example.com}",
                "  asked   yes: permitted by p:allow[1] at p.yaml:6:12",
            ],
        ),
        (
            "udp/other.example.com:443",
            1,
            [
                "deny  out udp/other.example.com:443",
                "  reason  no rule matches",
                "  permit  under allow: - {host: other.example.com, ports: [udp/443]}",
                "  asked   no: no rule permits a port of it",
            ],
        ),
        (
            "bad.cdn.example.com:443",
            1,
            [
                "deny  out tcp/bad.cdn.example.com:443",
                "  rule    p:deny[0]: bad.cdn.example.com, everything",
                "  at      p.yaml:10:12",
                "  permit  no allow can undo it: denied by p:deny[0]",
                "  asked   no: denied by p:deny[0] at p.yaml:10:12",
            ],
        ),
        # reachable by address, but the sandbox cannot ask for the address
        (
            "other.example.com:8443",
            0,
            [
                "allow  out tcp/other.example.com:8443",
                "  rule    p:allow[2]: 0.0.0.0/0, tcp/8443",
                "  at      p.yaml:7:12",
                DETECT,
                "  asked   no: no rule permits a port of it; under allow: "
                "- {host: other.example.com, ports: [8443]}",
            ],
        ),
        (
            "ssh.example.com.svc.example:22",
            1,
            [
                "deny  out tcp/ssh.example.com.svc.example:22",
                "  reason  no rule matches",
                "  permit  under allow: - {host: ssh.example.com.svc.example, ports: [22]}",
                "  asked   yes, it opens nothing: a suffix of dns.search after ssh.example.com, "
                "permitted by p:allow[1] at p.yaml:6:12",
            ],
        ),
        (
            "udp/10.20.0.2:53",
            0,
            [
                "allow  out udp/10.20.0.2:53",
                "  rule    p:dns.servers: 10.20.0.2/32, udp/53, tcp/53",
                "  at      p.yaml:3:17",
                "  note    a declared DNS server: each question is judged by its name",
            ],
        ),
        (
            "10.0.0.5:3128",
            0,
            [
                "allow  out tcp/10.0.0.5:3128",
                "  rule    p:allow[3]: 10.0.0.5/32, tcp/3128",
                "  at      p.yaml:8:13",
                "  terms   sni: required, ech: refuse, quic: refuse",
                DETECT,
                "  note    a proxy: what it is asked for is judged by the other rules",
            ],
        ),
        (
            "203.0.113.7:443",
            1,
            [
                "deny  out tcp/203.0.113.7:443",
                "  reason  no rule matches",
                "  permit  under allow: - {cidr: 203.0.113.7, ports: [443]}",
                "  note    a rule on names may permit it, once a name of the rule resolves to it",
            ],
        ),
        (
            "10.0.0.9:443",
            1,
            [
                "deny  out tcp/10.0.0.9:443",
                "  reason  no rule matches",
                "  permit  under allow: - {cidr: 10.0.0.9, ports: [443]}",
            ],
        ),
    ],
)
def test_lines(capsys, to, expected, lines):
    """The rule, what it matched, its terms, and whether a name may be asked for."""
    code, out = _explain(capsys, to)

    assert code == expected
    assert out.splitlines() == lines


def test_without_dns_servers(capsys, tmp_path):
    """Where no DNS server is declared, the line alone would not be enough, and that is said."""
    (tmp_path / "p.yaml").write_text("version: 1\n")
    code, out = _explain(capsys, "hub.example.com:443")

    assert code == 1
    assert out.splitlines()[-2:] == [
        "  asked   no: the policy declares no DNS servers",
        "  note    rules on names need DNS servers: dns: {servers: [...]}",
    ]


def test_loopback(capsys):
    """What loopback: auto comes to depends on the host, and that is said."""
    code, out = _explain(capsys, "127.0.0.1:80")

    assert code == 1
    assert "a network namespace of its own" in out


def test_json_of_an_address(capsys):
    """JSON says the same, for programs."""
    code, out = _explain(capsys, "10.20.0.9:8000", "--format", "json")

    assert code == 1
    assert json.loads(out) == {
        "schema": "agentwall.explain/1",
        "policy": "p",
        "phase": None,
        "direction": "out",
        "protocol": "tcp",
        "remote": {"name": None, "address": "10.20.0.9", "port": 8000},
        "local_port": None,
        "verdict": "deny",
        "reason": {"code": "no-rule", "rule": None, "file": None, "line": None},
        "prefix": None,
        "pattern": None,
        "labels": None,
        "terms": None,
        "proxy": False,
        "detect": None,
        "except": [],
        "inspect": None,
        "question": None,
        "permit": "- {cidr: 10.20.0.9, ports: [8000]}",
        "note": None,
    }


def test_json_of_a_name(capsys):
    """A name comes with the pattern that matched, the terms, and whether it may be asked for."""
    code, out = _explain(capsys, "a.cdn.example.com:443", "--format", "json")

    assert code == 0
    assert json.loads(out) == {
        "schema": "agentwall.explain/1",
        "policy": "p",
        "phase": None,
        "direction": "out",
        "protocol": "tcp",
        "remote": {"name": "a.cdn.example.com", "address": None, "port": 443},
        "local_port": None,
        "verdict": "allow",
        "reason": {"code": "rule", "rule": "p:allow[0]", "file": "p.yaml", "line": 5},
        "prefix": None,
        "pattern": "**.cdn.example.com",
        "labels": 1,
        "terms": {"sni": "required", "ech": "refuse", "quic": "refuse"},
        "proxy": False,
        "detect": {
            "mining": "block",
            "tunnel": "block",
            "p2p": "alert",
            "scan": "alert",
            "dns_exfil": "alert",
            "beacon": "alert",
        },
        "except": [],
        "inspect": "all",
        "question": {
            "verdict": "allow",
            "why": "rule",
            "name": "a.cdn.example.com",
            "rule": "p:allow[0]",
            "file": "p.yaml",
            "line": 5,
        },
        "permit": None,
        "note": None,
    }


def test_json_of_an_inbound_flow(capsys):
    """Inward the sandbox's own port is part of it."""
    _, out = _explain(
        capsys, "10.20.0.9:9", "--direction", "in", "--local-port", "80", "--format", "json"
    )
    found = json.loads(out)

    assert (found["local_port"], found["permit"]) == (80, "- {cidr: 10.20.0.9, ports: [80]}")


def test_exceptions(capsys):
    """Of a flow that is allowed it says what is still looked for, and what is not."""
    with open("p.yaml", "a", encoding="utf-8") as file:
        file.write("inbound: [{cidr: 10.9.9.9, ports: [80], except: [tunnel, mining/beam]}]\n")
        file.write("detect: {scan: off, p2p: off, beacon: off, dns_exfil: off}\n")
    argv = ("10.9.9.9:80", "--direction", "in")
    _, out = _explain(capsys, *argv)

    assert out.splitlines()[-1] == "  detect  mining: block; except tunnel, mining/beam"

    _, out = _explain(capsys, *argv, "--format", "json")
    found = json.loads(out)

    assert (found["detect"], found["except"]) == ({"mining": "block"}, ["tunnel", "mining/beam"])


@pytest.mark.parametrize(
    ("inspect", "lines"),
    [
        ("all", ["  detect  mining: block, tunnel: block"]),
        (
            "wire",
            [
                "  inspect wire: nothing inside TLS is read",
                "  detect  mining: block, tunnel: block",
            ],
        ),
        (
            "none",
            [
                "  inspect none: what is said is not read, in clear or inside TLS",
                "  detect  mining: alert, tunnel: alert",
            ],
        ),
    ],
)
def test_what_is_read(capsys, inspect, lines):
    """Where not all is read that is said, and where nothing is what is left only alerts."""
    with open("p.yaml", "a", encoding="utf-8") as file:
        file.write(f"inbound: [{{cidr: 10.9.9.9, ports: [80], inspect: {inspect}}}]\n")
        file.write("detect: {scan: off, p2p: off, beacon: off, dns_exfil: off}\n")
    argv = ("10.9.9.9:80", "--direction", "in")
    _, out = _explain(capsys, *argv)

    assert out.splitlines()[3:] == lines

    _, out = _explain(capsys, *argv, "--format", "json")

    assert json.loads(out)["inspect"] == inspect
