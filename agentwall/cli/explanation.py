# SPDX-License-Identifier: Apache-2.0
"""What ``agentwall policy explain`` says, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import describe_destination
from agentwall.net.endpoint import Endpoint, NamedEndpoint, destination
from agentwall.net.ports import describe, protocol_name
from agentwall.net.reserved import innermost_block
from agentwall.policy.detection import describe_looked_for, looked_for
from agentwall.policy.evaluate import Decision, evaluate, evaluate_name, loopback_scope
from agentwall.policy.explain import (
    describe_inspect,
    describe_terms,
    labels_below,
    permit_line,
    suggest,
)
from agentwall.policy.model import Inspect, Loopback, Policy
from agentwall.policy.question import (
    AskReason,
    QuestionDecision,
    describe_question,
    judge_question,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One destination, and what a policy says of it."""

    policy: Policy
    remote: Endpoint | NamedEndpoint
    direction: Direction
    local_port: int
    """The sandbox's own port of an inward flow; 0 outward."""
    decision: Decision
    question: QuestionDecision | None
    """Whether the name may be asked for; None for an address."""

    @classmethod
    def of(
        cls,
        policy: Policy,
        remote: Endpoint | NamedEndpoint,
        direction: Direction,
        local_port: int,
    ) -> Explanation:
        """Judge *remote*; inward without *local_port* the port of *remote* is meant."""
        question = None
        if isinstance(remote, NamedEndpoint):
            port = 0
            decision = evaluate_name(policy, remote.name, remote.protocol, remote.port)
            question = judge_question(policy, remote.name)
        else:
            port = (local_port or remote.port) if direction is Direction.IN else 0
            decision = evaluate(
                policy,
                direction=direction,
                remote=remote,
                local_port=port,
                loopback=loopback_scope(policy, own_netns=False),
            )
        return cls(
            policy=policy,
            remote=remote,
            direction=direction,
            local_port=port,
            decision=decision,
            question=question,
        )


def cause(decision: Decision) -> str:
    """Return which rule decided and where it is written, or what did without a rule."""
    if decision.rule is None:
        return "no rule matches" if decision.verdict is Verdict.DENY else "loopback is free"
    return f"{decision.rule.id} at {decision.where}"


def as_lines(found: Explanation) -> Iterator[str]:
    """Yield the verdict, and then one line for each thing there is to say."""
    decision = found.decision
    target = describe_destination(found.remote)
    yield f"{decision.verdict.value}  {found.direction.value} {target}"
    if decision.rule is None:
        yield f"  reason  {cause(decision)}"
    else:
        yield f"  rule    {decision.rule.id}: {_subject(decision)}, {describe(decision.rule.ports)}"
        yield f"  at      {decision.where}"
    if found.policy.phase is not None:
        yield f"  phase   {found.policy.phase}"
    if labels := _labels(decision):
        assert decision.pattern is not None
        words = "1 label" if labels == 1 else f"{labels} labels"
        yield f"  match   {words} below {decision.pattern.pattern.name}"
    if decision.terms is not None:
        yield f"  terms   {describe_terms(decision.terms)}"
    if decision.rule is not None and decision.rule.note:
        yield f"  note    {decision.rule.note}"
    if _is_looked_into(decision):
        if decision.rule is not None and decision.rule.inspect is not Inspect.ALL:
            yield f"  inspect {describe_inspect(decision.rule.inspect)}"
        yield f"  detect  {describe_looked_for(found.policy, decision.rule)}"
    if decision.verdict is Verdict.DENY:
        yield f"  permit  {_suggestion(found)}"
    if found.question is not None:
        yield f"  asked   {_asked(found, found.question)}"
    if note := _note(found):
        yield f"  note    {note}"


