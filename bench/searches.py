# SPDX-License-Identifier: Apache-2.0
"""What the measured walls look for: the shipped signatures, or as many as are asked for. Pure.

Generated ones are literals that may begin anywhere, so no flow is ever settled by what it says: it
is read to the depth limit.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.detect.automaton import Automaton
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.packing import pack
from agentwall.detect.signature import SignatureSet
from agentwall.detect.signature_load import load_signatures
from bench.ratios import Spread, spread
from bench.tables import Table

_SHORTEST, _LONGEST = 6, 14
_SIGNATURE = """
  - id: mining/bench-{word}
    class: mining
    dialect: bench
    protocol: tcp
    direction: client
    pattern: '"method": "{word}"'
    description: generated
    examples: ['{{"method": "{word}"}}']
    counterexamples: ['{{"method": "none"}}']
"""


@dataclass(frozen=True, slots=True)
class Sought:
    """Signatures, compiled."""

    signatures: SignatureSet
    automaton: Automaton


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What compiling a set took, and what came out."""

    signatures: int
    seconds: list[float]
    """From patterns to a minimal automaton, one a round."""
    packing: list[float]
    """From that to the kernel's table."""
    states: int
    cells: int
    """Of the packed table, two bytes each."""


def generate_signatures(count: int) -> SignatureSet:
    """Return *count* signatures, each of a JSON method; the same ones every time."""
    rng = random.Random(count)
    words: set[str] = set()
    while len(words) < count:
        size = rng.randint(_SHORTEST, _LONGEST)
        words.add("".join(rng.choices(string.ascii_lowercase, k=size)))
    entries = "".join(_SIGNATURE.format(word=word) for word in sorted(words))
    return load_signatures([("generated.yaml", f"version: 1\nsignatures:{entries}")])


def compile_sought(signatures: SignatureSet, rounds: int = 1) -> tuple[Sought, Compiled]:
    """Compile *signatures*, *rounds* times over for the times it takes."""
    seconds, packing = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        automaton = compile_automaton(signatures.signatures)
        middle = time.perf_counter()
        packed = pack(automaton)
        packing.append(time.perf_counter() - middle)
        seconds.append(middle - begin)
    compiled = Compiled(
        signatures=len(signatures.signatures),
        seconds=seconds,
        packing=packing,
        states=automaton.states,
        cells=len(packed.next),
    )
    return Sought(signatures, automaton), compiled


def compiled_table(compiled: Mapping[str, Compiled]) -> Table:
    """Return one row a set."""
    rounds = max(len(one.seconds) for one in compiled.values())
    return Table(
        title="Compiling signatures",
        note="'compile' is from patterns to a minimal automaton, which is then kept on disk; "
        "'pack' is what the kernel's table takes each time. The sets that are generated are "
        f"literals. Medians of {rounds} and quartiles.",
        header=["set", "signatures", "compile", "pack", "states", "cells", "table"],
        rows=[
            [
                title,
                str(one.signatures),
                _milliseconds(spread(one.seconds)),
                _milliseconds(spread(one.packing)),
                str(one.states),
                str(one.cells),
                f"{one.cells * 2 / 1e6:.2f} MB",
            ]
            for title, one in compiled.items()
        ],
    )


def _milliseconds(value: Spread) -> str:
    return f"{value.median * 1e3:.0f} ms ({value.low * 1e3:.0f}-{value.high * 1e3:.0f})"
