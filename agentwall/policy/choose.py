# SPDX-License-Identifier: Apache-2.0
"""Which policy a sandbox gets, by the ``match`` of each. Pure.

Of the entries that fit, one with labels beats one without; then the one whose cgroup glob has more
names without a star, then more names, ``**`` not counted; then the one with more keys, each label
counting as one. :func:`check_ties` sees to it that this always tells two policies apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from agentwall.flow.origin import Origin
from agentwall.policy.globs import depth, matches
from agentwall.policy.model import Policy, Selector
from agentwall.policy.problems import Problems, show

_GLOBS = ("name", "image", "namespace", "job", "unit")
_Rank = tuple[bool, int, int, int]


def choose(
    policies: Collection[Policy],
    *,
    cgroup: str,
    origin: Origin | None,
    labels: Mapping[str, str],
    wanted: str | None = None,
) -> Policy | None:
    """Return the policy of a sandbox; None if none of *policies* is for it.

    Args:
        policies: Those that its scope permits, without :func:`ties <check_ties>`.
        cgroup: Its path, starting with ``/``.
        origin: None, or what is missing in it, fits no entry that asks for it.
        labels: What the harness says of it. What it does not say is looked up among the labels of
            *origin*, which an image may have chosen.
        wanted: Name of the policy that whoever admits it asks for. Then nothing else counts.

    Raises:
        LookupError: *wanted* is not among *policies*.
    """
    if wanted is not None:
        found = next((policy for policy in policies if policy.name == wanted), None)
        if found is None:
            names = ", ".join(sorted(policy.name for policy in policies)) or "none"
            raise LookupError(f"policy: expected one of {names}, got {show(wanted)}")
        return found
    known = {**(origin.labels if origin else {}), **labels}
    fitting = [
        (_rank(entry), policy)
        for policy in policies
        for entry in policy.match
        if _fits(entry, cgroup, origin, known)
    ]
    return max(fitting, key=lambda pair: pair[0], default=(None, None))[1]


def check_ties(policies: Collection[Policy]) -> None:
    """Refuse entries of different policies between which nothing decides.

    That is two of the same rank that some sandbox may fit both of. They are known to be disjoint
    when both have a key that no sandbox can have both values of: another runtime; another value of
    the same label; globs that cannot cover the same text. Globs are compared name by name (between
    two ``/``), ``**`` standing for any number of names; two names without stars differ or not, one
    with stars is tried on one without, and two with stars are disjoint if what stands before their
    first stars, or behind their last ones, differs. All else counts as a tie.

    Args:
        policies: Those that one scope permits; their names differ.

    Raises:
        PolicyError: At the later entry, naming the earlier one; with all the others.
    """
    problems = Problems()
    by_rank: dict[_Rank, list[tuple[Policy, Selector]]] = {}
    for policy in policies:
        for index, entry in enumerate(policy.match):
            before = by_rank.setdefault(_rank(entry), [])
            rivals = (
                (rival, other)
                for rival, other in before
                if rival is not policy and not _are_disjoint(entry, other)
            )
            if found := next(rivals, None):
                rival, other = found
                problem = (
                    f"expected something that tells it from the entry of policy {rival.name} at "
                    f"{other.where}, got a tie: a sandbox may fit both"
                )
                problems.add(entry.where, ("match", index), problem)
            before.append((policy, entry))
    problems.raise_any()


def _rank(entry: Selector) -> _Rank:
    names = entry.cgroup.split("/")[1:] if entry.cgroup else []
    literal = sum(1 for name in names if "*" not in name)
    given = sum(1 for _ in _globs(entry)) + (entry.runtime is not None)
    deep = depth(entry.cgroup) if entry.cgroup else 0
    return bool(entry.labels), literal, deep, given + len(entry.labels)


def _globs(entry: Selector) -> Iterator[tuple[str, str]]:
    for key in ("cgroup", *_GLOBS):
        glob = getattr(entry, key)
        if glob is not None:
            yield key, glob


def _fits(entry: Selector, cgroup: str, origin: Origin | None, labels: Mapping[str, str]) -> bool:
    if entry.runtime is not None and (origin is None or origin.runtime is not entry.runtime):
        return False
    if any(labels.get(key) != value for key, value in entry.labels.items()):
        return False
    for key, glob in _globs(entry):
        text = cgroup if key == "cgroup" else getattr(origin, key, None)
        if text is None or not matches(glob, text):
            return False
    return True


def _are_disjoint(one: Selector, other: Selector) -> bool:
    if one.runtime and other.runtime and one.runtime is not other.runtime:
        return True
    if any(other.labels.get(key, value) != value for key, value in one.labels.items()):
        return True
    globs = dict(_globs(other))
    return any(
        key in globs and not _may_overlap(glob.split("/"), globs[key].split("/"))
        for key, glob in _globs(one)
    )


def _may_overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether some path may be covered by both, given as the names of two globs."""
    # Row by row: may the first i names of one and the first j of the other cover the same?
    row = [True] + [False] * len(other)
    for j, name in enumerate(other):
        row[j + 1] = row[j] and name == "**"
    for mine in one:
        above, row = row, [row[0] and mine == "**"]
        for j, theirs in enumerate(other):
            if "**" in (mine, theirs):
                # Either stands for no name, or for what is on the other side.
                meets = above[j + 1] or row[j]
            else:
                meets = above[j] and _names_may_overlap(mine, theirs)
            row.append(meets)
    return row[-1]


def _names_may_overlap(one: str, other: str) -> bool:
    if "*" not in one:
        return matches(other, one)
    if "*" not in other:
        return matches(one, other)
    (head, _, _), (head2, _, _) = one.partition("*"), other.partition("*")
    (_, _, tail), (_, _, tail2) = one.rpartition("*"), other.rpartition("*")
    return (head.startswith(head2) or head2.startswith(head)) and (
        tail.endswith(tail2) or tail2.endswith(tail)
    )
