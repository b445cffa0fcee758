# SPDX-License-Identifier: Apache-2.0
"""Globs over cgroup paths and names: ``*`` within one name, ``**`` over any number of names.

Everything else stands for itself, ``?``, ``[`` and ``\\`` too: systemd writes ``\\x2d`` in names
of cgroups. A policy's ``match`` and a scope's ``include`` and ``exclude`` are such globs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_ANY_NAMES = "**"


def matches(glob: str, path: str) -> bool:
    """Say whether *glob* covers all of *path*.

    ``/a/*`` covers ``/a/b`` alone; ``/a/**`` covers ``/a`` and everything below, ``/a/**/b`` also
    ``/a/b``. Takes time in proportion to the product of both lengths at most, whoever chose them.
    """
    return _covers(glob.split("/"), path.split("/"), _ANY_NAMES, _matches_name)


def depth(glob: str) -> int:
    """Return how many names *glob* asks for, ``**`` not counted: the deeper, the closer it fits."""
    return sum(1 for name in glob.split("/") if name not in ("", _ANY_NAMES))


def fault(glob: str) -> str | None:
    """Return what is wrong with *glob* as a glob over cgroup paths, or None."""
    names = glob.split("/")
    if names[0] != "" or len(names) == 1:
        return f"expected a path from the root, starting with '/', got {glob!r}"
    for name in names[1:]:
        if name in ("", ".", ".."):
            return f"expected a name between two '/', got {name!r}"
        if _ANY_NAMES in name and name != _ANY_NAMES:
            return f"expected '**' to stand alone between two '/', got {name!r}"
    return None


def _matches_name(glob: str, name: str) -> bool:
    if "*" not in glob:
        return glob == name
    return _covers(glob, name, "*", str.__eq__)


def _covers(
    pattern: Sequence[str],
    subject: Sequence[str],
    star: str,
    covers_one: Callable[[str, str], bool],
) -> bool:
    # Only the last star seen need ever take more: whatever an earlier one could gain by taking
    # more, the last one can too. So nothing is tried twice for a pair of earlier choices.
    at = taken = 0
    last_star = resume = -1
    while taken < len(subject):
        if at < len(pattern) and pattern[at] == star:
            last_star, resume = at, taken
            at += 1
        elif at < len(pattern) and covers_one(pattern[at], subject[taken]):
            at += 1
            taken += 1
        elif last_star >= 0:
            resume += 1
            at, taken = last_star + 1, resume
        else:
            return False
    return all(element == star for element in pattern[at:])
