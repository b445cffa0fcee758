# SPDX-License-Identifier: Apache-2.0
"""Patterns as signature files write them: ``{{name}}`` stands for a fragment of the file.

What comes out is in the language of :mod:`agentwall.detect.pattern`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agentwall.detect.pattern import PatternError, parse
from agentwall.detect.signature_document import FRAGMENT_PATTERN
from agentwall.policy.problems import Problems, show
from agentwall.policy.source import Place, Source

MAX_PATTERN = 1 << 20
"""Characters of a pattern with its fragments in place: what uses of uses can multiply to."""

# An escape, a class, or a use: what stands inside the first two is none.
_TOKEN = re.compile(r"\\.|\[\^?(?:\\.|[^\]\\])*\]|\{\{([^{}]*)\}\}", re.DOTALL)
# Stands for a fragment where only the text around it is judged.
_ANYTHING = "(?:.)"
_GROUP = "(?:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with a pattern."""

    position: int
    """Index of a character of the text as written."""
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """The fragments of one file."""

    texts: Mapping[str, str]
    """Of each sound one by name, what it stands for; those it uses in place."""
    broken: frozenset[str]
    """The others, which have been complained of."""


def read_fragments(source: Source, problems: Problems) -> Fragments:
    """Read ``fragments`` of *source*, noting in *problems* what is wrong with them."""
    texts: dict[str, str] = {}
    broken: set[str] = set()
    written = source.data.get("fragments")
    for name, text in written.items() if isinstance(written, dict) else ():
        place = ("fragments", name)
        known = Fragments(texts=texts, broken=frozenset(broken))
        broken.add(name)
        if not re.fullmatch(FRAGMENT_PATTERN, name):
            problem = f"expected small letters, digits and underscores, got {show(name)}"
            problems.add(source.locate(place, key=True), place, problem)
        elif isinstance(text, str):
            # As it will stand in patterns: there an anchor is out of place.
            expanded = expand(text, known, source, place, problems, is_fragment=True)
            if expanded is not None:
                texts[name] = expanded
                broken.remove(name)
    return Fragments(texts=texts, broken=frozenset(broken))


def expand(
    text: str,
    fragments: Fragments,
    source: Source,
    place: Place,
    problems: Problems,
    *,
    is_fragment: bool = False,
) -> str | None:
    """Return the pattern *text*, written at *place*, with its fragments in place.

    Returns:
        None where something is wrong with it, which *problems* knows then.
    """
    faults = list(_faults(text, fragments, is_fragment=is_fragment))
    for fault in faults:
        where = source.locate_character(place, fault.position)
        problems.add(where, place, fault.problem)
    if faults or any(use[1] in fragments.broken for use in _uses(text)):
        return None
    return _TOKEN.sub(_replacement(lambda name: f"{_GROUP}{fragments.texts[name]})"), text)


def _uses(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _TOKEN.finditer(text) if match[1] is not None)


def _replacement(stand_in: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    return lambda match: match[0] if match[1] is None else stand_in(match[1])


def _faults(text: str, fragments: Fragments, *, is_fragment: bool) -> Iterator[Fault]:
    if len(text) > MAX_PATTERN:
        yield Fault(position=0, problem=f"expected at most {MAX_PATTERN} characters")
        return
    size = len(text)
    for match in _TOKEN.finditer(text):
        name = match[1]
        if name is None:
            if match[0].startswith("[") and "{{" in match[0]:
                problem = "expected fragments outside of classes; \\{ is a brace"
                yield Fault(position=match.start() + match[0].index("{{"), problem=problem)
            continue
        if name not in fragments.texts and name not in fragments.broken:
            defined = ", ".join(fragments.texts) or "none is"
            problem = f"expected a fragment that is defined above ({defined}), got {show(name)}"
            yield Fault(position=match.start(), problem=problem)
        size += len(fragments.texts.get(name, ""))
    if size > MAX_PATTERN:
        problem = f"expected at most {MAX_PATTERN} characters with all fragments, got {size}"
        yield Fault(position=0, problem=problem)
    yield from _parse_faults(text, is_fragment=is_fragment)


# Fragments are judged on their own, and stand as a group: around them any group is as good. With
# them in place the text can be a thousand times as long.
def _parse_faults(text: str, *, is_fragment: bool) -> Iterator[Fault]:
    around = _TOKEN.sub(_replacement(lambda name: _ANYTHING), text)
    try:
        parse(f"{_GROUP}{around})" if is_fragment else around)
    except PatternError as err:
        position = err.position - len(_GROUP) * is_fragment
        yield Fault(position=_written_at(text, position), problem=err.message)


def _written_at(text: str, position: int) -> int:
    """Return which character of *text* stands at *position* once fragments are replaced."""
    for match in _uses(text):
        if position < match.start() + len(_ANYTHING):
            return min(position, match.start()) if position > 0 else 0
        position += len(match[0]) - len(_ANYTHING)
    return max(0, min(position, len(text)))
