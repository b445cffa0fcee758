# SPDX-License-Identifier: Apache-2.0
"""The rules, phases and entries of ``match`` in policy files, as typed values.

A part of :mod:`agentwall.policy.load`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.net.ports import PortRange
from agentwall.policy.document import HTTPS, PHASE_LISTS, AllowRule, DenyRule, InboundRule
from agentwall.policy.extends import List, PolicyFile, RuleDocument
from agentwall.policy.model import (
    Inspect,
    NameTerms,
    Phase,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
    Selector,
)
from agentwall.policy.source import Place


def make_rules(
    file: PolicyFile, name: str, section: Section, phase: str | None = None
) -> list[Rule]:
    """Return the rules of one list of *file*, in its order.

    Args:
        file: Read with its lists.
        name: Of the policy in *file*.
        section: Which list.
        phase: Whose list; None: the policy's own.
    """
    holder = file.document if phase is None else file.document.phases[phase]
    documents: tuple[RuleDocument, ...] = getattr(holder, section.value)
    return [
        Rule(
            policy=name,
            section=section,
            index=index,
            prefixes=_prefixes(file, place, document),
            patterns=_patterns(file, place, document),
            # Only an allow rule on names may be silent about them.
            ports=_ports(document.ports or HTTPS),
            where=file.source.locate(place),
            note=document.note or None,
            terms=_terms(document),
            is_proxy=document.origin == "proxy",
            phase=phase,
            excepts=_excepts(document),
            inspect=_inspect(document),
        )
        for index, document in enumerate(documents)
        for place in (_place(section, index, phase),)
    ]


def place_of(rule: Rule) -> Place:
    """Return where *rule* stands in its file: ``("phases", "setup", "allow", 0)``."""
    return _place(rule.section, rule.index, rule.phase)


def _place(section: Section, index: int, phase: str | None) -> Place:
    own = (section.value, index)
    return own if phase is None else ("phases", phase, *own)


def merge_phases(files: Sequence[tuple[PolicyFile, str]]) -> tuple[Phase, ...]:
    """Return the phases of all *files*: the bases' before those that only later ones have.

    Args:
        files: Each with the name of its policy, bases first. Of a phase in several of them the
            rules are joined, and the last one that sets a mode decides.
    """
    merged: dict[str, Phase] = {}
    for file, name in files:
        for key, document in file.document.phases.items():
            allow, deny = (tuple(make_rules(file, name, each, key)) for each in PHASE_LISTS)
            before = merged.get(key)
            merged[key] = Phase(
                name=key,
                mode=document.mode or (before.mode if before else None),
                allow=(before.allow if before else ()) + allow,
                deny=(before.deny if before else ()) + deny,
                where=file.source.locate(("phases", key), key=True),
            )
    return tuple(merged.values())


def make_selectors(file: PolicyFile) -> tuple[Selector, ...]:
    """Return the entries of ``match`` in *file*."""
    return tuple(
        Selector(
            runtime=entry.runtime,
            labels=entry.labels,
            cgroup=entry.cgroup or None,
            name=entry.name or None,
            image=entry.image or None,
            namespace=entry.namespace or None,
            job=entry.job or None,
            unit=entry.unit or None,
            where=file.source.locate(("match", index)),
        )
        for index, entry in enumerate(file.document.match)
    )


def _prefixes(file: PolicyFile, place: Place, document: RuleDocument) -> tuple[RulePrefix, ...]:
    where = file.source.locate((*place, document.origin))
    networks = document.cidr or (document.proxy if isinstance(document, AllowRule) else ())
    listed = file.lists.get(place, List()).prefixes
    return listed or tuple(RulePrefix(network, where) for network in networks)


def _patterns(file: PolicyFile, place: Place, document: RuleDocument) -> tuple[RulePattern, ...]:
    if isinstance(document, InboundRule):
        return ()
    where = file.source.locate((*place, document.origin))
    listed = file.lists.get(place, List()).patterns
    return listed or tuple(RulePattern(pattern, where) for pattern in document.host)


def _terms(document: RuleDocument) -> NameTerms:
    if not isinstance(document, AllowRule):
        return NameTerms()
    return NameTerms(
        sni_optional=document.sni == "optional",
        ech_outer=document.ech == "outer",
        quic=document.quic == "allow",
    )


def _excepts(document: RuleDocument) -> tuple[str, ...]:
    return () if isinstance(document, DenyRule) else tuple(dict.fromkeys(document.excepts))


def _inspect(document: RuleDocument) -> Inspect:
    return Inspect.ALL if isinstance(document, DenyRule) else document.inspect


def _ports(entries: Sequence[tuple[PortRange, ...]]) -> tuple[PortRange, ...]:
    return tuple(dict.fromkeys(r for entry in entries for r in entry))
