# SPDX-License-Identifier: Apache-2.0
"""What a policy makes of what was recognised: one answer for the kernel, the engine and captures.

:func:`judge` is that answer. The kernel gives it by masks: each group (``class/dialect``) of a
signature set has one bit, a policy becomes a mask of the groups it blocks, one of those it reports,
and for each rule one of those that it excepts. What matched ``matched`` groups, some of them
``certain`` (of signatures that may block), is then dropped if ``certain & blocks & ~excepts``, and
reported if ``matched & (blocks | alerts) & ~excepts``. A rule that has nothing read, ``inspect:
none``, excepts every bit. A test holds the two equal.

The conversations of a capture are judged by address and name in :mod:`agentwall.detect.replay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.detect.budget import BudgetError
from agentwall.detect.signature import Signature, SignatureSet
from agentwall.flow.finding import Confidence, Finding, Stage
from agentwall.policy.detection import response_to
from agentwall.policy.model import Inspect, Policy, Response, Rule
from agentwall.policy.tables import RuleTables

MAX_GROUPS = 63
"""Bits of a 64-bit mask, less the last: ``AW_GROUP_HAND_OVER`` in ``bpf/signatures.h``."""
EVERYTHING = (1 << 64) - 1
"""The mask of every group, and of handing over."""
FOUND_WITHOUT_SIGNATURES = (
    "mining/mining-rhythm",
    "mining/mining-work-feed",
    "mining/stratum-v2",
    "tunnel/reverse-tunnel",
)
"""Groups of decoders and behaviour that no signature needs to have."""
_OF_WHAT_IS_SAID = (Stage.SIGNATURE, Stage.DECODER)
"""Behaviour is seen after the fact, and a name on a list is not what is said: those only alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """A policy in terms of the groups of a signature set, one bit each."""

    blocks: int
    """Groups of the classes whose response cuts: ``block``, ``freeze`` or ``kill``."""
    alerts: int
    """Groups of the classes whose response is ``alert``."""
    excepts: Mapping[int, int]
    """Index into :attr:`RuleTables.rules` -> groups that are not looked for in what the rule
    allows; :data:`EVERYTHING` where the rule has nothing read. Holds only rules that have some."""


def group_bits(signatures: SignatureSet) -> dict[str, int]:
    """Return the number of the bit (from 0) of each group, in the order of their names.

    Raises:
        BudgetError: There are more than :data:`MAX_GROUPS`.
    """
    groups = sorted({signature.group for signature in signatures.signatures})
    if len(groups) > MAX_GROUPS:
        raise BudgetError(
            f"expected at most {MAX_GROUPS} dialects in all signatures together, got {len(groups)}"
        )
    return {group: bit for bit, group in enumerate(groups)}


def known_groups(signatures: SignatureSet) -> frozenset[str]:
    """Return each ``class/dialect`` that can be found, and so that excepting makes sense for."""
    listed = (f"{one.cls.value}/{one.dialect}" for one in signatures.indicators)
    said = (signature.group for signature in signatures.signatures)
    return frozenset((*said, *listed, *FOUND_WITHOUT_SIGNATURES))


def masks_of(policy: Policy, tables: RuleTables, signatures: SignatureSet) -> Masks:
    """Return *policy* as masks.

    Args:
        policy: Whatever its mode.
        tables: Compiled from *policy*.
        signatures: Those that the automaton was made of.

    Raises:
        BudgetError: As :func:`group_bits`.
    """
    bits = group_bits(signatures)
    by_response = dict.fromkeys(Response, 0)
    by_class: dict[str, int] = {}
    by_group = {group: 1 << bit for group, bit in bits.items()}
    for signature in signatures.signatures:
        response = response_to(policy, signature.cls, signature.dialect)
        by_response[response] |= by_group[signature.group]
        cls = signature.cls.value
        by_class[cls] = by_class.get(cls, 0) | by_group[signature.group]
    excepts = {}
    for index, rule in enumerate(tables.rules):
        mask = EVERYTHING if rule.inspect is Inspect.NONE else 0
        for entry in rule.excepts:
            mask |= by_group.get(entry, 0) | by_class.get(entry, 0)
        if mask:
            excepts[index] = mask
    return Masks(
        blocks=sum(mask for response, mask in by_response.items() if response.cuts),
        alerts=by_response[Response.ALERT],
        excepts=excepts,
    )


def judge(found: Finding | Signature, policy: Policy, rule: Rule | None) -> Response:
    """Return what follows on *found* in enforce mode; in the others nothing is cut or stopped.

    Args:
        found: For what the automaton matched, the signature: that is all the kernel knows, whatever
            :func:`~agentwall.detect.confirm.confirm` makes of it later. Else the finding.
        policy: In force.
        rule: The one that allows the flow; None where no single rule does, as on loopback or for a
            scan.

    Returns:
        OFF where it is not looked for: the class is off, the rule excepts it or has nothing read,
        or the signature only hands the flow over. ALERT also where the policy says block, freeze or
        kill, but *found* is not sure enough or nothing is left to cut: low confidence,
        experimental, behaviour, a name on a list.
    """
    if isinstance(found, Signature) and found.hand_over:
        return Response.OFF
    if rule is not None and rule.inspect is Inspect.NONE and _is_of_what_is_said(found):
        return Response.OFF
    response = response_to(policy, found.cls, found.dialect, rule)
    return Response.ALERT if response.cuts and not _may_block(found) else response


def _is_of_what_is_said(found: Finding | Signature) -> bool:
    return isinstance(found, Signature) or found.stage in _OF_WHAT_IS_SAID


def _may_block(found: Finding | Signature) -> bool:
    if isinstance(found, Signature):
        return found.blocks
    return found.stage in _OF_WHAT_IS_SAID and found.confidence is not Confidence.LOW
