# SPDX-License-Identifier: Apache-2.0
"""The Stratum family, scored: the messages of both sides in, one finding out, or none.

Each message gives clues (:mod:`agentwall.detect.stratum_verbs`, :mod:`stratum_answers`). How sure
the finding is:

- a clue that is sure by itself makes it ``high``;
- two different clues, one of them ``medium``, make it ``high``: a question and its answer;
- a clue of ``medium`` seen three times makes it ``high``: only miners ask for work so often;
- software that calls itself a miner raises it by one step.

The surest clue tells the family of dialects, the narrowest one within that family the dialect. More
messages never make it less sure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentwall.detect.stratum_answers import SOFTWARE, answer_clues
from agentwall.detect.stratum_evidence import Known, gather
from agentwall.detect.stratum_verbs import FAMILIES, Carrier, Clue, verb_clues
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.severity import Severity

_STEPS = (None, Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)
_OFTEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One message that one side said."""

    value: dict[str, object]
    from_client: bool
    carrier: Carrier
    is_whole: bool = True
    is_document: bool = False
    """The body of an HTTP response: a document, which may be about mining. Its results count, its
    methods do not."""


def clues_of(spoken: Spoken) -> list[Clue]:
    """Say what one message gives away."""
    value = _folded(spoken.value)
    verbs = [] if spoken.is_document else verb_clues(value, spoken.carrier)
    return verbs or answer_clues(value, spoken.carrier)


# Some parsers, Go's among them, take keys in any case.
def _folded(value: dict[str, object]) -> dict[str, object]:
    if all(key.islower() or not key.isalpha() for key in value):
        return value
    return {key.lower(): each for key, each in value.items()} | value


def score(
    messages: Iterable[Spoken],
    heads: Sequence[Clue] = (),
    known: Known | None = None,
    *,
    reveal: bool = False,
) -> Finding | None:
    """Judge what both sides said.

    Args:
        messages: Those of the client, then those of the server, each in order.
        heads: Clues of the heads of HTTP messages.
        known: What else is known of the flow, for the evidence.
        reveal: Show wallets and workers whole. Passwords are never shown.
    """
    telling: list[tuple[Spoken, list[Clue]]] = []
    clues = list(heads)
    for spoken in messages:
        found = clues_of(spoken)
        clues += found
        if found:
            telling.append((spoken, found))
    step = _step(clues)
    if not step:
        return None
    surest = max(clues, key=_rank)
    family = [c for c in clues if _family(c) == _family(surest) and c.what != SOFTWARE]
    dialect = max(family, key=lambda clue: (clue.rank, _rank(clue))).dialect
    confidence = _STEPS[step] or Confidence.LOW
    best = max(telling, key=lambda told: max(map(_rank, told[1])), default=None)
    return Finding(
        cls=DetectionClass.MINING,
        signature=f"mining/{dialect}",
        dialect=dialect,
        severity=Severity.MEDIUM if confidence is Confidence.LOW else Severity.HIGH,
        confidence=confidence,
        stage=Stage.DECODER,
        evidence=gather(
            [s.value for s, _ in telling],
            best[0].value if best else None,
            clues,
            known or Known(),
            reveal,
        ),
    )


def _family(clue: Clue) -> str:
    return FAMILIES.get(clue.dialect, clue.dialect)


def _rank(clue: Clue) -> int:
    return _STEPS.index(clue.confidence)


def _step(clues: list[Clue]) -> int:
    steps = Counter({clue.what: 0 for clue in clues})
    times = Counter(clue.what for clue in clues)
    for clue in clues:
        steps[clue.what] = max(steps[clue.what], _rank(clue))
    ordered = sorted((step for step in steps.values() if step), reverse=True)
    if not ordered:
        return 0
    step, medium = ordered[0], _STEPS.index(Confidence.MEDIUM)
    if len(ordered) > 1 and step >= medium:
        step += 1
    if any(steps[what] == medium and times[what] >= _OFTEN for what in steps):
        step += 1
    if SOFTWARE in steps:
        step += 1
    return min(step, len(_STEPS) - 1)
