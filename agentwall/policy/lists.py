# SPDX-License-Identifier: Apache-2.0
"""``cidr_file`` and ``host_file`` lists: one entry a line, ``#`` starts a comment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agentwall.errors import PolicyError, SourceLocation
from agentwall.net.domain import NamePattern, parse_pattern
from agentwall.net.prefix import parse_prefix
from agentwall.policy.model import RulePattern, RulePrefix
from agentwall.policy.problems import Problems
from agentwall.policy.source import decode_text

_Entry = TypeVar("_Entry")


def parse_prefix_list(raw: bytes, path: str) -> tuple[RulePrefix, ...]:
    """Parse the content of the list *path*, in the order of its lines.

    ``any`` is not taken: a list of addresses must not open everything by one line.

    Raises:
        PolicyError: At that file's first wrong line, with the other ones attached.
    """
    return _parse_lines(raw, path, lambda text, where: RulePrefix(parse_prefix(text), where))


def parse_host_list(
    raw: bytes, path: str, check: Callable[[NamePattern], None]
) -> tuple[RulePattern, ...]:
    """Parse the content of the list *path*, in the order of its lines.

    Args:
        raw: The content.
        path: Shown in places.
        check: Raises ValueError for a pattern that the rule must not have.

    Raises:
        PolicyError: As :func:`parse_prefix_list`.
    """

    def parse(text: str, where: SourceLocation) -> RulePattern:
        pattern = parse_pattern(text)
        check(pattern)
        return RulePattern(pattern, where)

    return _parse_lines(raw, path, parse)


def _parse_lines(
    raw: bytes, path: str, parse: Callable[[str, SourceLocation], _Entry]
) -> tuple[_Entry, ...]:
    problems = Problems()
    found: list[_Entry] = []
    # Not splitlines(): it also breaks at form feeds and such, where editors count no line.
    for number, line in enumerate(decode_text(raw, path).split("\n"), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = SourceLocation(path, number, line.index(text) + 1)
        try:
            found.append(parse(text, where))
        except ValueError as err:
            problems.add_error(PolicyError(where, "", str(err)))
            if problems.full:
                break
    problems.raise_any()
    return tuple(found)
