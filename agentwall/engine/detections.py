# SPDX-License-Identifier: Apache-2.0
"""What was recognised in one sandbox: matches, excerpts and names in, detections out. Pure.

The kernel's automaton has stopped what matched; what decoders find in the excerpts stops because of
what is said here, and bytes have left by then. :mod:`agentwall.engine.watch` is about behaviour.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from agentwall.detect.confirm import confirm
from agentwall.detect.decode import decode
from agentwall.detect.indicators import IndicatorIndex
from agentwall.detect.judging import judge
from agentwall.detect.matched_line import matched_line
from agentwall.detect.signature import Indicators, Signature
from agentwall.engine.cutting import kill_of
from agentwall.engine.events import SignaturesApplied
from agentwall.engine.excerpts import Excerpts, conversation_of, is_stream, key_of
from agentwall.engine.tls_sessions import NOTHING, Offer
from agentwall.flow.finding import Confidence, Finding
from agentwall.flow.record import (
    Attempt,
    DetectionRecord,
    Excerpt,
    FlowRecord,
    Match,
    Process,
    Sandbox,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Hook, Mode, Reason, ReasonCode, Verdict
from agentwall.policy.model import Inspect, Policy, Response, Rule

MAX_NAMES = 4096
"""Listed names of one sandbox that were told of; of more the first told of is told again."""
_KEPT_TABLES = 4
"""Matches on their way when a table is replaced speak of the one before."""
_SUREST = (Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """An attempt, and what the engine knows about it."""

    attempt: Attempt
    sandbox: Sandbox
    time_ns: int
    """UTC."""
    process: Process
    policy: Policy
    """In force when it was made."""
    mode: Mode
    """In force when it was made: the policy's, or another that somebody switched to."""
    rule: Rule | None
    """The one that permits the flow."""
    reason: Reason
    offer: Offer = NOTHING
    """What the TLS session of its socket offered, as far as that is known."""


