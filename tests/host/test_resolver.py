# SPDX-License-Identifier: Apache-2.0
"""resolv.conf, made and read."""

from __future__ import annotations

import ipaddress

import pytest

from agentwall.errors import SourceLocation
from agentwall.host.resolver import (
    advise_servers,
    make_resolv_conf,
    nameservers,
    read_resolv_conf,
)
from agentwall.policy.model import DnsSettings, RulePrefix

HERE = SourceLocation("p.yaml", 1, 1)


def settings(*servers: str, search: tuple[str, ...] = ()) -> DnsSettings:
    prefixes = tuple(RulePrefix(ipaddress.ip_network(each), HERE) for each in servers)
    return DnsSettings(servers=prefixes, search=search, where=HERE)


def made(dns: DnsSettings, of_host: str = "") -> list[str]:
    return make_resolv_conf(dns, of_host).splitlines()[1:]


def test_made_from_the_policy():
    """Servers and search list are the policy's, addresses without their prefix length."""
    dns = settings("10.20.0.2/32", "2001:db8::53/128", search=("svc.cluster.example", "a.example"))

    assert made(dns, "nameserver 127.0.0.53\nsearch host.example\noptions edns0 trust-ad\n") == [
        "nameserver 10.20.0.2",
        "nameserver 2001:db8::53",
        "search svc.cluster.example a.example",
    ]


def test_at_most_three():
    """More than resolvers read are not written."""
    dns = settings(*(f"192.0.2.{last}/32" for last in range(1, 6)))

    assert made(dns) == [
        "nameserver 192.0.2.1",
        "nameserver 192.0.2.2",
        "nameserver 192.0.2.3",
        "search .",
    ]


@pytest.mark.parametrize(
    ("of_host", "kept"),
    [
        ("options ndots:5\n", "options ndots:5"),
        ("options edns0 ndots:2 timeout:1\n", "options ndots:2"),
        ("options ndots:2\noptions ndots:3\n", "options ndots:3"),
        ("# options ndots:5\n", None),
        ("options edns0\n", None),
        ("", None),
    ],
)
def test_ndots(of_host, kept):
    """Of the host's options only the last ndots stays."""
    assert made(settings("192.0.2.1/32"), of_host)[2:] == ([kept] if kept else [])


def test_reading(tmp_path):
    """Comments and half lines name no server; a file that is not there has no content."""
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"# nameserver 192.0.2.9\nnameserver\nnameserver 192.0.2.1 x\n\xff\n")

    assert nameservers(read_resolv_conf(file)) == ("192.0.2.1",)
    assert read_resolv_conf(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "nameserver 127.0.0.53\n",
            "asks 127.0.0.53 (systemd-resolved's stub): declare dns: {servers: [127.0.0.53]}",
        ),
        (
            "nameserver 127.0.0.11\n",
            "asks 127.0.0.11 (Docker's): declare dns: {servers: [127.0.0.11]}",
        ),
        (
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
            'asks 192.0.2.1, 2001:db8::1: declare dns: {servers: [192.0.2.1, "2001:db8::1"]}',
        ),
        (
            "nameserver fe80::1%eth0\nnameserver 192.0.2.1\n",
            "asks fe80::1%eth0, 192.0.2.1: declare dns: {servers: [192.0.2.1]}",
        ),
        ("nameserver fe80::1%eth0\n", "asks fe80::1%eth0: no policy can declare"),
        ("search x\n", "/etc/resolv.conf names no server"),
    ],
)
def test_advice(text, advice):
    """What a policy has to declare is said in its own words, and known stubs by name."""
    assert advise_servers(text).startswith(advice)
