# SPDX-License-Identifier: Apache-2.0
"""Policy files: what they load to, and how each kind of bad input is refused."""

from __future__ import annotations

import hashlib
import re
from ipaddress import ip_network

import pytest
from rig.tree import ROOT

from agentwall.errors import PolicyError
from agentwall.flow.verdict import Mode, Verdict
from agentwall.net.ports import ANY, EVERYTHING, ICMP, PortRange
from agentwall.policy.load import MAX_EXTRA_PROTOCOLS, default_policy, load_policy
from agentwall.policy.model import Loopback, OnError, Section

FULL = """\
# A policy with every key.
version: 1
name: full
mode: audit
on_error: degrade
refuse_with: ECONNREFUSED
extends: []
allow:
  - cidr: 10.20.0.0/24
    ports: [443, 8000-8010, "udp/53"]
    note: servers
  - {cidr: any, ports: [any]}
deny:
  - cidr: 10.20.0.9
  - {cidr: "2001:db8::/32", ports: [any, 443]}
  - {cidr: any, ports: [icmp]}
inbound:
  - {cidr: 10.20.0.1, ports: [8000]}
loopback: deny
tests:
  - {to: "10.20.0.7:443", expect: allow}
  - {to: "udp/10.20.0.9:53", expect: deny}
"""


def _write(directory, text, name="p.yaml"):
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _problems(path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_policy(path, search_path=())
    return [str(error).removeprefix(f"{path}:") for error in caught.value.errors]


def test_every_key(tmp_path):
    """Every key arrives in the policy."""
    path = _write(tmp_path, FULL)
    policy = load_policy(path)

    assert (policy.name, policy.mode, policy.on_error) == ("full", Mode.AUDIT, OnError.DEGRADE)
    assert (policy.refuse_with, policy.loopback) == ("ECONNREFUSED", Loopback.DENY)
    assert [r.id for r in policy.allow] == ["full:allow[0]", "full:allow[1]"]
    assert policy.allow[0].ports == (
        PortRange(0x601BB, 0x601BB),
        PortRange(0x61F40, 0x61F4A),
        PortRange(0x110035, 0x110035),
    )
    assert policy.allow[0].note == "servers"
    assert policy.allow[1].note is None
    assert policy.allow[1].ports == ANY
    assert [str(p.network) for p in policy.allow[1].prefixes] == ["0.0.0.0/0", "::/0"]
    assert policy.deny[0].ports == EVERYTHING
    assert EVERYTHING[0] in policy.deny[1].ports
    assert policy.deny[2].ports == ICMP
    assert policy.inbound[0].section is Section.INBOUND
    assert [t.expect for t in policy.tests] == [Verdict.ALLOW, Verdict.DENY]
    assert policy.files == (str(path),)
    assert policy.digest == hashlib.sha256(FULL.encode()).hexdigest()


def test_places(tmp_path):
    """Rules, prefixes and tests know line and column, counted from 1."""
    path = _write(tmp_path, FULL)
    policy = load_policy(path)

    assert str(policy.allow[0].where) == f"{path}:9:5"
    assert str(policy.allow[0].prefixes[0].where) == f"{path}:9:11"
    assert str(policy.allow[1].where) == f"{path}:12:5"
    assert str(policy.allow[1].prefixes[1].where) == f"{path}:12:12"
    assert str(policy.tests[1].where) == f"{path}:22:5"


def test_least_policy(tmp_path):
    """A version is enough: everything is denied, in enforce mode, under the file's name."""
    policy = load_policy(_write(tmp_path, "version: 1\n", "my policy.yaml"))

    assert (policy.name, policy.mode, policy.on_error) == (
        "my-policy",
        Mode.ENFORCE,
        OnError.FAIL_CLOSED,
    )
    assert (policy.refuse_with, policy.loopback) == ("EPERM", Loopback.AUTO)
    assert policy.allow == policy.deny == policy.inbound == policy.tests == ()


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"# \xc3\xa9\r\n"])
def test_encodings(tmp_path, mark):
    """A byte order mark and line ends of other systems are fine."""
    policy = load_policy(_write(tmp_path, mark + b"version: 1\r\nname: x\r\n"))

    assert policy.name == "x"