class IndicatorIndexes:
    """Lists of names, indexed once for all the sandboxes that they hold for."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[tuple[Indicators, ...], IndicatorIndex], ...] = ()

    def of(self, lists: tuple[Indicators, ...]) -> IndicatorIndex:
        """Return the index of *lists*; of the ones that differ the last two are kept."""
        for known, index in self._kept:
            if known == lists:
                return index
        index = IndicatorIndex(lists)
        self._kept = ((lists, index), *self._kept[:1])
        return index


class Detections:
    """Signatures, excerpts and listed names of one sandbox."""

    __slots__ = ("_excerpts", "_index", "_names", "_tables")

    def __init__(self) -> None:
        self._excerpts: Excerpts | None = None
        self._tables: dict[int, SignaturesApplied] = {}
        self._index: IndicatorIndex | None = None
        self._names: OrderedDict[str, None] | None = None

    @property
    def excerpts(self) -> Excerpts:
        """The flows that were handed over; made when the first is."""
        if self._excerpts is None:
            self._excerpts = Excerpts()
        return self._excerpts

    @property
    def forgotten(self) -> int:
        """Flows that were forgotten to make room."""
        return self._excerpts.dropped if self._excerpts is not None else 0

    def apply(self, event: SignaturesApplied, index: IndicatorIndex) -> None:
        """Let *event*'s signatures hold; matches of the tables before are still understood.

        Args:
            event: The signatures and the automaton made of them.
            index: Of the lists in *event*.
        """
        self._tables.pop(event.table, None)
        self._tables[event.table] = event
        while len(self._tables) > _KEPT_TABLES:
            del self._tables[next(iter(self._tables))]
        self._index = index

    def match(self, sight: Sight, match: Match) -> DetectionRecord | None:
        """Return the detection that a match comes to; None if none of its signatures counts."""
        responses = {
            signature.id: (_response(signature, sight), signature)
            for signature in self._matched(match)
        }
        counted = [pair for pair in responses.values() if pair[0] is not Response.OFF]
        if not counted:
            return None
        response, signature = max(counted, key=_gravity)
        attempt = sight.attempt
        is_cut = attempt.verdict is Verdict.DENY
        if is_cut:
            self.excerpts.end(attempt)
        finding = _confirmed(signature, attempt, match)
        others = [other.id for _, other in counted if other is not signature]
        if others:
            finding = replace(finding, evidence={**finding.evidence, "also": others})
        left = match.left_bytes if is_cut else None
        return _record(sight, finding, attempt.verdict, response, left)

    def _matched(self, match: Match) -> list[Signature]:
        applied = self._tables.get(match.table)
        if applied is None or match.accept >= len(applied.accepts):
            return []
        return [applied.signatures.signatures[index] for index in applied.accepts[match.accept]]

    def decoded(self, sight: Sight, excerpt: Excerpt) -> Iterator[DetectionRecord]:
        """Yield what decoders find in a flow, *excerpt* being the last that came of it.

        Those with the verdict DENY are yet to be cut.
        """
        key = key_of(sight.attempt)
        if key not in self.excerpts:
            # What came after it has joined it to its flow, or needed its room.
            return
        can_end = any(kill_of(sight.attempt))
        for finding in decode(self.excerpts.conversation(key)):
            response = _response(finding, sight)
            verdict = _verdict(sight.mode, response)
            weight = response
            if verdict is Verdict.DENY and not can_end:
                # An alert for now: it is news again once it is known which flow to cut.
                verdict, weight = Verdict.ALLOW, Response.ALERT
            if not self.excerpts.tell(key, finding.cls, finding.dialect, weight):
                continue
            left = None
            if verdict is Verdict.DENY:
                left = self.excerpts.passed(key, from_client=excerpt.from_client)
            yield _record(sight, finding, verdict, response, left)
            if verdict is Verdict.DENY:
                self.excerpts.end(sight.attempt)
                return

    def names(
        self, record: FlowRecord, policy: Policy, rule: Rule | None
    ) -> Iterator[DetectionRecord]:
        """Yield a detection for each list that a name in *record* is on, once a name."""
        if self._index is None:
            return
        for how, name in _said(record).items():
            if self._names is not None and name in self._names:
                continue
            for finding in self._index.find(name, how):
                response = judge(finding, policy, rule)
                if response is not Response.OFF:
                    self._remember(name)
                    yield detection_in(record, finding, response)

    def _remember(self, name: str) -> None:
        if self._names is None:
            self._names = OrderedDict()
        self._names[name] = None
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)


def detection_in(record: FlowRecord, finding: Finding, response: Response) -> DetectionRecord:
    """Return an alert about what *record* tells of: nothing is cut."""
    return DetectionRecord(
        sandbox=record.sandbox,
        time_ns=record.time_ns,
        mono_ns=record.mono_ns,
        process=record.process,
        finding=finding,
        verdict=Verdict.ALLOW,
        response=response.value,
        direction=record.direction,
        protocol=record.protocol,
        local=record.local,
        remote=record.remote,
        name=record.name or (record.question.name if record.question else None),
        reason=record.reason,
        bytes_left=None,
    )


def _said(record: FlowRecord) -> Mapping[str, str]:
    """Return names by what was done with them."""
    said = {}
    if record.question is not None:
        said["asked" if record.question.type is not None else "said"] = record.question.name
    if record.name is not None:
        said["resolved"] = record.name
    return said


def _response(found: Finding | Signature, sight: Sight) -> Response:
    rule = sight.rule
    is_plain = sight.attempt.hook is Hook.PLAIN
    if is_plain and rule is not None and rule.inspect is Inspect.WIRE:
        return Response.OFF
    return judge(found, sight.policy, rule)


def _gravity(counted: tuple[Response, Signature]) -> tuple[int, Severity, int]:
    response, signature = counted
    return response.gravity, signature.severity, _SUREST.index(signature.confidence)


def _confirmed(signature: Signature, attempt: Attempt, match: Match) -> Finding:
    finding = _read(signature, attempt, match)
    if attempt.hook is not Hook.PLAIN:
        return finding
    # All of the text says how sure it is; what is shown of it is the matched line alone.
    line = matched_line(match.text, is_whole=match.position == len(match.text))
    alone = replace(match, position=len(line), text=line)
    return replace(finding, evidence=_read(signature, attempt, alone).evidence)


def _read(signature: Signature, attempt: Attempt, match: Match) -> Finding:
    # Decoders are asked only where all that this side has said is at hand. It ends at the match, so
    # what they miss in it says nothing against it.
    if is_stream(attempt) and match.position == len(match.text):
        conversation = conversation_of(attempt, match.text, from_client=match.from_client)
        finding = confirm(signature, match.text, conversation)
        if "contradicted" not in finding.evidence:
            return finding
    return confirm(signature, match.text, None)


def _verdict(mode: Mode, response: Response) -> Verdict:
    if not response.cuts or mode is Mode.OBSERVE:
        return Verdict.ALLOW
    return Verdict.DENY if mode is Mode.ENFORCE else Verdict.WOULD_DENY


def _record(
    sight: Sight, finding: Finding, verdict: Verdict, response: Response, left: int | None
) -> DetectionRecord:
    attempt = sight.attempt
    if attempt.hook is Hook.PLAIN:
        inside: dict[str, object] = {"inside": "tls", **sight.offer.evidence()}
        if left is not None:
            inside["bytes_left_of"] = "text"
        finding = replace(finding, evidence={**finding.evidence, **inside})
    return DetectionRecord(
        sandbox=sight.sandbox,
        time_ns=sight.time_ns,
        mono_ns=attempt.mono_ns,
        process=sight.process,
        finding=finding,
        verdict=verdict,
        response=response.value,
        direction=attempt.direction,
        protocol=attempt.protocol,
        local=attempt.local,
        remote=attempt.remote,
        name=attempt.name,
        # An excerpt's own code says nothing; what is said is judged by signatures either way.
        reason=replace(sight.reason, code=ReasonCode.SIGNATURE),
        bytes_left=left,
    )
