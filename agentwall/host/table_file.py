# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables on disk, so that a process that starts needs no numpy to pack one.

See :mod:`agentwall.host.kept_files`. The tables are the parts of a :class:`PackedTable` one after
the other, in host byte order: a file is of one machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentwall.detect.packed import HAND_OVER, PackedTable
from agentwall.detect.signature import Side, Transport
from agentwall.host import kept_files
from agentwall.host.kept_files import Kind

KIND = Kind(magic=b"AWTABLE\n", version=1, suffix=".table", made_by="detect/*.py")
_PARTS = {"accept_of": 2, "end_of": 2, "base": 4, "next": 2, "group_of": 1, "classes": 1}
"""And the octets of a number in each."""
_FORMATS: dict[int, Literal["B", "H", "I"]] = {1: "B", 2: "H", 4: "I"}
_CLASSES = 256


def load_table(directory: Path, digest: str, signatures: int) -> PackedTable | None:
    """Return the table kept in *directory* for *digest*, a SHA-256 in hexadecimal.

    Args:
        directory: As :func:`kept_files.cache_directory` returns it; it may be missing.
        digest: Of the signature set.
        signatures: How many there are in it.

    Returns:
        None where there is none, it is damaged, or others could have written it.
    """

    def decode(head: Mapping[str, object], tables: bytes) -> PackedTable:
        table = _build(head, tables)
        _check(table, signatures)
        return table

    return kept_files.load(directory, KIND, digest, decode)


def store_table(directory: Path, digest: str, table: PackedTable) -> bool:
    """Keep *table* in *directory* for *digest*; say whether that could be done."""
    parts = [getattr(table, name) for name in _PARTS]
    head = {
        "order": sys.byteorder,
        "states": table.states,
        "first_accepting": table.first_accepting,
        "starts": [[t.value, s.value, state] for (t, s), state in table.starts.items()],
        "accepts": [list(each) for each in table.accepts],
        "masks": [list(each) for each in table.masks],
        "sizes": [len(part) for part in parts],
    }
    return kept_files.store(directory, KIND, digest, head, b"".join(parts))


def _build(head: Mapping[str, Any], tables: bytes) -> PackedTable:
    sizes = head["sizes"]
    if head["order"] != sys.byteorder or len(sizes) != len(_PARTS) or sum(sizes) != len(tables):
        raise ValueError("tables of another size")
    parts, at = {}, 0
    for (name, octets), size in zip(_PARTS.items(), sizes, strict=True):
        if size < octets or size % octets:
            raise ValueError(f"{name} of another size")
        parts[name] = tables[at : at + size]
        at += size
    return PackedTable(
        states=int(head["states"]),
        first_accepting=int(head["first_accepting"]),
        starts={(Transport(t), Side(side)): int(state) for t, side, state in head["starts"]},
        accepts=tuple(tuple(map(int, each)) for each in head["accepts"]),
        masks=tuple((int(groups), int(certain)) for groups, certain in head["masks"]),
        **parts,
    )


def _check(table: PackedTable, signatures: int) -> None:
    """Refuse what leads out of the tables.

    Raises:
        ValueError: Something does.
    """
    sets, states = len(table.accepts), table.states
    numbers = {
        name: memoryview(getattr(table, name)).cast(_FORMATS[octets])
        for name, octets in _PARTS.items()
    }
    of_states = ("accept_of", "end_of", "base", "group_of")
    is_sound = (
        all(len(numbers[name]) == states for name in of_states)
        and len(table.classes) % _CLASSES == 0
        and 0 <= table.first_accepting <= states
        and all(0 <= state < states for state in table.starts.values())
        and table.accepts[:1] == ((),)
        and all(0 <= index < signatures for each in table.accepts for index in each)
        and len(table.masks) == sets
        and all(0 <= mask < 2 * HAND_OVER for masks in table.masks for mask in masks)
        and max(numbers["accept_of"]) < sets
        and max(numbers["end_of"]) < sets
        and max(numbers["next"]) < states
        and max(table.group_of) < len(table.classes) // _CLASSES
        and all(end <= len(numbers["next"]) for end in _ends(table, numbers["base"]))
    )
    if not is_sound:
        raise ValueError("leads out of its tables")


def _ends(table: PackedTable, base: memoryview[int]) -> Iterator[int]:
    """Yield for each state where its cells end."""
    starts = range(0, len(table.classes), _CLASSES)
    widths = [max(table.classes[at : at + _CLASSES]) + 1 for at in starts]
    for first, group in zip(base, table.group_of, strict=True):
        yield first + widths[group]