RULE = "version: 1\nallow:\n  - "


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # The file
        ("", "1:1: expected a map, got an empty file"),
        ("# only a comment\n", "1:1: expected a map, got an empty file"),
        ("- a\n", "1:1: expected a map, got a list"),
        ("just text\n", "1:1: expected a map, got 'just text'"),
        ("version: [1\n", "2:1: expected YAML: "),
        ("version: 1\n\tname: x\n", "2:1: expected YAML: "),
        (b"version: 1\n# \xff\n", "2:3: expected UTF-8, got byte 0xff"),
        (b"version: 1\n#\xc3\xa9 \x01\n", "2:4: expected YAML: "),
        ("version: 1\n---\nversion: 1\n", "2:1: expected YAML: "),
        # Keys
        ("version: 1\nalow: []\n", "2:1: alow: unknown key; did you mean allow?"),
        ("version: 1\nqqq: 1\n", "2:1: qqq: unknown key; expected one of version, name, "),
        ("version: 1\nversion: 1\n", "2:1: version: duplicate key; the first one is on line 1"),
        ("version: 1\n5: 1\n", "2:1: expected a text key, got int '5'"),
        ("version: 1\n? [a]\n: b\n", "2:3: expected a text key, got a list"),
        ("version: 1\n<<: {name: x}\n", "2:1: expected a text key, got the merge key '<<'"),
        (RULE + "{cidr: 1.1.1.1, prots: [1]}", "3:21: allow[0].prots: unknown key; did you"),
        (RULE + "{cidr: 1.1.1.1, cidr: 2.2.2.2}", "3:21: allow[0].cidr: duplicate key"),
        # Types
        ("name: x\n", "1:1: version: expected a value, got nothing"),
        ("version: 2\n", "1:10: version: expected 1, got 2"),
        ("version: '1'\n", "1:10: version: expected 1, got '1'"),
        ("version: yes\n", "1:10: version: expected 1, got true"),
        ("version: 1.0\n", "1:10: version: expected text or a number, got the fraction '1.0'"),
        ("version: 01\n", "1:10: version: expected a plain decimal number, got '01'"),
        ("version: !!x y\n", "1:10: version: expected text or a number, got x 'y'"),
        ("version: 1\nname: 5\n", "2:7: name: expected text, got 5"),
        ("version: 1\nname: a b\n", "2:7: name: expected letters, digits, dots, dashes and"),
        ("version: 1\nname: 2026-01-01\n", "2:7: name: expected text or a number, got the date"),
        ("version: 1\nallow: {}\n", "2:8: allow: expected a list, got a map"),
        ("version: 1\nallow:\n", "2:7: allow: expected a list, got nothing"),
        ("version: 1\nextends: base\n", "2:10: extends: expected a list, got 'base'"),
        ("version: 1\nmode: enfroce\n", "2:7: mode: expected 'observe', 'audit' or 'enforce', got"),
        ("version: 1\nloopback: on\n", "2:11: loopback: expected 'auto', 'allow' or 'deny', got t"),
        ("version: 1\nrefuse_with: EIO\n", "2:14: refuse_with: expected EPERM or ECONNREFUSED or"),
        (RULE + "5\n", "3:5: allow[0]: expected a map, got 5"),
        (RULE + "[]\n", "3:5: allow[0]: expected a map, got a list"),
        # Rules
        (RULE + "{cidr: 1.1.1.1}", "3:5: allow[0].ports: expected a list of ports"),
        ("version: 1\ninbound: [{cidr: any}]", "2:11: inbound[0].ports: expected a list of ports"),
        (
            RULE + "{ports: [1]}",
            "3:5: allow[0]: expected exactly one of cidr, cidr_file, host, host_file and proxy, ",
        ),
        (
            RULE + "{cidr: any, cidr_file: x, ports: [1]}",
            "3:5: allow[0]: expected exactly one of cidr, cidr_file, host, host_file and proxy, ",
        ),
        (
            RULE + "{cidr: 10.0.0.1/8, ports: [1]}",
            "3:12: allow[0].cidr: expected a prefix without host bits (10.0.0.0/8), got",
        ),
        (RULE + "{cidr: 10, ports: [1]}", "3:12: allow[0].cidr: expected an address, a prefix or"),
        (
            RULE + "{cidr: '::ffff:10.0.0.0/104', ports: [1]}",
            "3:12: allow[0].cidr: expected the IPv4 prefix 10.0.0.0/8 it stands for",
        ),
        (RULE + "{cidr: any, ports: 443}", "3:24: allow[0].ports: expected a list, got 443"),
        (RULE + "{cidr: any, ports: []}", "3:24: allow[0].ports: expected at least one entry"),
        (RULE + "{cidr: any, ports: [443, 0]}", "3:30: allow[0].ports[1]: expected 1-65535, got 0"),
        (RULE + "{cidr: any, ports: [70000]}", "3:25: allow[0].ports[0]: expected 1-65535, got 7"),
        (RULE + "{cidr: any, ports: [22:30]}", "3:25: allow[0].ports[0]: expected a plain decimal"),
        (RULE + "{cidr: any, ports: [true]}", "3:25: allow[0].ports[0]: expected a port, a range"),
        (RULE + "{cidr: any, ports: [{}]}", "3:25: allow[0].ports[0]: expected a port, a range or"),
        (RULE + "{cidr: any, ports: [ip/0]}", "3:25: allow[0].ports[0]: expected a protocol from"),
        (RULE + "{cidr: any, ports: [ip/255]}", "3:25: allow[0].ports[0]: expected a protocol f"),
        ("version: 1\ndeny: [{cidr: any, ports: []}]", "2:27: deny[0].ports: expected at least o"),
        # Tests
        ("version: 1\ntests: [{to: x, expect: allow}]", "2:14: tests[0].to: expected NAME:PORT, "),
        (
            "version: 1\ntests: [{to: '1.1.1.1:1', expect: would-deny}]",
            "2:35: tests[0].expect: expected 'allow' or 'deny', got 'would-deny'",
        ),
        # What would run away
        ("version: 1\nallow: &a [*a]\n", "2:8: expected fewer aliases"),
        ("version: 1\nallow: " + "[" * 100, "2:23: expected at most 16 levels of nesting"),
        ("[" * 5000, "1:1001: expected YAML: "),
    ],
)
def test_bad_input(tmp_path, text, problem):
    """Bad input is one error that starts with its line and column."""
    found = _problems(_write(tmp_path, text))

    assert len(found) == 1
    assert found[0].startswith(problem)


