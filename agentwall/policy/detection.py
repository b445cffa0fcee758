# SPDX-License-Identifier: Apache-2.0
"""What a policy says to do about a detection, rule by rule: the reference for captures and kernel.

As plain as :mod:`agentwall.policy.evaluate`. What a detection is worth, and so whether it may block
at all, is judged in :mod:`agentwall.detect.judging`.
"""

from __future__ import annotations

from agentwall.flow.finding import DetectionClass
from agentwall.policy.model import DETECT_DEFAULTS, Inspect, Policy, Response, Rule

SPOKEN = (DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.P2P)
"""Classes that signatures and decoders tell by what is said; all else is names and behaviour."""


def response_to(
    policy: Policy, cls: DetectionClass, dialect: str, rule: Rule | None = None
) -> Response:
    """Return what follows on something of *cls* and *dialect* in a flow that *rule* allows.

    Args:
        policy: Whatever its mode; in observe and audit nothing is cut.
        cls: Of the detection.
        dialect: Of the detection, as ``except`` names it after the slash.
        rule: None where no single rule allows, as for scans; then nothing is excepted.
    """
    if rule is not None and {cls.value, f"{cls.value}/{dialect}"} & set(rule.excepts):
        return Response.OFF
    return policy.detect.responses.get(cls, DETECT_DEFAULTS[cls])


def looked_for(policy: Policy, rule: Rule | None) -> dict[DetectionClass, Response]:
    """Return the classes that are looked for in flows that *rule* allows, some dialects maybe not.

    What no rule can be excepted from, such as scans, is there as well. Where the rule has nothing
    read, what is left of :data:`SPOKEN` are names and behaviour, which only alert.
    """
    excepts = rule.excepts if rule is not None else ()
    found = {cls: policy.detect.responses.get(cls, DETECT_DEFAULTS[cls]) for cls in DetectionClass}
    if rule is not None and rule.inspect is Inspect.NONE:
        found |= {cls: Response.ALERT for cls in SPOKEN if found[cls].cuts}
    return {
        cls: response
        for cls, response in found.items()
        if response is not Response.OFF and cls.value not in excepts
    }


def describe_looked_for(policy: Policy, rule: Rule | None) -> str:
    """Return in one line what is looked for and what is not: ``mining: block, ...; except ...``."""
    found = looked_for(policy, rule)
    words = [f"{cls.value}: {response.value}" for cls, response in found.items()]
    text = ", ".join(words) or "nothing is looked for"
    excepts = rule.excepts if rule is not None else ()
    return f"{text}; except {', '.join(excepts)}" if excepts else text
