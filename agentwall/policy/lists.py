# SPDX-License-Identifier: Apache-2.0
"""``cidr_file`` lists: one prefix a line, ``#`` starts a comment."""

from __future__ import annotations

from agentwall.errors import PolicyError, SourceLocation
from agentwall.net.prefix import parse_prefix
from agentwall.policy.model import RulePrefix
from agentwall.policy.problems import Problems
from agentwall.policy.source import decode_text


def parse_list(raw: bytes, path: str) -> tuple[RulePrefix, ...]:
    """Parse the content of the list *path*, in the order of its lines.

    ``any`` is not taken: a list of addresses must not open everything by one line.

    Raises:
        PolicyError: At that file's first wrong line, with the other ones attached.
    """
    problems = Problems()
    found: list[RulePrefix] = []
    # Not splitlines(): it also breaks at form feeds and such, where editors count no line.
    for number, line in enumerate(decode_text(raw, path).split("\n"), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = SourceLocation(path, number, line.index(text) + 1)
        try:
            found.append(RulePrefix(parse_prefix(text), where))
        except ValueError as err:
            problems.add_error(PolicyError(where, "", str(err)))
            if problems.full:
                break
    problems.raise_any()
    return tuple(found)
