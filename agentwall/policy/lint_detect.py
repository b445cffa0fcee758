# SPDX-License-Identifier: Apache-2.0
"""Warnings on ``detect``, ``except``, ``inspect``; :mod:`agentwall.policy.lint` gives most."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from agentwall.errors import SourceLocation
from agentwall.flow.finding import DetectionClass
from agentwall.policy.detection import SPOKEN
from agentwall.policy.model import DETECT_DEFAULTS, Inspect, Policy, Response, Rule, Section
from agentwall.policy.phases import every_rule
from agentwall.policy.values import EXCEPTABLE
from agentwall.policy.warning import LintWarning

_EVERY_CLASS = {cls.value for cls in EXCEPTABLE}


def detect_warnings(policy: Policy) -> Iterator[LintWarning]:
    """Yield the warnings that need no signatures."""
    detect = policy.detect
    response = detect.responses.get(DetectionClass.DNS_EXFIL, Response.OFF)
    if response.cuts:
        where = detect.places.get(DetectionClass.DNS_EXFIL, SourceLocation(policy.files[-1], 1, 1))
        text = (
            f"{response.value} only alerts in this version: no question is refused for how many "
            "there are"
        )
        yield LintWarning(where, "detect.dns_exfil", text)
    for rule in policy.allow + policy.inbound:
        yield from _about_exceptions(rule, policy)
        yield from _about_inspection(rule, policy)


def _about_exceptions(rule: Rule, policy: Policy) -> Iterator[LintWarning]:
    for entry in rule.excepts:
        name, _, dialect = entry.partition("/")
        if policy.detect.responses.get(DetectionClass(name)) is Response.OFF:
            text = f"excepts {entry}, which is not looked for anyway: detect says {name}: off"
            yield LintWarning(rule.where, rule.id, text)
        elif dialect and name in rule.excepts:
            yield LintWarning(rule.where, rule.id, f"excepts {entry} twice: {name} holds it")
    if rule.section is Section.ALLOW and set(rule.excepts) >= _EVERY_CLASS:
        text = "excepts every class: nothing is looked for in what it allows"
        yield LintWarning(rule.where, rule.id, text)


def _about_inspection(rule: Rule, policy: Policy) -> Iterator[LintWarning]:
    if rule.inspect is Inspect.ALL:
        return
    responses = {
        cls.value: policy.detect.responses.get(cls, DETECT_DEFAULTS[cls])
        for cls in SPOKEN
        if cls.value not in rule.excepts
    }
    said = f"inspect: {rule.inspect.value}"
    if all(response is Response.OFF for response in responses.values()):
        text = f"{said}: nothing is looked for in what is said here anyway"
        yield LintWarning(rule.where, rule.id, text)
        return
    blocked = [name for name, response in responses.items() if response.cuts]
    if rule.inspect is Inspect.NONE and blocked:
        text = (
            f"{said}: what is said here is not read, in clear or inside TLS, so detect does not "
            f"block {' or '.join(blocked)}"
        )
        yield LintWarning(rule.where, rule.id, text)


def dialect_warnings(policy: Policy, groups: Collection[str]) -> Iterator[LintWarning]:
    """Yield a warning for each exception of a dialect that nothing finds.

    Args:
        policy: With its bases.
        groups: ``class/dialect`` of all that can be found;
            :func:`agentwall.detect.judging.known_groups` knows them.
    """
    for rule in every_rule(policy):
        for entry in rule.excepts:
            name, slash, dialect = entry.partition("/")
            if not slash or entry in groups:
                continue
            dialects = sorted(g.partition("/")[2] for g in groups if g.startswith(f"{name}/"))
            close = difflib.get_close_matches(dialect, dialects, n=1)
            text = f"no signature has the dialect {entry}"
            yield LintWarning(rule.where, rule.id, f"{text}{_meant(name, dialect, close, groups)}")


def _meant(name: str, dialect: str, close: list[str], groups: Collection[str]) -> str:
    if close:
        return f"; did you mean {name}/{close[0]}?"
    elsewhere = sorted(group for group in groups if group.partition("/")[2] == dialect)
    return f"; did you mean {elsewhere[0]}?" if elsewhere else ""
