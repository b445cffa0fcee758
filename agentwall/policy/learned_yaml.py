# SPDX-License-Identifier: Apache-2.0
"""A learned policy as a policy file, with what speaks for each line as comments. Pure.

Equal input gives equal text: nothing in it depends on when or in which order events were read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from agentwall.net.destination import describe_destination
from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, NamedEndpoint
from agentwall.policy.learn import Learned, LeftOut
from agentwall.policy.learned_evidence import visible
from agentwall.policy.learned_rules import LearnedRule, Service
from agentwall.policy.resolver import DNS_PORT

_HTTPS: Service = (L4Protocol.TCP, 443)
_DISCARD_PORT = 9
"""Of the address that nothing permits (RFC 863)."""
_LONGEST_NOTE = 500
_MOST_LEFT_OUT = 200
"""Lines about what was left out for one reason."""
# Neither a number, a date nor a word that YAML reads as something else.
_PLAIN = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)+|[0-9]+(?:\.[0-9]+){3}", re.ASCII)


def format_policy(learned: Learned, notes: Iterable[str] = ()) -> str:
    """Return *learned* as YAML that agentwall loads.

    Args:
        learned: Not empty.
        notes: What a reader should know of the logs; shown at the top.
    """
    parts = [
        _head(learned, notes),
        _dns(learned),
        _rules("allow", learned.allow),
        _rules("inbound", learned.inbound),
        _tests(learned),
        _left_out(learned.left_out),
    ]
    return "\n".join(text for part in parts if (text := "".join(f"{line}\n" for line in part)))


def _head(learned: Learned, notes: Iterable[str]) -> Iterator[str]:
    yield "# Proposed by agentwall policy learn. It permits what was seen and nothing else; whether"
    yield "# that should have happened is for a reader to say, line by line."
    for line in learned.evidence.lines():
        yield f"# {line}"
    for note in notes:
        yield f"# note: {visible(note, _LONGEST_NOTE)}"
    yield "version: 1"


def _dns(learned: Learned) -> Iterator[str]:
    if not learned.servers:
        return
    yield "dns:"
    yield "  servers:"
    for server in learned.servers:
        for line in server.evidence.lines():
            yield f"    # {line}"
        if server.address.is_loopback:
            yield "    # on loopback: who listens there says what every name means"
        yield f"    - {_scalar(str(server.address))}"


def _rules(key: str, rules: tuple[LearnedRule, ...]) -> Iterator[str]:
    if not rules:
        return
    yield f"{key}:"
    for rule in rules:
        for line in (*rule.evidence.lines(), *rule.remarks):
            yield f"  # {line}"
        yield f"  - {_rule(rule)}"


def _rule(rule: LearnedRule) -> str:
    ports = ", ".join(port_entries(rule.services))
    if isinstance(rule.subject, IPAddress):
        return f"{{cidr: {_scalar(str(rule.subject))}, ports: [{ports}]}}"
    host = f"host: {_scalar(str(rule.subject))}"
    return f"{{{host}}}" if rule.services == (_HTTPS,) else f"{{{host}, ports: [{ports}]}}"


def port_entries(services: Iterable[Service]) -> list[str]:
    """Return *services* as entries of ``ports``; ports that follow each other become ranges."""
    by_protocol: dict[int, list[int]] = {}
    for protocol, port in sorted(set(services)):
        by_protocol.setdefault(protocol, []).append(port)
    entries = [
        f"{prefix}{span}"
        for protocol, prefix in ((L4Protocol.TCP, ""), (L4Protocol.UDP, "udp/"))
        for span in _spans(by_protocol.pop(protocol, []))
    ]
    echo = [by_protocol.pop(number, None) for number in (L4Protocol.ICMP, L4Protocol.ICMPV6)]
    if any(echo):
        entries.append("icmp")
    return entries + [f"ip/{protocol}" for protocol in by_protocol]


def _spans(ports: list[int]) -> Iterator[str]:
    for _, group in itertools.groupby(enumerate(ports), key=lambda item: item[1] - item[0]):
        span = [port for _, port in group]
        yield str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}"


def _tests(learned: Learned) -> Iterator[str]:
    """One row for each DNS server and allow rule; inbound rules have none in the language."""
    samples: list[Endpoint | NamedEndpoint] = [
        Endpoint(server.address, DNS_PORT, L4Protocol.UDP) for server in learned.servers
    ]
    samples += [rule.sample for rule in learned.allow]
    yield "tests:"
    for sample in samples:
        yield f'  - {{to: "{describe_destination(sample)}", expect: allow}}'
    yield f'  - {{to: "{describe_destination(_stranger(learned))}", expect: deny}}'


def _stranger(learned: Learned) -> Endpoint:
    """Return a destination for documentation (RFC 5737, RFC 3849) that no rule speaks of."""
    known = {rule.subject for rule in learned.allow} | {s.address for s in learned.servers}
    candidates: Iterator[IPAddress] = itertools.chain(
        IPv4Network("192.0.2.0/24").hosts(), IPv6Network("2001:db8::/64").hosts()
    )
    address = next(address for address in candidates if address not in known)
    return Endpoint(address, _DISCARD_PORT, L4Protocol.TCP)


def _left_out(items: tuple[LeftOut, ...]) -> Iterator[str]:
    if not items:
        return
    yield "# Seen, and not above:"
    for reason, group in itertools.groupby(items, key=lambda item: item.reason):
        same = list(group)
        yield f"# {reason}"
        for item in same[:_MOST_LEFT_OUT]:
            yield f"#   {item.what}: {item.evidence.brief()}"
        if len(same) > _MOST_LEFT_OUT:
            yield f"#   and {len(same) - _MOST_LEFT_OUT} more"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'