def test_billion_laughs(tmp_path):
    """Aliases that multiply are refused before they are written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = _problems(_write(tmp_path, "\n".join(lines)))

    assert len(found) == 1
    assert "expected fewer aliases" in found[0]


def test_honest_aliases(tmp_path):
    """An anchor may be used again."""
    text = "version: 1\nallow:\n- {cidr: 1.1.1.1, ports: &p [443]}\n- {cidr: 2.2.2.2, ports: *p}\n"
    policy = load_policy(_write(tmp_path, text))

    assert policy.allow[0].ports == policy.allow[1].ports


def test_all_problems_at_once(tmp_path):
    """Everything wrong is reported, in the order of the file."""
    text = "version: 2\nalow: []\nallow:\n  - {cidr: 10.0.0.1/8, ports: [0, 1, x]}\nmode: x\n"
    found = _problems(_write(tmp_path, text))

    assert [problem.split(" ")[0] for problem in found] == [
        "1:10:",
        "2:1:",
        "4:12:",
        "4:32:",
        "4:38:",
        "5:7:",
    ]


@pytest.mark.parametrize("kind", ["missing", "directory", "loop", "below-file", "long", "nul"])
def test_unreadable_file(tmp_path, kind):
    """A file that cannot be read is an error at its first line."""
    path = tmp_path / "p.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "below-file":
        path = _write(tmp_path, "") / "x.yaml"
    elif kind == "long":
        path = tmp_path / ("x" * 300)
    elif kind == "nul":
        path = f"{tmp_path}/\0"
    (found,) = _problems(path)

    assert found.startswith("1:1: cannot be read: ")


def test_unreadable_device():
    """An error of reading, not only of opening, is reported."""
    (found,) = _problems("/proc/self/mem")

    assert found.startswith("1:1: cannot be read: ")


def test_endless_file(monkeypatch):
    """A file without end is refused."""
    monkeypatch.setattr("agentwall.policy.extends.MAX_POLICY_BYTES", 1 << 20)
    (found,) = _problems("/dev/zero")

    assert found == (
        "1:1: cannot be read: larger than 1 MiB; long lists belong in a cidr_file or host_file"
    )


def test_endless_list(tmp_path, monkeypatch):
    """A list without end is refused where the policy names it."""
    monkeypatch.setattr("agentwall.policy.extends.MAX_LIST_BYTES", 1 << 20)
    (found,) = _problems(_write(tmp_path, "version: 1\ndeny: [{cidr_file: /dev/zero}]\n"))

    assert found.endswith("'/dev/zero' cannot be read: larger than 1 MiB")


def test_too_many_protocols(tmp_path):
    """More protocols than the kernel keeps for a sandbox are refused where they get too many."""
    entries = [f"  - {{cidr: any, ports: [ip/{n}]}}\n" for n in range(100, 108)]
    text = "version: 1\nallow:\n" + "".join(entries)
    path = _write(tmp_path, text)

    assert len(load_policy(path).allow) == 8

    path.write_text(text + "  - {cidr: any, ports: [udp/*]}\n  - {cidr: any, ports: [icmp]}\n")

    assert _problems(path) == [
        "12:5: allow[9].ports: expected at most 8 protocols beside TCP and UDP in one policy "
        "(icmp counts as 2), got 10"
    ]


def test_protocol_limit_is_the_kernels():
    """The limit is the room that bpf/abi.h leaves."""
    text = (ROOT / "bpf" / "abi.h").read_text()

    assert int(re.search(r"#define AW_MAX_PROTOCOLS\s+(\d+)", text)[1]) == MAX_EXTRA_PROTOCOLS


def test_default_policy():
    """Without -p everything is denied."""
    policy = default_policy()

    assert (policy.name, policy.mode) == ("default-deny", Mode.ENFORCE)
    assert policy.allow == policy.inbound == ()


def test_prefix_of_address(tmp_path):
    """An address in a rule is a prefix of full length."""
    policy = load_policy(_write(tmp_path, RULE + "{cidr: 203.0.113.7, ports: [1]}"))

    assert policy.allow[0].prefixes[0].network == ip_network("203.0.113.7/32")
