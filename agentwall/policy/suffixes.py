# SPDX-License-Identifier: Apache-2.0
"""Public suffixes: names below which more than one owner has names.

The list is that of publicsuffix.org, in the copy that the library publicsuffixlist carries. Its
ICANN section holds what registries sell names under (``com``, ``co.uk``); its private section holds
what companies let their customers have names under (``github.io``, ``s3.amazonaws.com``).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from importlib import resources

from publicsuffixlist import PublicSuffixList, encode_idn

from agentwall.net.domain import NameDepth, NamePattern


class SuffixKind(enum.Enum):
    """Who has names below a public suffix."""

    REGISTRY = "registry"
    """Whoever buys one. A top-level domain that nobody lists counts as well."""
    SHARED = "shared"
    """Any customer of the company that owns the suffix."""


def check_reach(pattern: NamePattern, *, shared: bool) -> None:
    """Refuse an allow rule's *pattern* that reaches the names of strangers.

    Args:
        pattern: Of a rule that allows; a rule that denies may be as wide as it likes.
        shared: Whether the rule says ``shared_suffix: true``.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    found = _suffix_reached(pattern)
    if found is None:
        return
    suffix, kind = found
    reached = "is" if suffix == pattern.name else f"reaches {suffix},"
    if kind is SuffixKind.REGISTRY:
        which = "a whole top-level domain" if "." not in suffix else "a public suffix"
        raise ValueError(
            f"expected names of one owner, got {str(pattern)!r}: {suffix} is {which}, "
            "below which anybody can have names"
        )
    if not shared:
        raise ValueError(
            f"expected shared_suffix: true beside {str(pattern)!r}, got none: it {reached} a name "
            "that strangers share, where anybody can fetch and leave data"
        )


def suffix_kind(name: str) -> SuffixKind | None:
    """Return which kind of public suffix *name*, in its one form, is; None if it is none."""
    above = name.partition(".")[2]
    # Only below the names on the way to a suffix can there be one: most names are done here.
    if above and above not in _on_the_way()[1]:
        return None
    if not _lists()[1].is_public(name, accept_unknown=False):
        return None
    return SuffixKind.REGISTRY if _is_registry(name) else SuffixKind.SHARED


def registrable(name: str) -> str:
    """Return what of *name*, in its one form, one owner has: ``example.co.uk``, ``me.github.io``.

    A name that is itself a public suffix is returned as it is.
    """
    return _lists()[1].privatesuffix(name) or name


def _suffix_reached(pattern: NamePattern) -> tuple[str, SuffixKind] | None:
    name, depth = pattern.name, pattern.depth
    kind = suffix_kind(name)
    if kind is not None:
        return name, kind
    if depth is NameDepth.EXACT:
        return None
    if "." not in name:
        return name, SuffixKind.REGISTRY
    one_label_below, further_below = _on_the_way()
    # A suffix is a host as well, and of shared storage the one that hands out everybody's data by
    # path. A registry's is none worth speaking of.
    reached = one_label_below.get(name)
    if depth is NameDepth.BELOW:
        reached = further_below.get(name)
    if reached is None or (depth is NameDepth.LABEL and _is_registry(reached)):
        return None
    return reached, SuffixKind.REGISTRY if _is_registry(reached) else SuffixKind.SHARED


def _is_registry(name: str) -> bool:
    return _lists()[0].is_public(name, accept_unknown=False)


@functools.cache
def _lists() -> tuple[PublicSuffixList, PublicSuffixList]:
    """Return the ICANN section, and the whole list."""
    # When the first pattern needs it and not at import: it takes 0.05 s.
    return PublicSuffixList(_text(), only_icann=True), PublicSuffixList(_text())


@functools.cache
def _text() -> str:
    # Data of an installed package, and so as much a part of the program as its code.
    return resources.files("publicsuffixlist").joinpath("public_suffix_list.dat").read_text("utf-8")


@functools.cache
def _on_the_way() -> tuple[dict[str, str], dict[str, str]]:
    """Return names with a public suffix one label below them, and with one at any depth below.

    The values are such a suffix; of several the list's first, so a registry's if there is one.
    """
    one_label_below: dict[str, str] = {}
    below: dict[str, str] = {}
    for suffix in _suffixes():
        above = suffix.partition(".")[2]
        one_label_below.setdefault(above, suffix)
        while above:
            below.setdefault(above, suffix)
            above = above.partition(".")[2]
    return one_label_below, below


def _suffixes() -> Iterator[str]:
    """Yield every rule of the list, and of ``*.x`` the ``x`` and a name below it."""
    for line in _text().splitlines():
        # The format: a rule ends at the first white space (publicsuffix.org/list).
        rule = line.split(maxsplit=1)[0].lower() if line.strip() else ""
        if not rule or rule.startswith(("//", "!")):
            continue
        yield encode_idn(rule.removeprefix("*."))
        if rule.startswith("*."):
            yield encode_idn(f"any.{rule.removeprefix('*.')}")
