# SPDX-License-Identifier: Apache-2.0
"""What a warning about a policy is; :mod:`agentwall.policy.lint` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.errors import SourceLocation
from agentwall.net.ports import PortRange


@dataclass(frozen=True, slots=True)
class LintWarning:
    """Something a reviewer should look at."""

    where: SourceLocation
    what: str
    """The rule's id, or the key."""
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: warning: {self.text}"


def covers(wide: Sequence[PortRange], narrow: Sequence[PortRange]) -> bool:
    """Say whether each of the *narrow* ranges lies in one of the *wide* ones."""
    return all(any(w.first <= n.first and n.last <= w.last for w in wide) for n in narrow)


def and_more(count: int) -> str:
    """Return how a warning about the first of *count* things mentions the others."""
    return f", and {count - 1} more" if count > 1 else ""
