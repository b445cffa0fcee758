# SPDX-License-Identifier: Apache-2.0
"""Rules on names, proxies and the ``dns`` key: what they load to, and how bad ones are refused."""

from __future__ import annotations

import hashlib

import pytest

from agentwall.errors import PolicyError
from agentwall.net.ports import EVERYTHING, parse_ports
from agentwall.policy.load import load_policy
from agentwall.policy.model import AskScope, NameTerms

DNS = "dns: {servers: [10.20.0.2]}\n"
FULL = """\
version: 1
name: full
dns:
  servers: [10.20.0.2, "2001:db8::53", 10.20.0.2]
  search: [Svc.Cluster.Example., cluster.example, svc.cluster.example]
  names: any
  min_ttl: 0
  max_addresses: 65536
allow:
  - host: Hub.Example.COM.
  - host: "*.bücher.example"
    ports: [443, udp/443]
    sni: optional
    ech: outer
    quic: allow
    note: books
  - {host: "**.s3.amazonaws.com", shared_suffix: true}
  - {host_file: hosts.txt, ports: [5432]}
  - {proxy: 10.0.0.5/32, ports: [3128]}
  - {cidr: 10.0.0.0/24, ports: [22]}
deny:
  - host: "**.com"
  - {host_file: hosts.txt, ports: [22]}
"""


def _write(directory, text, name="p.yaml"):
    path = directory / name
    path.write_text(text)
    return path


def _problems(path, search_path=()) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_policy(path, search_path=search_path)
    return [str(error).removeprefix(f"{path}:") for error in caught.value.errors]


@pytest.fixture
def full(tmp_path):
    (tmp_path / "hosts.txt").write_text("# ours\ndb.example.com\n *.db.example.com # all\n")
    return load_policy(_write(tmp_path, FULL), search_path=())


def test_rules_on_names(full):
    """Every key of a rule on names arrives, in its one form, with its default."""
    patterns = [[str(p.pattern) for p in rule.patterns] for rule in full.allow]

    assert patterns == [
        ["hub.example.com"],
        ["*.xn--bcher-kva.example"],
        ["**.s3.amazonaws.com"],
        ["db.example.com", "*.db.example.com"],
        [],
        [],
    ]
    assert full.allow[0].ports == parse_ports("443")
    assert full.allow[1].ports == parse_ports("443") + parse_ports("udp/443")
    assert full.allow[0].terms == NameTerms()
    assert full.allow[1].terms == NameTerms(sni_optional=True, ech_outer=True, quic=True)
    assert full.allow[1].note == "books"
    assert all(not rule.prefixes for rule in full.allow[:4])
    assert [str(p.pattern) for p in full.deny[0].patterns] == ["**.com"]
    assert full.deny[0].ports == EVERYTHING
    assert full.deny[1].ports == parse_ports("22")


def test_proxies(full):
    """A proxy is a rule on addresses that is marked."""
    assert [rule.is_proxy for rule in full.allow] == [False, False, False, False, True, False]
    assert [str(p.network) for p in full.allow[4].prefixes] == ["10.0.0.5/32"]
    assert full.allow[4].ports == parse_ports("3128")


def test_dns(full):
    """Every key of ``dns`` arrives; what stands twice counts once."""
    assert [str(s.network) for s in full.dns.servers] == ["10.20.0.2/32", "2001:db8::53/128"]
    assert full.dns.search == ("svc.cluster.example", "cluster.example")
    assert full.dns.names is AskScope.ANY
    assert (full.dns.min_ttl_s, full.dns.max_addresses) == (0, 65536)


def test_places_of_names(tmp_path, full):
    """Patterns know line and column, in the list if they stand there; so do servers."""
    path, hosts = tmp_path / "p.yaml", tmp_path / "hosts.txt"

    assert str(full.allow[1].patterns[0].where) == f"{path}:11:11"
    assert str(full.allow[3].patterns[1].where) == f"{hosts}:3:2"
    assert str(full.allow[4].prefixes[0].where) == f"{path}:19:13"
    assert str(full.dns.where) == f"{path}:3:1"
    assert str(full.dns.servers[1].where) == f"{path}:4:24"


