# SPDX-License-Identifier: Apache-2.0
"""Automata on disk: see :mod:`agentwall.host.kept_files`.

The tables are ``next``, ``accept_of`` and ``end_of`` as 16-bit little-endian numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agentwall.detect.automaton import Automaton
from agentwall.detect.signature import Side, Transport
from agentwall.host import kept_files
from agentwall.host.kept_files import Kind

KIND = Kind(magic=b"AWDFA\x00\r\n", version=1, suffix=".automaton", made_by="detect/*.py")
_U16 = np.dtype("<u2")


def load_automaton(directory: Path, digest: str, signatures: int) -> Automaton | None:
    """Return the automaton kept in *directory* for *digest*, a SHA-256 in hexadecimal.

    Args:
        directory: As :func:`kept_files.cache_directory` returns it; it may be missing.
        digest: Of the signature set.
        signatures: How many there are in it.

    Returns:
        None where there is none, it is damaged, or others could have written it.
    """

    def decode(head: Mapping[str, object], tables: bytes) -> Automaton:
        automaton = _build(head, tables)
        _check(automaton, signatures)
        return automaton

    return kept_files.load(directory, KIND, digest, decode)


def store_automaton(directory: Path, digest: str, automaton: Automaton) -> bool:
    """Keep *automaton* in *directory* for *digest*; say whether that could be done."""
    head = {
        "states": automaton.states,
        "width": automaton.width,
        "classes": automaton.classes.hex(),
        "starts": [[t.value, s.value, state] for (t, s), state in automaton.starts.items()],
        "first_accepting": automaton.first_accepting,
        "accepts": [list(each) for each in automaton.accepts],
    }
    tables = (automaton.next, automaton.accept_of, automaton.end_of)
    raw = b"".join(table.astype(_U16).tobytes() for table in tables)
    return kept_files.store(directory, KIND, digest, head, raw)


def _build(values: Mapping[str, Any], tables: bytes) -> Automaton:
    states, width, first = values["states"], values["width"], values["first_accepting"]
    if not isinstance(states, int) or not isinstance(width, int) or not isinstance(first, int):
        raise ValueError("no numbers")
    numbers = np.frombuffer(tables, dtype=_U16).astype(np.uint16)
    cells = states * width
    if states < 1 or width < 1 or len(numbers) != cells + 2 * states:
        raise ValueError("tables of another size")
    return Automaton(
        classes=bytes.fromhex(str(values["classes"])),
        width=width,
        next=numbers[:cells].reshape(states, width),
        starts={(Transport(t), Side(side)): int(state) for t, side, state in values["starts"]},
        first_accepting=first,
        accepts=tuple(tuple(map(int, each)) for each in values["accepts"]),
        accept_of=numbers[cells : cells + states],
        end_of=numbers[cells + states :],
    )


def _check(automaton: Automaton, signatures: int) -> None:
    """Refuse what leads out of the tables.

    Raises:
        ValueError: Something does.
    """
    sets = len(automaton.accepts)
    indices = [index for each in automaton.accepts for index in each]
    is_sound = (
        len(automaton.classes) == 256
        and max(automaton.classes) < automaton.width
        and 0 <= automaton.first_accepting <= automaton.states
        and all(0 <= state < automaton.states for state in automaton.starts.values())
        and automaton.accepts[:1] == ((),)
        and all(0 <= index < signatures for index in indices)
        and _below(automaton.next, automaton.states)
        and _below(automaton.accept_of, sets)
        and _below(automaton.end_of, sets)
    )
    if not is_sound:
        raise ValueError("leads out of its tables")


def _below(numbers: npt.NDArray[np.uint16], limit: int) -> bool:
    return not numbers.size or int(numbers.max()) < limit
