# SPDX-License-Identifier: Apache-2.0
"""Signature files to a :class:`~agentwall.detect.signature.SignatureSet`, strictly.

The keys are in ``signature_document``, fragments in ``signature_pattern``. Every fault is a
:class:`~agentwall.errors.PolicyError` with a place, and all that can be found at once are attached
to the first. Whether examples match is another question, see ``signature_check``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentwall.detect.pattern import PatternError, PatternReader
from agentwall.detect.pattern_tree import Trees
from agentwall.detect.signature import Indicators, Signature, SignatureSet
from agentwall.detect.signature_document import (
    IndicatorsDocument,
    SignatureDocument,
    SignatureFile,
)
from agentwall.detect.signature_pattern import expand, read_fragments
from agentwall.errors import PolicyError, SourceLocation
from agentwall.policy.problems import Problems, describe_place, show
from agentwall.policy.source import Place, Source, parse_source
from agentwall.policy.wording import validate_as

_LISTS = ("signatures", "indicators")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSignatures:
    """Signatures, and where each value of theirs is written."""

    signatures: SignatureSet
    origins: Mapping[str, tuple[Source, Place]]
    """Where the map of the signature or list with an id is."""

    def error(self, of: Signature | Indicators, within: Place, problem: str) -> PolicyError:
        """Return the error that the value at *within* of this signature has *problem*."""
        source, place = self.origins[of.id]
        place = (*place, *within)
        return PolicyError(source.locate(place), describe_place(place), problem)


def load_signatures(files: Iterable[tuple[str, str]]) -> SignatureSet:
    """Load the signatures in *files*, pairs of a path (for places) and its text.

    Raises:
        PolicyError: With everything that is wrong in any of them.
    """
    return load_files(files).signatures


def load_files(files: Iterable[tuple[str, str]]) -> LoadedSignatures:
    """Load the signatures in *files* as :func:`load_signatures`, keeping their places.

    Raises:
        PolicyError: With everything that is wrong in any of them.
    """
    loader = _Loader()
    for path, text in files:
        loader.add(path, text)
    loader.problems.raise_any()
    signatures = tuple(sorted(loader.signatures, key=lambda each: each.id))
    return LoadedSignatures(
        signatures=SignatureSet(
            signatures=signatures,
            indicators=tuple(sorted(loader.indicators, key=lambda each: each.id)),
            digest=_digest(signatures),
        ),
        origins=loader.origins,
    )


def _digest(signatures: Sequence[Signature]) -> str:
    # Accepting states name signatures by their position, so the order counts too.
    parts = [
        (each.transport.value, [side.value for side in each.sides], each.pattern)
        for each in signatures
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Loader:
    def __init__(self) -> None:
        self.problems = Problems()
        self.signatures: list[Signature] = []
        self.indicators: list[Indicators] = []
        self.origins: dict[str, tuple[Source, Place]] = {}

    def add(self, path: str, text: str) -> None:
        try:
            source = parse_source(text.encode("utf-8", "surrogatepass"), path, dates=True)
        except PolicyError as err:
            self.problems.add_error(err)
            return
        found = Problems()
        document = validate_as(SignatureFile, source, found)
        # From what is written and not from the document: one look at the file is enough, then.
        patterns = dict(_patterns(source, found))
        self._add_ids(source, found)
        try:
            found.raise_any()
        except PolicyError as err:
            for each in sorted(err.errors, key=lambda error: error.where):
                # Without the others that hang on it: they follow.
                self.problems.add_error(PolicyError(each.where, each.key, each.problem))
            return
        assert document is not None, "what is wrong has been raised"
        for index, signature in enumerate(document.signatures):
            where = source.locate(("signatures", index))
            self.signatures.append(_signature(signature, patterns[index], where))
        for index, indicators in enumerate(document.indicators):
            where = source.locate(("indicators", index))
            self.indicators.append(_indicators(indicators, where))

    def _add_ids(self, source: Source, problems: Problems) -> None:
        for key in _LISTS:
            for index, entry in _entries(source, key):
                name = entry.get("id")
                if not isinstance(name, str):
                    continue
                place = (key, index, "id")
                if name in self.origins:
                    first, there = self.origins[name]
                    where = first.locate((*there, "id"))
                    problem = f"expected an id of its own, got {show(name)}, which {where} has"
                    problems.add(source.locate(place), place, problem)
                else:
                    self.origins[name] = (source, (key, index))


def _entries(source: Source, key: str) -> Iterator[tuple[int, dict[str, object]]]:
    written = source.data.get(key)
    for index, entry in enumerate(written if isinstance(written, list) else ()):
        if isinstance(entry, dict):
            yield index, dict(entry)


def _patterns(source: Source, problems: Problems) -> Iterator[tuple[int, str]]:
    fragments = read_fragments(source, problems)
    # What fragments come to is read once, however many patterns they stand in.
    reader = PatternReader(Trees())
    for index, entry in _entries(source, "signatures"):
        text = entry.get("pattern")
        if not isinstance(text, str):
            continue
        place = ("signatures", index, "pattern")
        expanded = expand(text, fragments, source, place, problems)
        if expanded is None:
            continue
        problem = _problem(expanded, reader, is_stream=entry.get("protocol") == "tcp")
        if problem:
            problems.add(source.locate(place), place, problem)
        yield index, expanded


def _problem(pattern: str, reader: PatternReader, *, is_stream: bool) -> str | None:
    """Return what is wrong with a whole *pattern*, whose parts are each sound."""
    try:
        node = reader.read(pattern)
    except PatternError as err:
        return err.message
    if node.is_nullable:
        return "expected a pattern that needs a byte, got one that matches before any is said"
    if is_stream and any(branch.end is not None for branch in node.branches):
        return "expected no $ beside protocol: tcp, whose streams have no end"
    return None


def _signature(document: SignatureDocument, pattern: str, where: SourceLocation) -> Signature:
    return Signature(
        id=document.id,
        cls=document.cls,
        dialect=document.dialect,
        transport=document.protocol,
        sides=document.sides,
        pattern=pattern,
        severity=document.level,
        confidence=document.confidence,
        maturity=document.maturity,
        hand_over=document.hand_over,
        description=document.description,
        references=document.references,
        examples=document.examples,
        counterexamples=document.counterexamples,
        where=where,
    )


def _indicators(document: IndicatorsDocument, where: SourceLocation) -> Indicators:
    return Indicators(
        id=document.id,
        cls=document.cls,
        dialect=document.dialect,
        severity=document.level,
        confidence=document.confidence,
        dated=document.dated,
        names=tuple(dict.fromkeys(document.names)),
        where=where,
    )
