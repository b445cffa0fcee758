# SPDX-License-Identifier: Apache-2.0
"""Everything that is wrong with a policy, gathered so that one look at it is enough."""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.errors import PolicyError, SourceLocation

_SHOWN = 60
MAX_PROBLEMS = 100
"""How many are kept: a wrong list of prefixes may be wrong on every line."""


def show(value: object) -> str:
    """Return *value* of a policy file as messages show it: short, escaped, kinds named."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def describe_place(place: Sequence[str | int]) -> str:
    """Return ``allow[0].ports[1]`` for ``("allow", 0, "ports", 1)``."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        name = step if step.isascii() and step.isidentifier() else show(step)
        text += f".{name}" if text else name
    return text


class Problems:
    """Gathers errors and raises them as one."""

    def __init__(self) -> None:
        self._found: list[PolicyError] = []

    def add(self, where: SourceLocation, place: Sequence[str | int], problem: str) -> None:
        """Note that the value at *place*, written at *where*, is wrong."""
        self.add_error(PolicyError(where, describe_place(place), problem))

    def add_error(self, error: PolicyError) -> None:
        """Note an error and those attached to it, as long as there is room."""
        room = MAX_PROBLEMS - len(self._found)
        self._found.extend(error.errors[:room])

    @property
    def full(self) -> bool:
        """Whether there is no room for more: stop looking."""
        return len(self._found) >= MAX_PROBLEMS

    def raise_any(self) -> None:
        """Raise the first problem with the others attached, if there is any."""
        if self._found:
            first = self._found[0]
            raise PolicyError(first.where, first.key, first.problem, others=tuple(self._found[1:]))
