# SPDX-License-Identifier: Apache-2.0
"""What loading leaves unchecked, because it takes long: examples, and names that are too wide.

Each signature is compiled on its own and runs on its examples, as the kernel would run it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentwall.detect.automaton import Automaton
from agentwall.detect.budget import BudgetError
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.pattern import PatternError
from agentwall.detect.scan import scan
from agentwall.detect.signature import Indicators, Signature, SignatureSet, Transport
from agentwall.detect.signature_load import LoadedSignatures
from agentwall.errors import PolicyError
from agentwall.policy.suffixes import SuffixKind, suffix_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became of one signature, or one list of names."""

    id: str
    rows: int
    """How many examples, counterexamples and names it has."""
    passed: int
    """How many of them are as they should be; none where the pattern cannot be compiled."""
    failures: tuple[PolicyError, ...]
    """One for each row that failed; or one for the pattern, where it cannot be compiled."""


def check_signatures(loaded: LoadedSignatures) -> Iterator[Checked]:
    """Yield what becomes of each signature and each list of names, in order of their ids."""
    for signature in loaded.signatures.signatures:
        yield _check_signature(loaded, signature)
    for indicators in loaded.signatures.indicators:
        yield _check_names(loaded, indicators)


def _check_signature(loaded: LoadedSignatures, signature: Signature) -> Checked:
    rows = len(signature.examples) + len(signature.counterexamples)
    try:
        automaton = compile_automaton((signature,))
    except (BudgetError, PatternError) as err:
        problem = loaded.error(signature, ("pattern",), str(err))
        return Checked(id=signature.id, rows=rows, passed=0, failures=(problem,))
    failures = tuple(_failed_rows(loaded, signature, automaton))
    return Checked(id=signature.id, rows=rows, passed=rows - len(failures), failures=failures)


def check_together(signatures: SignatureSet) -> None:
    """Compile all of *signatures* to one automaton, as the kernel needs them.

    Raises:
        PolicyError: They need more room than there is.
    """
    try:
        compile_automaton(signatures.signatures)
    except BudgetError as err:
        # It is of all of them together; the first stands for them.
        raise PolicyError(signatures.signatures[0].where, "", str(err)) from err


def _failed_rows(
    loaded: LoadedSignatures, signature: Signature, automaton: Automaton
) -> Iterator[PolicyError]:
    for index, data in enumerate(signature.examples):
        if not matches(automaton, signature, data):
            yield loaded.error(signature, ("examples", index), "expected a match, got none")
    for index, data in enumerate(signature.counterexamples):
        if matches(automaton, signature, data):
            problem = "expected no match, got one"
            yield loaded.error(signature, ("counterexamples", index), problem)


def matches(automaton: Automaton, signature: Signature, data: bytes) -> bool:
    """Say whether *automaton*, which is of *signature* alone, finds something in *data*."""
    whole = signature.transport is not Transport.TCP
    return any(scan(automaton, signature.transport, s, data, whole=whole) for s in signature.sides)


def _check_names(loaded: LoadedSignatures, indicators: Indicators) -> Checked:
    # A suffix that a company shares out, such as that of a tunnel service, is of that company.
    failures = [
        loaded.error(
            indicators,
            ("names", index),
            f"expected a name of one owner, got {name}, below which anybody can have names",
        )
        for index, name in enumerate(indicators.names)
        if "." not in name or suffix_kind(name) is SuffixKind.REGISTRY
    ]
    rows = len(indicators.names)
    return Checked(
        id=indicators.id, rows=rows, passed=rows - len(failures), failures=tuple(failures)
    )
