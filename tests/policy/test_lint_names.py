# SPDX-License-Identifier: Apache-2.0
"""Warnings about names and name servers: each appears where it should, and nowhere else."""

from __future__ import annotations

import pytest

from agentwall.policy.lint import lint_policy
from agentwall.policy.load import load_policy

DNS = "dns: {servers: [10.20.0.2]}"
SAME = "allow: [{host: a.example}"
TESTS = "tests: [{to: '1.1.1.1:1', expect: deny}]\n"


def _lint(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\n{text}\n{TESTS}")
    policy = load_policy(path, search_path=())
    return [str(warning).replace(f"{path}:", "") for warning in lint_policy(policy)]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        # Questions
        (
            "dns: {servers: [1.1.1.1], names: any}\n" + SAME + "]",
            "2:1: dns.names: warning: any name may be asked for, and each carries data to whoever",
        ),
        (
            DNS + "\ndeny: [{host: a.example}]",
            "2:1: dns: warning: no allow rule is on names, so every question is refused",
        ),
        # Where names are resolved
        (
            DNS + "\n" + SAME + ", {cidr: 10.20.0.2, ports: [udp/53]}]",
            "3:35: p:allow[1]: warning: opens port 53 of 10.20.0.2, which dns.servers does already",
        ),
        (
            DNS + "\n" + SAME + ", {cidr: 10.20.0.3, ports: [1-99]}]",
            "3:35: p:allow[1]: warning: opens port 53 of others than dns.servers: names that res",
        ),
        (
            DNS + "\n" + SAME + ", {cidr: any, ports: [udp/53]}]",
            "3:35: p:allow[1]: warning: opens port 53 of others than dns.servers: names that res",
        ),
        (
            DNS + "\n" + SAME + ", {host: ns.example, ports: [udp/53]}]",
            "3:35: p:allow[1]: warning: opens port 53 of others than dns.servers: names that res",
        ),
        (
            DNS + "\n" + SAME + ", {cidr: 10.20.0.2, ports: [853]}]",
            "3:35: p:allow[1]: warning: opens port 853, where questions are encrypted: names that",
        ),
        (
            DNS + "\n" + SAME + ", {host: ns.example, ports: [udp/853]}]",
            "3:35: p:allow[1]: warning: opens port 853, where questions are encrypted: names that",
        ),
        (
            DNS + "\nallow: [{host: dns.google}]",
            "3:16: p:allow[0]: warning: opens dns.google, which resolves names inside HTTPS: tho",
        ),
        (
            DNS + "\nallow: [{host: '**.quad9.net', ports: [400-500]}]",
            "3:16: p:allow[0]: warning: opens dns.quad9.net, which resolves names inside HTTPS:",
        ),
        (
            DNS + "\n" + SAME + "]\ndeny: [{cidr: 10.20.0.0/24}]",
            "4:15: p:deny[0]: warning: denies the name server 10.20.0.2: no name resolves there",
        ),
        # Names that no server knows
        (
            DNS + "\nallow: [{host: localhost}, {host: 'a.b'}]",
            "3:16: p:allow[0]: warning: localhost is hardly known to a name server: names from /e",
        ),
        (
            DNS + "\nallow: [{host: vllm}]",
            "3:16: p:allow[0]: warning: vllm is hardly known to a name server: names from /etc/ho",
        ),
        # Rules that say nothing
        (
            DNS + "\nallow: [{host: a.x.example}]\ndeny: [{host: '*.x.example'}]",
            "3:9: p:allow[0]: warning: allows nothing: p:deny[0] denies all of it",
        ),
        (
            DNS + "\nallow: [{host: '*.x.example'}]\ndeny: [{host: '**.x.example', ports: [443]}]",
            "3:9: p:allow[0]: warning: allows nothing: p:deny[0] denies all of it",
        ),
        (
            DNS + "\nallow: [{host: '**.x.example'}]\ndeny: [{host: '**.example'}]",
            "3:9: p:allow[0]: warning: allows nothing: p:deny[0] denies all of it",
        ),
        (
            DNS + "\n" + SAME + ", {host: A.example., ports: [443]}]",
            "3:35: p:allow[1]: warning: a.example is already at 3:16",
        ),
        (
            DNS + "\nallow: [{host: '*.a.example', ports: [1-9, 443]}, {host: '*.a.example'}]",
            "3:58: p:allow[1]: warning: *.a.example is already at 3:16",
        ),
        (
            DNS + "\nallow: [{host: a.example, ports: [443, udp/443]}]",
            "3:9: p:allow[0]: warning: opens udp/443, where QUIC is refused unless the rule says",
        ),
        (
            DNS + "\nallow: [{host: a.example, quic: allow}]",
            "3:9: p:allow[0]: warning: quic: allow opens nothing: the rule has no UDP port",
        ),
        # What reads otherwise than it is written
        (
            DNS + "\nallow: [{host: xn--bcher-kva.example}]",
            "3:16: p:allow[0]: warning: xn--bcher-kva.example reads as bücher.example: are all le",
        ),
    ],
)
def test_warnings(tmp_path, text, warning):
    """Each kind of doubtful rule gets one warning at its place."""
    found = [w for w in _lint(tmp_path, text) if "every port of every" not in w]

    assert len(found) == 1, found
    assert found[0].startswith(warning)


