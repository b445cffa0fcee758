# SPDX-License-Identifier: Apache-2.0
"""Warnings about names and name servers; a part of :mod:`agentwall.policy.lint`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentwall.net.domain import NameDepth, NamePattern, unicode_name
from agentwall.net.endpoint import L4Protocol
from agentwall.net.ports import PortRange
from agentwall.net.reserved import innermost_block
from agentwall.policy.lookup import PatternIndex, PrefixIndex
from agentwall.policy.model import (
    AskScope,
    DnsSettings,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
)
from agentwall.policy.warning import LintWarning, and_more, covers

# Those that clients know by name out of the box (the lists of curl, Firefox and Chromium). Whoever
# may reach one can ask it for anything, inside TLS.
_RESOLVERS = (
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "dns.adguard-dns.com",
    "dns.alidns.com",
    "dns.google",
    "dns.nextdns.io",
    "dns.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.opendns.com",
    "doh.pub",
    "mozilla.cloudflare-dns.com",
    "one.one.one.one",
)
_BOTH = (L4Protocol.UDP, L4Protocol.TCP)
_DOCKER_STUB = "127.0.0.11"
"""Docker's name server knows containers by single labels."""


def name_warnings(policy: Policy) -> Iterator[LintWarning]:
    """Yield the warnings about names in *policy*: none unless it has ``dns``."""
    if policy.dns is None:
        return
    yield from _about_questions(policy, policy.dns)
    denies = [(rule, PatternIndex(rule.patterns)) for rule in policy.deny if rule.patterns]
    for rule in policy.allow:
        yield from _about_servers(rule, policy.dns)
        yield from _about_resolvers(rule)
        yield from _about_hosts_file(rule, policy.dns)
        yield from _about_shadow(rule, denies)
        yield from _about_quic(rule)
    for rule in policy.deny:
        yield from _about_denied_servers(rule, policy.dns)
    for rule in policy.allow + policy.deny:
        yield from _about_encoding(rule)


def _opens(rule: Rule, protocols: Sequence[int], port: int) -> bool:
    return any(r.holds(protocol, port) for r in rule.ports for protocol in protocols)


def _about_questions(policy: Policy, dns: DnsSettings) -> Iterator[LintWarning]:
    if dns.names is AskScope.ANY:
        text = "any name may be asked for, and each carries data to whoever answers for it"
        yield LintWarning(dns.where, "dns.names", text)
    elif not any(rule.patterns for rule in policy.allow):
        text = "no allow rule is on names, so every question is refused"
        yield LintWarning(dns.where, "dns", text)


def _about_servers(rule: Rule, dns: DnsSettings) -> Iterator[LintWarning]:
    """Warn about rules that open ports where names are resolved."""
    servers = {server.network for server in dns.servers}
    if _opens(rule, _BOTH, 53):
        index = PrefixIndex(rule.prefixes)
        for server in dns.servers:
            address = server.network.network_address
            found = index.find(address)
            block = innermost_block(address)
            # A wide prefix does not open what lies in a reserved block.
            if found and (block is None or found.network.prefixlen >= block.prefixlen):
                text = (
                    f"opens port 53 of {address}, which dns.servers does already: questions there "
                    "are judged all the same"
                )
                yield LintWarning(found.where, rule.id, text)
                break
    # What is encrypted is not seen at the declared servers either.
    encrypted = _opens(rule, _BOTH, 853)
    others: list[RulePrefix | RulePattern] = [
        p for p in rule.prefixes if encrypted or p.network not in servers
    ]
    others += rule.patterns
    if others and (encrypted or _opens(rule, _BOTH, 53)):
        what = "port 853, where questions are encrypted"
        if not encrypted:
            what = "port 53 of others than dns.servers"
        text = f"opens {what}: names that resolve there are not judged, and open nothing"
        yield LintWarning(others[0].where, rule.id, text)


def _about_resolvers(rule: Rule) -> Iterator[LintWarning]:
    if not rule.patterns or not _opens(rule, _BOTH, 443):
        return
    index = PatternIndex(rule.patterns)
    for name in _RESOLVERS:
        if found := index.find(name):
            text = f"opens {name}, which resolves names inside HTTPS: those are not judged"
            yield LintWarning(found.where, rule.id, text)
            return


def _about_hosts_file(rule: Rule, dns: DnsSettings) -> Iterator[LintWarning]:
    knows_single_labels = bool(dns.search) or any(
        str(server.network.network_address) == _DOCKER_STUB for server in dns.servers
    )
    found = [
        p
        for p in rule.patterns
        if p.pattern.name == "localhost"
        or (
            not knows_single_labels
            and "." not in p.pattern.name
            and p.pattern.depth is NameDepth.EXACT
        )
    ]
    if found:
        text = (
            f"{found[0].pattern} is hardly known to a name server{and_more(len(found))}: names "
            "from /etc/hosts are never learned, use cidr for them"
        )
        yield LintWarning(found[0].where, rule.id, text)


def _about_shadow(rule: Rule, denies: Sequence[tuple[Rule, PatternIndex]]) -> Iterator[LintWarning]:
    covering = [(deny, index) for deny, index in denies if covers(deny.ports, rule.ports)]
    if not rule.patterns or not covering:
        return
    by = [_first_holding(p.pattern, covering) for p in rule.patterns]
    if all(by):
        yield LintWarning(rule.where, rule.id, f"allows nothing: {by[0]} denies all of it")


def _first_holding(pattern: NamePattern, denies: Sequence[tuple[Rule, PatternIndex]]) -> str | None:
    # A star is a label that no pattern names, so only a pattern for all of them holds it.
    labels = {NameDepth.EXACT: "", NameDepth.LABEL: "*.", NameDepth.BELOW: "*.*."}
    for deny, index in denies:
        if index.find(labels[pattern.depth] + pattern.name):
            return deny.id
    return None


def _about_quic(rule: Rule) -> Iterator[LintWarning]:
    if not rule.patterns:
        return
    udp = PortRange(L4Protocol.UDP << 16, L4Protocol.UDP << 16 | 0xFFFF)
    if rule.terms.quic and not any(r.first <= udp.last and udp.first <= r.last for r in rule.ports):
        text = "quic: allow opens nothing: the rule has no UDP port (QUIC is udp/443)"
        yield LintWarning(rule.where, rule.id, text)
    if not rule.terms.quic and _opens(rule, (L4Protocol.UDP,), 443):
        text = "opens udp/443, where QUIC is refused unless the rule says quic: allow"
        yield LintWarning(rule.where, rule.id, text)


def _about_denied_servers(rule: Rule, dns: DnsSettings) -> Iterator[LintWarning]:
    if not rule.prefixes or not _opens(rule, _BOTH, 53):
        return
    index = PrefixIndex(rule.prefixes)
    for server in dns.servers:
        if found := index.find(server.network.network_address):
            text = (
                f"denies the name server {server.network.network_address}: no name resolves there"
            )
            yield LintWarning(found.where, rule.id, text)
            return


def _about_encoding(rule: Rule) -> Iterator[LintWarning]:
    found = [p for p in rule.patterns if "xn--" in p.pattern.name]
    if found:
        name = found[0].pattern.name
        text = f"{name} reads as {unicode_name(name)}{and_more(len(found))}: are all letters meant?"
        yield LintWarning(found[0].where, rule.id, text)
