# SPDX-License-Identifier: Apache-2.0
"""What a policy says about one DNS question: the reference that the kernel must agree with.

As plain as :mod:`agentwall.policy.evaluate`, and as independent of the name tables.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from agentwall.flow.verdict import Verdict
from agentwall.policy.evaluate import match_name
from agentwall.policy.model import AskScope, Policy, Rule, RulePattern


class AskReason(enum.Enum):
    """Why a name may be asked for, or not."""

    RULE = "rule"
    """A rule allows some port of the name."""
    ANY = "any"
    """``names: any``."""
    SEARCH = "search"
    """A short name: a rule allows some port of it under another suffix of ``dns.search``."""
    SUFFIX = "suffix"
    """A suffix of ``dns.search`` follows a name of which a rule allows some port."""
    DENIED = "denied"
    """Rules speak of the name, and allow no port of it."""
    NO_RULE = "no-rule"
    NO_SERVERS = "no-servers"
    """The policy declares no DNS server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionDecision:
    """Whether a name may be asked for, and where that comes from."""

    verdict: Verdict
    """ALLOW or DENY, whatever the mode."""
    why: AskReason
    rule: Rule | None = None
    """Of RULE, SEARCH and SUFFIX the one that allows; of DENIED the first one that denies."""
    pattern: RulePattern | None = None
    """The rule's most specific pattern that holds *matched*."""
    matched: str | None = None
    """The name that *rule* speaks of: the one in question or, for SEARCH and SUFFIX, another."""


def judge_question(policy: Policy, name: str) -> QuestionDecision:
    """Judge a question of any type for *name* to a declared DNS server.

    Args:
        policy: Judged by its rules alone; the mode does not matter.
        name: In the one form of :mod:`agentwall.net.domain`.
    """
    if policy.dns is None:
        return QuestionDecision(verdict=Verdict.DENY, why=AskReason.NO_SERVERS)
    if found := _allowing(policy, name):
        return _found(Verdict.ALLOW, AskReason.RULE, name, found)
    if found := _speaking(policy.deny, name):
        return _found(Verdict.DENY, AskReason.DENIED, name, found)
    if policy.dns.names is AskScope.ANY:
        return QuestionDecision(verdict=Verdict.ALLOW, why=AskReason.ANY)
    for short, suffix in _split(policy.dns.search, name):
        for other in policy.dns.search:
            # Whether some port is denied there does not matter: another suffix may be meant.
            if other != suffix and (found := _speaking(policy.allow, f"{short}.{other}")):
                return _found(Verdict.ALLOW, AskReason.SEARCH, f"{short}.{other}", found)
    for short, _ in _split(policy.dns.search, name):
        if found := _allowing(policy, short):
            return _found(Verdict.ALLOW, AskReason.SUFFIX, short, found)
    return QuestionDecision(verdict=Verdict.DENY, why=AskReason.NO_RULE)


def _found(
    verdict: Verdict, why: AskReason, matched: str, found: tuple[Rule, RulePattern]
) -> QuestionDecision:
    rule, pattern = found
    return QuestionDecision(verdict=verdict, why=why, rule=rule, pattern=pattern, matched=matched)


def _speaking(rules: tuple[Rule, ...], name: str) -> tuple[Rule, RulePattern] | None:
    """Return the first of *rules* that matches *name*, for whatever ports."""
    return next(((rule, found) for rule in rules if (found := match_name(rule, name))), None)


def _allowing(policy: Policy, name: str) -> tuple[Rule, RulePattern] | None:
    """Return the first allow rule that leaves some port of *name* open, denies considered."""
    denied = [r for rule in policy.deny if match_name(rule, name) for r in rule.ports]
    for rule in policy.allow:
        pattern = match_name(rule, name)
        if pattern is None:
            continue
        for r in rule.ports:
            # If any place of a range is open, then its first or one right after a denied range is.
            for place in (r.first, *(d.last + 1 for d in denied)):
                if r.first <= place <= r.last and not any(
                    d.first <= place <= d.last for d in denied
                ):
                    return rule, pattern
    return None


def _split(search: tuple[str, ...], name: str) -> Iterator[tuple[str, str]]:
    """Yield (short name, suffix) for each suffix of *search* that ends *name*, longest first."""
    for suffix in sorted(search, key=len, reverse=True):
        if name.endswith("." + suffix):
            yield name.removesuffix("." + suffix), suffix


def describe_question(decision: QuestionDecision) -> str:
    """Return in one line whether the name may be asked for, and why."""
    by = ""
    if decision.rule is not None and decision.pattern is not None:
        by = f"{decision.rule.id} at {decision.pattern.where}"
    match decision.why:
        case AskReason.RULE:
            return f"yes: permitted by {by}"
        case AskReason.ANY:
            return "yes: names: any"
        case AskReason.SEARCH:
            return (
                f"yes, it opens nothing: under another suffix of dns.search it is "
                f"{decision.matched}, permitted by {by}"
            )
        case AskReason.SUFFIX:
            return (
                f"yes, it opens nothing: a suffix of dns.search after {decision.matched}, "
                f"permitted by {by}"
            )
        case AskReason.DENIED:
            return f"no: denied by {by}"
        case AskReason.NO_RULE:
            return "no: no rule permits a port of it"
        case AskReason.NO_SERVERS:
            return "no: the policy declares no DNS servers"