def test_a_list_of_names_is_part_of_the_digest(tmp_path, full):
    """A list is read once, however many rules name it, and is among the files."""
    hosts = tmp_path / "hosts.txt"

    assert full.files == (str(hosts), str(tmp_path / "p.yaml"))
    assert full.digest == hashlib.sha256(hosts.read_bytes() + FULL.encode()).hexdigest()


def test_dns_defaults(tmp_path):
    """Servers are enough; without them there are no names at all."""
    policy = load_policy(_write(tmp_path, f"version: 1\n{DNS}"))

    assert policy.dns.search == ()
    assert policy.dns.names is AskScope.ALLOWED_ONLY
    assert (policy.dns.min_ttl_s, policy.dns.max_addresses) == (60, 1000)
    assert load_policy(_write(tmp_path, "version: 1\n")).dns is None


def test_dns_is_merged_by_key(tmp_path):
    """Of ``dns`` each key comes from the last file that sets it, places included."""
    dns = "dns: {servers: [10.0.0.1, 10.0.0.2], min_ttl: 5, names: any}\n"
    base = _write(tmp_path, f"version: 1\n{dns}allow: [{{host: a.example}}]\n", "base.yaml")
    top = "version: 1\nextends: [base]\ndns: {search: [x.example], min_ttl: 9}\n"
    path = _write(tmp_path, top)
    policy = load_policy(path, search_path=())

    assert [str(s.where) for s in policy.dns.servers] == [f"{base}:2:17", f"{base}:2:27"]
    assert (policy.dns.search, policy.dns.min_ttl_s) == (("x.example",), 9)
    assert policy.dns.names is AskScope.ANY
    assert str(policy.dns.where) == f"{path}:3:1"
    assert str(policy.allow[0].patterns[0].pattern) == "a.example"


def test_a_base_may_leave_the_servers_to_others(tmp_path):
    """Rules on names in a base need servers in the policy that they end up in."""
    rules = "version: 1\nallow: [{host: a.example}]\n"
    base = _write(tmp_path, rules, "base.yaml")
    top = f"version: 1\nextends: [base]\n{DNS}"

    assert load_policy(_write(tmp_path, top), search_path=()).allow[0].patterns
    assert _problems(base) == [
        "2:9: allow[0]: expected dns.servers in this policy: names count for the addresses that "
        "these servers answer with"
    ]


def test_names_without_servers(tmp_path):
    """Each rule on names is an error where nobody is declared to know them."""
    (tmp_path / "l.txt").write_text("a.example\n")
    rules = "allow: [{host: a.example}, {host_file: l.txt}]\ndeny: [{host: b.example}]\n"
    path = _write(tmp_path, f"version: 1\n{rules}")
    places = [problem.partition(": expected dns.servers in")[0] for problem in _problems(path)]

    assert places == ["2:9: allow[0]", "2:28: allow[1]", "3:8: deny[0]"]


def test_bad_list_of_names(tmp_path):
    """What is wrong in a list is reported there; what it may hold depends on the rule."""
    (tmp_path / "l.txt").write_text("a.example\n  10.0.0.1\n*.com\n*.s3.amazonaws.com\n")
    rules = "allow: [{host_file: l.txt}]\ndeny: [{host_file: l.txt}]\n"
    found = _problems(_write(tmp_path, f"version: 1\n{DNS}{rules}"))

    assert [problem.removeprefix(f"{tmp_path}/l.txt:")[:36] for problem in found] == [
        "2:3: expected a name, got the addres",
        "3:1: expected names of one owner, go",
        "4:1: expected shared_suffix: true be",
        "2:3: expected a name, got the addres",
    ]


