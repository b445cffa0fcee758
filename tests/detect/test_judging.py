# SPDX-License-Identifier: Apache-2.0
"""What a policy makes of what was recognised: the same by masks, as in the kernel, and without."""

from __future__ import annotations

import inspect
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect import reverse, rhythm, stratum_v2
from agentwall.detect.budget import BudgetError
from agentwall.detect.judging import (
    EVERYTHING,
    FOUND_WITHOUT_SIGNATURES,
    MAX_GROUPS,
    Masks,
    group_bits,
    judge,
    known_groups,
    masks_of,
)
from agentwall.detect.signature import (
    Indicators,
    Maturity,
    Side,
    Signature,
    SignatureSet,
    Transport,
)
from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Mode
from agentwall.net.ports import ANY
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import (
    Detect,
    Inspect,
    Loopback,
    OnError,
    Policy,
    Response,
    Rule,
    RulePrefix,
    Section,
)

HERE = SourceLocation("p.yaml", 1, 1)
SPOKEN = (DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.P2P)
DIALECTS = ("ssh", "socks", "stratum-v1")


def _signature(group, number=0, **values) -> Signature:
    cls, _, dialect = group.partition("/")
    known = {
        "id": f"{group}-{number}",
        "cls": DetectionClass(cls),
        "dialect": dialect,
        "transport": Transport.TCP,
        "sides": (Side.CLIENT,),
        "pattern": "x",
        "severity": Severity.HIGH,
        "confidence": Confidence.HIGH,
        "maturity": Maturity.STABLE,
        "hand_over": False,
        "description": "",
        "references": (),
        "examples": (b"x",),
        "counterexamples": (b"y",),
        "where": HERE,
    }
    return Signature(**known | values)


def _set(signatures, indicators=()) -> SignatureSet:
    ordered = tuple(sorted(signatures, key=lambda one: one.id))
    return SignatureSet(signatures=ordered, indicators=tuple(indicators), digest="")


def _rule(index, section=Section.ALLOW, excepts=(), inspect=Inspect.ALL) -> Rule:
    return Rule(
        policy="p",
        section=section,
        index=index,
        prefixes=(RulePrefix(ip_network(f"192.0.2.{index}/32"), HERE),),
        ports=ANY,
        where=HERE,
        excepts=tuple(excepts),
        inspect=inspect,
    )


def _policy(responses=None, allow=(), inbound=(), deny=()) -> Policy:
    return Policy(
        name="p",
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.AUTO,
        allow=allow,
        deny=deny,
        inbound=inbound,
        detect=Detect() if responses is None else Detect(responses=responses),
        tests=(),
        files=("p.yaml",),
        digest="",
    )


GROUPS = [f"{cls.value}/{dialect}" for cls in SPOKEN for dialect in DIALECTS]
EXCEPTS = st.lists(st.sampled_from([*GROUPS, *(c.value for c in SPOKEN), "beacon"]), max_size=3)


@st.composite
def signature_sets(draw):
    """Return a set of up to eight signatures of every worth."""
    return _set(
        _signature(
            draw(st.sampled_from(GROUPS)),
            number,
            confidence=draw(st.sampled_from(Confidence)),
            maturity=draw(st.sampled_from(Maturity)),
            hand_over=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 8)))
    )


@st.composite
def policies(draw):
    """Return a policy with any responses, and rules with any exceptions that are read or not."""
    reads = st.sampled_from(Inspect)
    responses = {cls: draw(st.sampled_from(Response)) for cls in DetectionClass}
    allow = tuple(
        _rule(i, excepts=draw(EXCEPTS), inspect=draw(reads)) for i in range(draw(st.integers(0, 3)))
    )
    inbound = tuple(_rule(i, Section.INBOUND, draw(EXCEPTS), draw(reads)) for i in range(2))
    return _policy(responses, allow, inbound, (_rule(9, Section.DENY),))


def _as_in_the_kernel(masks: Masks, index: int | None, bits, matched: list[Signature]) -> Response:
    groups = certain = 0
    for signature in matched:
        if not signature.hand_over:
            groups |= 1 << bits[signature.group]
            certain |= 1 << bits[signature.group] if signature.blocks else 0
    excepts = 0 if index is None else masks.excepts.get(index, 0)
    if certain & masks.blocks & ~excepts:
        return Response.BLOCK
    return Response.ALERT if groups & (masks.blocks | masks.alerts) & ~excepts else Response.OFF


@given(signature_sets(), policies(), st.data())
def test_masks_agree(signatures, policy, data):
    """Whatever signatures match together, masks answer as the strictest of their judgements."""
    tables = compile_policy(policy)
    masks = masks_of(policy, tables, signatures)
    bits = group_bits(signatures)
    matched = data.draw(st.lists(st.sampled_from(signatures.signatures), min_size=1, unique=True))
    permitting = [i for i, rule in enumerate(tables.rules) if rule.section is not Section.DENY]
    index = data.draw(st.sampled_from([None, *permitting]))
    rule = None if index is None else tables.rules[index]
    judged = max((judge(one, policy, rule) for one in matched), key=lambda one: one.gravity)

    # The kernel only cuts; what else follows is for the engine to say.
    assert _as_in_the_kernel(masks, index, bits, matched) is (
        Response.BLOCK if judged.cuts else judged
    )


