# SPDX-License-Identifier: Apache-2.0
"""Warnings about policies that load but hardly say what their author means. Few, and true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentwall.errors import SourceLocation
from agentwall.net.domain import NamePattern
from agentwall.net.endpoint import IPNetwork
from agentwall.net.ports import ANY
from agentwall.net.reserved import METADATA_SERVICES, RESERVED_BLOCKS
from agentwall.policy.lint_detect import detect_warnings
from agentwall.policy.lint_names import name_warnings
from agentwall.policy.lookup import PrefixIndex
from agentwall.policy.model import Policy, Rule
from agentwall.policy.phases import every_rule, in_each_phase
from agentwall.policy.warning import LintWarning, and_more, covers

# A rule on 127.0.0.1 or ::1 names one host, and is how loopback is opened.
_WHOLE_BLOCKS = frozenset(
    block for block in RESERVED_BLOCKS if block.prefixlen < block.max_prefixlen
)
_COMPARED = 100
"""With how many lines about one thing a later one is compared; all of them would be quadratic."""


def lint_policy(policy: Policy) -> tuple[LintWarning, ...]:
    """Return the warnings about *policy*, bases included.

    Of one with phases: what holds in all of them, and what is about the rules of one.
    """
    found = [tuple(_warnings(phased)) for phased in in_each_phase(policy)]
    everywhere = set(found[0]).intersection(*found)
    ids = {rule.id for rule in every_rule(policy) if rule.phase}
    return tuple(
        dict.fromkeys(
            warning
            for warnings in found
            for warning in warnings
            if warning in everywhere or warning.what in ids
        )
    )


def _warnings(policy: Policy) -> Iterator[LintWarning]:
    if not policy.tests:
        where = SourceLocation(policy.files[-1], 1, 1)
        yield LintWarning(where, "tests", "no tests: a change of the rules goes unnoticed")
    denies = [(rule, PrefixIndex(rule.prefixes)) for rule in policy.deny]
    for rule in policy.allow:
        yield from _about_width(rule)
        yield from _about_shadow(rule, denies)
    for rule in policy.inbound:
        yield from _about_loopback(rule)
    for rules in (policy.allow, policy.deny, policy.inbound):
        yield from _about_repetition(rules)
        for rule in rules:
            if not rule.prefixes and not rule.patterns:
                yield LintWarning(rule.where, rule.id, "matches nothing: its list is empty")
    yield from name_warnings(policy)
    yield from detect_warnings(policy)


def _about_width(rule: Rule) -> Iterator[LintWarning]:
    everything = covers(rule.ports, ANY)
    for prefix in rule.prefixes:
        network = prefix.network
        if network in METADATA_SERVICES:
            text = f"opens a metadata service ({network.network_address}), which hands out keys"
            yield LintWarning(prefix.where, rule.id, text)
        elif network in _WHOLE_BLOCKS:
            yield LintWarning(prefix.where, rule.id, f"opens the whole reserved block {network}")
    if everything and (widest := [p for p in rule.prefixes if p.network.prefixlen == 0]):
        text = "opens every port of every address outside the reserved blocks"
        yield LintWarning(widest[0].where, rule.id, text)


def _about_shadow(rule: Rule, denies: Sequence[tuple[Rule, PrefixIndex]]) -> Iterator[LintWarning]:
    covering = [(deny, index) for deny, index in denies if covers(deny.ports, rule.ports)]
    if not rule.prefixes or not covering:
        return
    by = [_first_holding(prefix.network, covering) for prefix in rule.prefixes]
    if all(by):
        yield LintWarning(rule.where, rule.id, f"allows nothing: {by[0]} denies all of it")


def _first_holding(network: IPNetwork, denies: Sequence[tuple[Rule, PrefixIndex]]) -> str | None:
    for deny, index in denies:
        if index.find(network.network_address, longest=network.prefixlen):
            return deny.id
    return None


def _about_loopback(rule: Rule) -> Iterator[LintWarning]:
    if rule.prefixes and all(p.network.is_loopback for p in rule.prefixes):
        yield LintWarning(rule.where, rule.id, "never asked: loopback is not inbound")


def _about_repetition(rules: Sequence[Rule]) -> Iterator[LintWarning]:
    """Warn once a rule about what an earlier line has with at least the same ports."""
    seen: dict[IPNetwork | NamePattern, list[tuple[Rule, SourceLocation]]] = {}
    for rule in rules:
        repeated: list[tuple[IPNetwork | NamePattern, SourceLocation, SourceLocation]] = []
        for what, where in _entries(rule):
            earlier = seen.setdefault(what, [])
            first = next((w for r, w in earlier if covers(r.ports, rule.ports)), None)
            if first:
                repeated.append((what, where, first))
            elif len(earlier) < _COMPARED:
                earlier.append((rule, where))
        if repeated:
            what, where, first = repeated[0]
            text = f"{what} is already at {first}{and_more(len(repeated))}"
            yield LintWarning(where, rule.id, text)


def _entries(rule: Rule) -> Iterator[tuple[IPNetwork | NamePattern, SourceLocation]]:
    yield from ((prefix.network, prefix.where) for prefix in rule.prefixes)
    yield from ((pattern.pattern, pattern.where) for pattern in rule.patterns)