@pytest.mark.parametrize(
    "text",
    [
        DNS + "\n" + SAME + "]",
        DNS + "\n" + SAME + ", {host: '*.example.com', ports: [22, 5432, udp/5000, icmp]}]",
        # Without dns nobody learns names, so nothing escapes.
        "allow: [{cidr: 8.8.8.8, ports: [udp/53, 853]}]",
        "dns: {servers: [10.20.0.2], search: [x.example]}\nallow: [{host: vllm}]",
        "dns: {servers: [127.0.0.11]}\nallow: [{host: vllm}]",
        DNS + "\nallow: [{host: dns.google, ports: [5432]}]",
        DNS + "\nallow: [{host: a.dns.google}]",
        DNS + "\n" + SAME + "]\ndeny: [{cidr: 10.20.0.2, ports: [80]}]",
        DNS + "\n" + SAME + "]\ndeny: [{cidr: 10.20.0.3}]",
        # Denied in part only
        DNS + "\nallow: [{host: '*.x.example'}]\ndeny: [{host: any.x.example}]",
        DNS + "\nallow: [{host: '**.x.example'}]\ndeny: [{host: '*.x.example'}]",
        DNS + "\nallow: [{host: x.example}]\ndeny: [{host: '**.x.example'}]",
        DNS + "\nallow: [{host: a.example}]\ndeny: [{host: a.example, ports: [22]}]",
        # Not repeated
        DNS + "\nallow: [{host: a.example}, {host: '*.a.example'}, {host: '**.a.example'}]",
        DNS + "\nallow: [{host: a.example, ports: [udp/443, 443], quic: allow}]",
        DNS + "\n" + SAME + "]\ndeny: [{host: '**.zip'}]",
    ],
)
def test_no_warning(tmp_path, text):
    """Rules that mean what they say are left alone."""
    assert _lint(tmp_path, text) == []


def test_lists_of_names(tmp_path):
    """What is wrong with many lines of a list is one warning at the first of them."""
    (tmp_path / "l.txt").write_text("a.example\nb.example\nb.example\nvllm\nb.example\npostgres\n")
    found = _lint(tmp_path, f"{DNS}\nallow: [{{host_file: l.txt}}]")

    assert [warning.replace(f"{tmp_path}/", "") for warning in found] == [
        "l.txt:3:1: p:allow[0]: warning: b.example is already at l.txt:2:1, and 1 more",
        "l.txt:4:1: p:allow[0]: warning: vllm is hardly known to a name server, and 1 more: "
        "names from /etc/hosts are never learned, use cidr for them",
    ]


def test_an_empty_list_of_names(tmp_path):
    """A list without names matches nothing, which matters most under deny."""
    (tmp_path / "l.txt").write_text("# to do\n")
    found = _lint(tmp_path, f"{DNS}\n{SAME}]\ndeny: [{{host_file: l.txt}}]")

    assert found == ["4:8: p:deny[0]: warning: matches nothing: its list is empty"]
