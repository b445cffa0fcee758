# SPDX-License-Identifier: Apache-2.0
"""Random policies with rules on names, names close to those rules, and what was learned of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from agree.judge import Binding
from agree.strategies import (
    HERE,
    PROTOCOLS,
    V4_POOL,
    V6_POOL,
    endpoint,
    policies,
    port_lists,
    remotes,
)
from hypothesis import strategies as st

from agentwall.net.domain import MAX_LABEL, MAX_NAME, NameDepth, NamePattern
from agentwall.net.endpoint import destination
from agentwall.policy.model import (
    AskScope,
    DnsSettings,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
)

LABELS = st.sampled_from(("a", "a", "b", "b", "aa", "hub", "evilhub", "x-1", "_srv"))
"""Few, so that names stand above, below and beside one another."""
LONG = ".".join(["l" * MAX_LABEL] * 3 + ["m" * (MAX_NAME - 3 * (MAX_LABEL + 1))])
NAMES = st.one_of(
    *[st.lists(LABELS, min_size=1, max_size=most).map(".".join) for most in (2, 3, 4, 5)],
    st.sampled_from((LONG, LONG.partition(".")[2], "n" * MAX_LABEL, ".".join("a" * 127))),
)
PATTERNS = st.builds(NamePattern, NAMES, st.sampled_from(NameDepth))
SERVERS = (("10.0.0.53",), ("8.8.8.8", "169.254.169.254"), ("127.0.0.1",), ("2001:db8::7",))
OUTSIDE = tuple(map(ip_address, ("203.0.113.7", "93.184.216.34", "2001:db8::7", "10.1.2.3")))


@st.composite
def name_rules(draw, section: Section, first: int, most: int):
    """Return up to *most* rules on names, their indexes from *first* on."""
    found = []
    for index in range(first, first + draw(st.integers(min(first, 1), most))):
        patterns = draw(st.lists(PATTERNS, min_size=1, max_size=4))
        found.append(
            Rule(
                policy="random",
                section=section,
                index=index,
                patterns=tuple(RulePattern(pattern, HERE) for pattern in patterns),
                ports=draw(port_lists(deny=section is Section.DENY)),
                where=HERE,
            )
        )
    return tuple(found)


@st.composite
def dns_settings(draw, servers=SERVERS, around=()):
    """Return which servers there are, and what may be asked of them.

    Suffixes of the search list are often what patterns of the rules *around* end in.
    """
    patterns = [found.pattern for rule in around for found in rule.patterns]
    tails = [tail for found in patterns if (tail := found.name.partition(".")[2])]
    suffixes = st.one_of(LABELS, NAMES, *[st.sampled_from(tails) for _ in (1, 2) if tails])
    search = draw(st.lists(suffixes.filter(lambda name: len(name) < 40), max_size=5, unique=True))
    if draw(st.integers(0, 3)) == 0:
        search = _nested(draw(LABELS), search)
    return DnsSettings(
        servers=tuple(
            RulePrefix(ip_network(text), HERE) for text in draw(st.sampled_from(servers))
        ),
        search=tuple(search[:8]),
        names=draw(st.sampled_from((AskScope.ALLOWED_ONLY,) * 3 + (AskScope.ANY,))),
        where=HERE,
    )


def _nested(name: str, others: list[str]) -> list[str]:
    """Return suffixes that end one another, the shortest last."""
    made = [name]
    for other in others:
        made.insert(0, f"{other}.{made[0]}")
    return made


@st.composite
def named_policies(draw, servers=SERVERS):
    """Return a policy with rules on names between and beside those on addresses."""
    policy: Policy = draw(policies())
    allow = _some(draw, policy.allow)
    for rule in draw(name_rules(Section.ALLOW, 10, 6)):
        allow.insert(draw(st.integers(0, len(allow))), rule)
    deny = list(policy.deny[: draw(st.integers(0, 1))])
    for rule in draw(name_rules(Section.DENY, 10, 2)):
        deny.insert(draw(st.integers(0, len(deny))), rule)
    return replace(
        policy,
        allow=tuple(allow),
        deny=tuple(deny),
        dns=draw(dns_settings(servers=servers, around=allow)),
    )


def _some(draw, rules: tuple[Rule, ...]) -> list[Rule]:
    """Return few of the rules on addresses, so that names decide often; some as proxies."""
    kept = rules[: draw(st.integers(0, 2))]
    return [replace(rule, is_proxy=draw(st.integers(0, 3)) == 0) for rule in kept]


@st.composite
def names_near(draw, *around: Policy):
    """Return a name that a pattern of one of the policies holds, or just does not."""
    rules = [rule for policy in around for rule in (*policy.allow * 3, *policy.deny)]
    patterns = [found.pattern for rule in rules for found in rule.patterns]
    name = draw(st.sampled_from(patterns)).name if patterns else draw(NAMES)
    label, other = draw(LABELS), draw(LABELS)
    below, further = f"{label}.{name}", f"{label}.{other}.{name}"
    made = draw(
        st.sampled_from(
            (
                *(name, name, name, below, below, further),
                *(f"evil{name}", f"{name}.evil", f"{name}.{label}", name.partition(".")[2]),
            )
        )
    )
    is_name = 0 < len(made) <= MAX_NAME and max(map(len, made.split("."))) <= MAX_LABEL
    return made if is_name else draw(NAMES)


@st.composite
def questions(draw, policy: Policy):
    """Return a name to ask for: near the rules, with a suffix of the search list or without."""
    name = draw(st.one_of(names_near(policy), names_near(policy), NAMES))
    search = policy.dns.search if policy.dns else ()
    if not search or draw(st.booleans()):
        return name
    shorts = [
        found.pattern.name.removesuffix("." + suffix)
        for rule in policy.allow
        for found in rule.patterns
        for suffix in search
        if found.pattern.name.endswith("." + suffix)
    ]
    short = name
    if shorts and draw(st.booleans()):
        short = draw(st.sampled_from(("", "", draw(LABELS) + "."))) + draw(st.sampled_from(shorts))
    made = f"{short}.{draw(st.sampled_from(search))}"
    return made if len(made) <= MAX_NAME else name


def bindings(*around: Policy, most: int = 8):
    """Return names that an address was learned under; some of them are over."""
    live = st.sampled_from((True, True, True, False))
    one = st.builds(Binding, names_near(*around), live)
    return st.lists(one, max_size=most, unique_by=lambda binding: binding.name)


@st.composite
def named_remotes(draw, policy: Policy):
    """Return an endpoint at or next to a port of some rule, often where only names decide."""
    if draw(st.integers(0, 5)) == 0:
        allow = tuple(rule for rule in policy.allow if rule.prefixes)
        deny = tuple(rule for rule in policy.deny if rule.prefixes)
        return draw(remotes(replace(policy, allow=allow, deny=deny)))
    return draw(_at_rule(draw(st.sampled_from((*policy.allow * 3, *policy.deny))), policy))


@st.composite
def _at_rule(draw, rule: Rule, policy: Policy):
    """Return an endpoint at or next to a port of *rule*, whatever its address."""
    servers = tuple(prefix.network[0] for prefix in policy.dns.servers) if policy.dns else ()
    pools = (*OUTSIDE * 12, *servers, *map(ip_address, (*V4_POOL, *V6_POOL)))
    around = draw(st.sampled_from(rule.ports))
    edges = (around.first, around.last)
    selector = draw(st.sampled_from((*edges * 4, around.first - 1, around.last + 1)))
    protocol, port = selector >> 16, selector & 0xFFFF
    if not 0 < protocol < 255 or draw(st.integers(0, 7)) == 0:
        protocol, port = draw(st.sampled_from(PROTOCOLS)), draw(st.sampled_from((53, 443, 8005)))
    return endpoint(draw(st.sampled_from(pools)), protocol, port)


@st.composite
def named_flows(draw, policy: Policy):
    """Return an endpoint and what it was learned under, often a name that some rule is about."""
    named = [rule for rule in (*policy.allow * 2, *policy.deny) if rule.patterns]
    if not named or draw(st.integers(0, 3)) == 0:
        return draw(named_remotes(policy)), draw(bindings(policy))
    rule = draw(st.sampled_from(named))
    pattern = draw(st.sampled_from(rule.patterns)).pattern
    above = {
        NameDepth.EXACT: "",
        NameDepth.LABEL: draw(LABELS) + ".",
        NameDepth.BELOW: f"{draw(LABELS)}.{draw(LABELS)}.",
    }[pattern.depth]
    others = draw(bindings(policy, most=4))
    held = above + pattern.name
    learned = [binding for binding in others if binding.name != held]
    if len(held) <= MAX_NAME:
        learned.insert(draw(st.integers(0, len(learned))), Binding(held))
    return draw(_at_rule(rule, policy)), learned


@st.composite
def learned_addresses(draw, *around: Policy):
    """Return what a sandbox learned: an address and its names, of a few addresses."""
    addresses = draw(st.lists(st.sampled_from(OUTSIDE), min_size=1, max_size=4, unique=True))
    return {destination(address): draw(bindings(*around)) for address in addresses}
