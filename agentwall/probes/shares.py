# SPDX-License-Identifier: Apache-2.0
"""Who gives way where as many libraries are probed as may be. Pure.

A file counts against the sandboxes whose processes map it, in equal parts; what the host's own
programs use as well counts against nobody. Each sandbox that has or wants any has the same share of
the room. A sandbox with less takes a place from one that has more than its share, and at least as
much as itself afterwards: so nobody takes it back, and the exchanges come to an end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar


@dataclass(slots=True, kw_only=True)
class Held:
    """One file, as far as it counts."""

    owners: Counter[Hashable] = field(default_factory=Counter)
    """How many users it has in each sandbox; none at 0."""
    is_system: bool = False
    """The host has it among its own libraries: never displaced while it has users."""
    used_s: float = 0.0
    """When somebody was last seen to map it."""


AnyHeld = TypeVar("AnyHeld", bound=Held)


def owner_of(user: Hashable) -> Hashable:
    """Return the sandbox of a user: the first of a tuple; anybody else stands for himself."""
    return user[0] if isinstance(user, tuple) and user else user


def weigh(probed: Iterable[Held]) -> dict[Hashable, float]:
    """Return how much each sandbox has, in files; of a file that is shared its part."""
    found: dict[Hashable, float] = {}
    for each in probed:
        if each.is_system:
            continue
        for owner in each.owners:
            found[owner] = found.get(owner, 0.0) + 1 / len(each.owners)
    return found


def poorest(held: Held, has: dict[Hashable, float]) -> float:
    """Return how much that one of a file's sandboxes has that has least, as :func:`weigh` says.

    What is the system's comes before all; what nobody uses after all.
    """
    if held.is_system:
        return 0.0
    return min((has.get(owner, 0.0) for owner in held.owners), default=float("inf"))


def giving_way(
    probed: Iterable[AnyHeld], newcomer: Held, waiting: Iterable[Held], room: int
) -> AnyHeld | None:
    """Return which file is to make room for *newcomer*; None: that one has to wait.

    Of the greediest sandbox, what was not used for longest; what several sandboxes use comes last.

    Args:
        probed: All files that are probed; those without users are not looked at.
        newcomer: With the user that it is for.
        waiting: Files for which there was no room.
        room: How many may be probed.
    """
    files = [each for each in probed if each.owners]
    has = weigh(files)
    parties = set(newcomer.owners).union(has, *(each.owners for each in waiting))
    systems = sum(each.is_system for each in files) + newcomer.is_system
    share = (room - systems) / max(len(parties), 1)
    gets = 1.0 if newcomer.is_system else 1 / max(len(newcomer.owners), 1)
    least = poorest(newcomer, has) + gets

    def may_go(held: Held) -> bool:
        left = poorest(held, has) - 1 / len(held.owners)
        return not held.is_system and poorest(held, has) > share and left >= least

    candidates = [each for each in files if may_go(each)]
    return min(
        candidates,
        key=lambda each: (len(each.owners) > 1, -poorest(each, has), each.used_s),
        default=None,
    )