ALLOW = f"version: 1\n{DNS}allow:\n  - "


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # Names
        (ALLOW + "host: 5", "4:11: allow[0].host: expected a name such as hub.example.com, got 5"),
        (ALLOW + "host: ''", "4:11: allow[0].host: expected a name, got ''"),
        (ALLOW + "host: a..b", "4:11: allow[0].host: expected a name without empty labels, got"),
        (ALLOW + "{host: '*'}", "4:12: allow[0].host: expected a name after the star, such as"),
        (ALLOW + "{host: 1.1.1.1}", "4:12: allow[0].host: expected a name, got the address '1."),
        (ALLOW + "{host: 'a:443'}", "4:12: allow[0].host: expected a name alone (the port goes"),
        (ALLOW + '{host: "a\\0.b"}', "4:12: allow[0].host: expected a name without white space"),
        (
            ALLOW + "{host: *.x.y}",
            "4:13: expected YAML: while scanning an alias, did not find expected alphabetic or "
            "numeric character (quote text that begins with a star)",
        ),
        (ALLOW + "{host: '*.foo'}", "4:12: allow[0].host: expected names of one owner, got '*."),
        (ALLOW + "{host: co.uk}", "4:12: allow[0].host: expected names of one owner, got 'co.uk'"),
        (
            ALLOW + "{host: '*.github.io', shared_suffix: false}",
            "4:12: allow[0].host: expected shared_suffix: true beside '*.github.io', got none: it",
        ),
        (ALLOW + "{host_file: ''}", "4:17: allow[0].host_file: expected a path, got ''"),
        (ALLOW + "{host_file: x}", "4:17: allow[0].host_file: '"),
        # Terms
        (ALLOW + "{host: a.b, shared_suffix: 1}", "4:32: allow[0].shared_suffix: expected true or"),
        (ALLOW + "{host: a.b, sni: no}", "4:22: allow[0].sni: expected 'required' or 'optional'"),
        (ALLOW + "{host: a.b, ech: x}", "4:22: allow[0].ech: expected 'refuse' or 'outer', got"),
        (ALLOW + "{host: a.b, quic: yes}", "4:23: allow[0].quic: expected 'refuse' or 'allow', g"),
        (
            ALLOW + "{cidr: any, ports: [1], shared_suffix: true}",
            "4:29: allow[0].shared_suffix: expected host or host_file beside it, got cidr",
        ),
        (
            ALLOW + "{cidr_file: x, ports: [1], quic: refuse}",
            "4:32: allow[0].quic: expected host or host_file beside it, got cidr_file",
        ),
        (
            ALLOW + "{proxy: 1.1.1.1, ports: [1], sni: optional}",
            "4:34: allow[0].sni: expected host or host_file beside it, got proxy",
        ),
        ("version: 1\ndeny: [{host: a.b, sni: optional}]", "2:20: deny[0].sni: unknown key; exp"),
        # Ports and proxies
        (ALLOW + "{host: a.b, ports: []}", "4:24: allow[0].ports: expected at least one entry"),
        (ALLOW + "{proxy: 10.0.0.5}", "4:5: allow[0].ports: expected a list of ports ([any] opens"),
        (ALLOW + "{proxy: any, ports: [1]}", "4:13: allow[0].proxy: expected an address or a pr"),
        (ALLOW + "{proxy: 5, ports: [1]}", "4:13: allow[0].proxy: expected an address or a prefix"),
        (
            ALLOW + "{proxy: 10.0.0.5/8, ports: [1]}",
            "4:13: allow[0].proxy: expected a prefix without host bits (10.0.0.0/8), got",
        ),
        (
            ALLOW + "{host: a.b, proxy: 10.0.0.5, ports: [1]}",
            "4:5: allow[0]: expected exactly one of cidr, cidr_file, host, host_file and proxy, "
            "got host and proxy",
        ),
        (
            "version: 1\ndeny: [{cidr: any, host: a.b}]",
            "2:8: deny[0]: expected exactly one of cidr, cidr_file, host and host_file, got cidr",
        ),
        (
            "version: 1\ninbound: [{host: a.b, ports: [1]}]",
            "2:12: inbound[0].host: expected cidr or cidr_file: of who connects only the address",
        ),
        (
            "version: 1\ninbound: [{host_file: a, ports: [1]}]",
            "2:12: inbound[0].host_file: expected cidr or cidr_file: of who connects only the a",
        ),
        # dns
        ("version: 1\ndns:\n", "2:5: dns: expected a map, got nothing"),
        ("version: 1\ndns: {}\n", "2:1: dns.servers: expected the addresses of name servers,"),
        ("version: 1\ndns: {names: any}", "2:1: dns.servers: expected the addresses of name ser"),
        ("version: 1\ndns: {server: []}", "2:7: dns.server: unknown key; did you mean servers?"),
        ("version: 1\ndns: {zzz: 1}", "2:7: dns.zzz: unknown key; expected one of servers, sear"),
        ("version: 1\ndns: {servers: []}", "2:16: dns.servers: expected at least one entry, got"),
        ("version: 1\ndns: {servers: 1.1.1.1}", "2:16: dns.servers: expected a list, got '1.1.1"),
        ("version: 1\ndns: {servers: [5]}", "2:17: dns.servers[0]: expected an address such as"),
        ("version: 1\ndns: {servers: [ns.x]}", "2:17: dns.servers[0]: expected an address or a "),
        ("version: 1\ndns: {servers: [1.1.1.1/32]}", "2:17: dns.servers[0]: expected a single ad"),
        ("version: 1\ndns: {servers: [0.0.0.0]}", "2:17: dns.servers[0]: expected the address of"),
        ("version: 1\ndns: {servers: ['ff02::fb']}", "2:17: dns.servers[0]: expected the address"),
        (
            "version: 1\ndns: {servers: ['::ffff:1.1.1.1']}",
            "2:17: dns.servers[0]: expected the IPv4 prefix 1.1.1.1/32 it stands for, got",
        ),
        (
            f"version: 1\ndns: {{servers: [{', '.join(f'10.0.0.{n}' for n in range(1, 10))}]}}",
            "2:16: dns.servers: expected at most 8 entries, got 9",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], search: [a, b, c, d, e, f, g, h, i]}",
            "2:35: dns.search: expected at most 8 entries, got 9",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], search: ['*.x']}",
            "2:36: dns.search[0]: expected * or ** in front of a name only, got '*.x'",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], search: [5]}",
            "2:36: dns.search[0]: expected a name such as svc.example.com, got 5",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], names: all}",
            "2:34: dns.names: expected 'allowed-only' or 'any', got 'all'",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], min_ttl: 86401}",
            "2:36: dns.min_ttl: expected 0-86400 seconds, got 86401",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], min_ttl: true}",
            "2:36: dns.min_ttl: expected 0-86400 seconds, got true",
        ),
        (
            "version: 1\ndns: {servers: [1.1.1.1], max_addresses: 0}",
            "2:42: dns.max_addresses: expected 1-65536 addresses, got 0",
        ),
    ],
)
def test_bad_names(tmp_path, text, problem):
    """Bad input is one error that starts with its line and column."""
    found = _problems(_write(tmp_path, text))

    assert len(found) == 1, found
    assert found[0].startswith(problem)


@pytest.mark.parametrize("server", ["127.0.0.53", "127.0.0.11", "168.63.129.16", "fd00:ec2::253"])
def test_servers_of_every_place(tmp_path, server):
    """Stubs on loopback, and the name servers that clouds have at odd addresses, are taken."""
    text = f"version: 1\ndns: {{servers: ['{server}']}}"
    policy = load_policy(_write(tmp_path, text), search_path=())

    assert str(policy.dns.servers[0].network.network_address) == server
