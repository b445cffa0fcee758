# SPDX-License-Identifier: Apache-2.0
"""No input makes the loader fail in another way than by a PolicyError with a place."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.errors import PolicyError
from agentwall.policy.document import PolicyDocument
from agentwall.policy.load import load_policy

FULL = """\
# A policy with every key.
version: 1
name: full
mode: audit
on_error: degrade
refuse_with: ECONNREFUSED
extends: []
dns: {servers: [10.20.0.2], search: [x.example], names: any, min_ttl: 9, max_addresses: 9}
allow:
  - cidr: 10.20.0.0/24
    ports: [443, 8000-8010, "udp/53"]
    note: servers
  - {cidr: any, ports: [any]}
  - {host: "*.bücher.example", sni: optional, ech: outer, quic: allow}
  - {host: "**.s3.amazonaws.com", shared_suffix: true, ports: [443, udp/443]}
  - {proxy: 10.0.0.5/32, ports: [3128], except: [mining, tunnel/ssh], inspect: wire}
deny:
  - {host: "**.zip"}
  - cidr: 10.20.0.9
  - {cidr: "2001:db8::/32", ports: [any, 443]}
  - {cidr: any, ports: [icmp]}
inbound:
  - {cidr: 10.20.0.1, ports: [8000], inspect: none}
loopback: deny
detect:
  mining: off
  scan: {response: alert, targets: 9, ports: 9, seconds: 9}
  dns_exfil: {response: block, labels: 9}
  depth_bytes: 4096
tests:
  - {to: "10.20.0.7:443", expect: allow}
  - {to: "udp/10.20.0.9:53", expect: deny}
"""


def _write(directory, raw):
    path = directory / "p.yaml"
    path.write_bytes(raw)
    return path


def _load_or_fail(path) -> None:
    """Load, or see an error that says where."""
    try:
        load_policy(path, search_path=())
    except PolicyError as err:
        for error in err.errors:
            assert error.where.line >= 1
            assert error.where.column >= 1
            assert str(error)


FUZZ = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda s: s.encode("utf-8"))))
def test_arbitrary_bytes(tmp_path, raw):
    """Arbitrary bytes are a policy or a PolicyError."""
    _load_or_fail(_write(tmp_path, raw))


PIECES = (
    *("&a ", "*a", "<<: ", "- ", "? ", ": ", "{", "}", "[", "]", "!!x ", "\n", "\t", '"', "'"),
    *("|\n", "null", "~", "1e3", "0x1", "any", "::/0", "-1", "\0", "..", '"\\0"'),
    *("cidr_file: .", "host_file: .", "extends: [p]", "extends: ['']", "*.", "xn--", "\u3002"),
)


@st.composite
def _mutated(draw):
    text = FULL
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12)))
        piece = draw(
            st.one_of(
                st.text(max_size=6),
                st.sampled_from(PIECES),
            )
        )
        text = text[:begin] + piece + text[end:]
    return text.encode("utf-8")


@FUZZ
@given(_mutated())
def test_mutated_policy(tmp_path, raw):
    """A policy with pieces knocked out or put in is a policy or a PolicyError."""
    _load_or_fail(_write(tmp_path, raw))


YAML_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 70_000),
        st.sampled_from(["any", "10.0.0.0/8", "443", "x", "", "a\0b", "../p", "icmp", "1.1.1.1:1"]),
        st.sampled_from(["hub.example.com", "*.com", "**.github.io", "xn--a", "outer", "10.0.0.2"]),
        st.sampled_from(["alert", "block", "kill", "tunnel", "tunnel/ssh", "beacon/x", "p2p/"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("cidr", "cidr_file", "ports", "to", "expect", "note", "host", "host_file"),
                    *("proxy", "sni", "shared_suffix", "servers", "search", "names", "min_ttl"),
                    *("runtime", "cgroup", "setup", "allow", "mode"),
                    *("except", "mining", "scan", "dns_exfil", "response", "labels", "seconds"),
                ]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
KEYS = (*PolicyDocument.model_fields, "zzz")


@FUZZ
@given(st.dictionaries(st.sampled_from(KEYS), YAML_VALUES, max_size=4))
def test_wrong_shapes(tmp_path, document):
    """A document of any shape, written as JSON, is a policy or a PolicyError."""
    raw = json.dumps({"version": 1} | document).encode()
    _load_or_fail(_write(tmp_path, raw))