def as_json(found: Explanation) -> dict[str, object]:
    """Return the same for programs: ``agentwall.explain/1``."""
    decision, remote = found.decision, found.remote
    return {
        "schema": "agentwall.explain/1",
        "policy": found.policy.name,
        "phase": found.policy.phase,
        "direction": found.direction.value,
        "protocol": protocol_name(remote.protocol),
        "remote": {
            "name": remote.name if isinstance(remote, NamedEndpoint) else None,
            "address": None if isinstance(remote, NamedEndpoint) else str(remote.address),
            "port": remote.port,
        },
        "local_port": found.local_port if found.direction is Direction.IN else None,
        "verdict": decision.verdict.value,
        "reason": {
            "code": decision.code.value,
            "rule": decision.rule.id if decision.rule else None,
            "file": decision.where.path if decision.where else None,
            "line": decision.where.line if decision.where else None,
        },
        "prefix": str(decision.prefix.network) if decision.prefix else None,
        "pattern": str(decision.pattern.pattern) if decision.pattern else None,
        "labels": _labels(decision) if decision.pattern else None,
        "terms": _terms(decision),
        "proxy": decision.is_proxy,
        "detect": _detect(found),
        "except": list(decision.rule.excepts) if decision.rule else [],
        "inspect": _inspect(decision),
        "question": _question(found.question) if found.question else None,
        "permit": _permit(found),
        "note": _note(found),
    }


def _subject(decision: Decision) -> str:
    found = decision.prefix.network if decision.prefix else None
    return str(found or (decision.pattern and decision.pattern.pattern))


def _labels(decision: Decision) -> int:
    if decision.pattern is None or decision.name is None:
        return 0
    return labels_below(decision.pattern.pattern, decision.name)


def _terms(decision: Decision) -> dict[str, str] | None:
    if decision.terms is None:
        return None
    return dict(term.split(": ") for term in describe_terms(decision.terms).split(", "))


def _is_looked_into(decision: Decision) -> bool:
    """Say whether something is looked for in the flow; on loopback and in questions nothing is."""
    return decision.verdict is Verdict.ALLOW and decision.code is ReasonCode.RULE


def _detect(found: Explanation) -> dict[str, str] | None:
    if not _is_looked_into(found.decision):
        return None
    classes = looked_for(found.policy, found.decision.rule)
    return {cls.value: response.value for cls, response in classes.items()}


def _inspect(decision: Decision) -> str | None:
    if decision.rule is None or not _is_looked_into(decision):
        return None
    return decision.rule.inspect.value


def _question(decision: QuestionDecision) -> dict[str, object]:
    where = decision.pattern.where if decision.pattern else None
    return {
        "verdict": decision.verdict.value,
        "why": decision.why.value,
        "name": decision.matched,
        "rule": decision.rule.id if decision.rule else None,
        "file": where.path if where else None,
        "line": where.line if where else None,
    }


def _permit(found: Explanation) -> str | None:
    if found.decision.verdict is not Verdict.DENY or found.decision.rule is not None:
        return None
    return permit_line(
        protocol=found.remote.protocol,
        remote=found.remote,
        direction=found.direction,
        local_port=found.local_port,
    )


def _suggestion(found: Explanation) -> str:
    rule = found.decision.rule
    return suggest(
        protocol=found.remote.protocol,
        remote=found.remote,
        direction=found.direction,
        local_port=found.local_port,
        code=found.decision.code,
        rule=rule.id if rule else None,
    )


def _asked(found: Explanation, question: QuestionDecision) -> str:
    text = describe_question(question)
    # Reachable by address, but the sandbox cannot find out the address.
    if question.why is AskReason.NO_RULE and found.decision.verdict is Verdict.ALLOW:
        line = permit_line(protocol=found.remote.protocol, remote=found.remote)
        return f"{text}; under allow: {line}" if line else text
    return text


def _note(found: Explanation) -> str | None:
    decision, remote = found.decision, found.remote
    if isinstance(remote, NamedEndpoint):
        if found.policy.dns is None and decision.verdict is Verdict.DENY and decision.rule is None:
            return "rules on names need DNS servers: dns: {servers: [...]}"
        return None
    if decision.code is ReasonCode.RESOLVER:
        return "a declared DNS server: each question is judged by its name"
    if decision.is_proxy:
        return "a proxy: what it is asked for is judged by the other rules"
    if found.direction is Direction.IN or decision.rule is not None:
        return None
    address = destination(remote.address)
    if address.is_loopback:
        return _LOOPBACK if found.policy.loopback is Loopback.AUTO else None
    if innermost_block(address) is None and any(
        rule.patterns and any(r.holds(remote.protocol, remote.port) for r in rule.ports)
        for rule in found.policy.allow
    ):
        return "a rule on names may permit it, once a name of the rule resolves to it"
    return None


_LOOPBACK = (
    "in the host's network namespace; allowed where the listener belongs to the sandbox, "
    "or the sandbox has a network namespace of its own"
)