@given(signature_sets(), policies())
def test_masks_are_of_groups_only(signatures, policy):
    """No mask has a bit that no group has, blocks and alerts share none, and no rule has 0.

    But for rules that have nothing read: theirs has every bit, that of handing over too.
    """
    tables = compile_policy(policy)
    masks = masks_of(policy, tables, signatures)
    every = sum(1 << bit for bit in group_bits(signatures).values())

    assert not masks.blocks & masks.alerts
    assert not (masks.blocks | masks.alerts) & ~every
    unread = {i for i, rule in enumerate(tables.rules) if rule.inspect is Inspect.NONE}
    assert unread <= masks.excepts.keys()
    for index, mask in masks.excepts.items():
        assert mask == EVERYTHING if index in unread else mask and not mask & ~every


@given(st.randoms(), st.integers(1, MAX_GROUPS))
def test_bits_are_deterministic(random, count):
    """Bits follow the order of names, not that of files, and several signatures share one."""
    groups = [f"tunnel/x{number:02}" for number in range(count)]
    signatures = [_signature(group, number) for group in groups for number in range(2)]
    random.shuffle(signatures)
    shuffled = SignatureSet(signatures=tuple(signatures), indicators=(), digest="")

    assert group_bits(shuffled) == {group: bit for bit, group in enumerate(groups)}


def test_too_many_groups():
    """More groups than bits are refused, with both numbers."""
    signatures = _set(_signature(f"tunnel/x{number}") for number in range(MAX_GROUPS + 1))

    with pytest.raises(BudgetError, match=r"at most 63 dialects .*, got 64"):
        group_bits(signatures)


def _finding(**values) -> Finding:
    known = {
        "cls": DetectionClass.TUNNEL,
        "signature": "tunnel/ssh",
        "dialect": "ssh",
        "severity": Severity.HIGH,
        "confidence": Confidence.HIGH,
        "stage": Stage.DECODER,
    }
    return Finding(**known | values)


@pytest.mark.parametrize(
    ("values", "response"),
    [
        ({}, "block"),
        ({"confidence": Confidence.MEDIUM}, "block"),
        ({"confidence": Confidence.LOW}, "alert"),
        ({"stage": Stage.BEHAVIOUR}, "alert"),
        ({"stage": Stage.INDICATOR}, "alert"),
        ({"stage": Stage.SIGNATURE}, "block"),
        ({"cls": DetectionClass.P2P}, "alert"),
        ({"cls": DetectionClass.MINING}, "off"),
    ],
)
def test_findings(values, response):
    """What is not sure, and what is seen after the fact, alerts where the policy says block."""
    policy = _policy({DetectionClass.TUNNEL: Response.BLOCK, DetectionClass.MINING: Response.OFF})

    assert judge(_finding(**values), policy, None) is Response(response)


@pytest.mark.parametrize(
    ("excepts", "response"),
    [("tunnel/ssh", "off"), ("tunnel", "off"), ("tunnel/socks", "block"), ("mining/ssh", "block")],
)
def test_excepted_findings(excepts, response):
    """What the rule that allows the flow excepts is not looked for in it."""
    rule = _rule(0, excepts=(excepts,))
    policy = _policy(allow=(rule,))

    assert judge(_finding(), policy, rule) is Response(response)
    assert judge(_finding(), policy, None) is Response.BLOCK


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("inspect", Inspect)
def test_unread_findings(stage, inspect):
    """Behind a rule that has nothing read only names and behaviour count, elsewhere all."""
    rule = _rule(0, inspect=inspect)
    policy = _policy(allow=(rule,))
    told = Response.ALERT if stage in (Stage.BEHAVIOUR, Stage.INDICATOR) else Response.BLOCK
    unread = inspect is Inspect.NONE and told is Response.BLOCK

    assert judge(_finding(stage=stage), policy, rule) is (Response.OFF if unread else told)
    assert judge(_finding(stage=stage), policy, None) is told


@pytest.mark.parametrize(
    ("inspect", "response"), [("all", "block"), ("wire", "block"), ("none", "off")]
)
def test_unread_signatures(inspect, response):
    """What the automaton matched counts for nothing behind a rule that has nothing read."""
    rule = _rule(0, inspect=Inspect(inspect))

    assert judge(_signature("tunnel/ssh"), _policy(allow=(rule,)), rule) is Response(response)


def test_hand_over_is_no_finding():
    """A signature that only hands a flow over is answered with nothing."""
    signature = _signature("tunnel/ssh")

    assert judge(signature, _policy(), None) is Response.BLOCK
    assert judge(replace(signature, hand_over=True), _policy(), None) is Response.OFF


def test_known_groups():
    """What may be excepted: what signatures, lists, decoders and behaviour find."""
    pools = Indicators(
        id="mining/pools",
        cls=DetectionClass.MINING,
        dialect="pool",
        severity=Severity.HIGH,
        confidence=Confidence.MEDIUM,
        dated="2026-01-01",
        names=("pool.example",),
        where=HERE,
    )
    groups = known_groups(_set([_signature("tunnel/ssh")], [pools]))

    assert groups == {"tunnel/ssh", "mining/pool", *FOUND_WITHOUT_SIGNATURES}


def test_what_is_found_without_signatures_has_these_dialects():
    """The groups that are named beside those of signatures are those that the modules find."""
    text = "".join(inspect.getsource(module) for module in (reverse, rhythm, stratum_v2))

    for group in FOUND_WITHOUT_SIGNATURES:
        assert f'"{group.partition("/")[2]}"' in text
