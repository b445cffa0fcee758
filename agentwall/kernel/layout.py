# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a map's key or value, or of an event, are laid out; and between two such ways.

A layout is names, offsets and sizes of all members, whatever their types are called: read from BTF,
which the kernel keeps beside a map for as long as the map lives, or from a ctypes mirror.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import dataclass
from typing import Any, cast

from agentwall.errors import KernelError


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union."""

    name: str
    """Empty for an anonymous one."""
    offset: int
    """In bits."""
    layout: Layout


@dataclass(frozen=True, slots=True)
class Layout:
    """A number, an array or a struct: which of them, the members and the count tell."""

    size: int
    """In bytes."""
    members: tuple[Member, ...] = ()
    """Of a struct or union."""
    element: Layout | None = None
    """Of an array."""

    def member(self, name: str) -> Member | None:
        """Return the member called *name*, or None."""
        return next((member for member in self.members if member.name == name), None)


def of_ctypes(mirror: type[ctypes._CData]) -> Layout:
    """Return the layout of a ctypes type: a Structure, an array or a number."""
    size = ctypes.sizeof(mirror)
    if issubclass(mirror, ctypes.Structure):
        members = (
            Member(name, 8 * getattr(mirror, name).offset, of_ctypes(cast(Any, kind)))
            for name, kind, *_ in mirror._fields_
        )
        return Layout(size, members=tuple(members))
    if issubclass(mirror, ctypes.Array):
        return Layout(size, element=of_ctypes(cast(Any, mirror)._type_))
    return Layout(size)


def to_json(layouts: dict[str, Layout]) -> str:
    """Return *layouts* as :func:`from_json` reads them."""
    return json.dumps({name: _plain(layout) for name, layout in layouts.items()})


def _plain(layout: Layout) -> list[Any]:
    if layout.element is not None:
        return [layout.size, _plain(layout.element)]
    return [layout.size, *([one.name, one.offset, _plain(one.layout)] for one in layout.members)]


def from_json(text: str) -> dict[str, Layout]:
    """Return what :func:`to_json` was given.

    Raises:
        ValueError: *text* is not of :func:`to_json`.
    """
    try:
        return {name: _read(plain) for name, plain in json.loads(text).items()}
    except (TypeError, LookupError, AttributeError) as err:
        raise ValueError(f"layouts: {err}") from err


def _read(plain: list[Any]) -> Layout:
    size, *rest = plain
    if rest and isinstance(rest[0][0], int):
        return Layout(size, element=_read(rest[0]))
    return Layout(size, members=tuple(Member(name, at, _read(one)) for name, at, one in rest))


def translate(raw: bytes, old: Layout, new: Layout) -> bytes:
    """Return what *raw* says, as *new* has it: members of the same name, and zeros for new ones.

    Raises:
        ValueError: A number does not fit, a member is no longer of the same kind, or *raw* is not
            of *old*.
    """
    if len(raw) != old.size:
        raise ValueError(f"expected {old.size} bytes, got {len(raw)}")
    made = bytearray(new.size)
    _translate(raw, 0, old, made, 0, new)
    return bytes(made)


def _translate(raw: bytes, at: int, old: Layout, made: bytearray, to: int, new: Layout) -> None:
    kinds = [(bool(one.members), one.element is not None) for one in (old, new)]
    if kinds[0] != kinds[1]:
        raise ValueError("a member is of another kind")
    if old.element is not None and new.element is not None:
        step, width = old.element.size, new.element.size
        for index in range(min(old.size // (step or 1), new.size // (width or 1))):
            _translate(raw, at + index * step, old.element, made, to + index * width, new.element)
    elif new.members:
        for member in new.members:
            before = old.member(member.name)
            if before is None:
                continue
            if before.offset % 8 or member.offset % 8:
                raise ValueError(f"{member.name}: a bit field")
            start, target = at + before.offset // 8, to + member.offset // 8
            _translate(raw, start, before.layout, made, target, member.layout)
    else:
        value = int.from_bytes(raw[at : at + old.size], sys.byteorder)
        try:
            made[to : to + new.size] = value.to_bytes(new.size, sys.byteorder)
        except OverflowError as err:
            raise ValueError(f"expected at most {new.size} bytes, got {value}") from err


def number_in(raw: bytes, layout: Layout, name: str) -> int:
    """Return the number that the member *name* of *raw* is.

    Raises:
        KernelError: There is no such member.
    """
    member = layout.member(name)
    if member is None:
        raise KernelError(0, f"layout: expected a member {name}, got none")
    start = member.offset // 8
    return int.from_bytes(raw[start : start + member.layout.size], sys.byteorder)
