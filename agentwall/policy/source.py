# SPDX-License-Identifier: Apache-2.0
"""YAML text to plain data that remembers where each value stands.

Stricter than YAML: one document, maps with text keys, no key twice, no tags, no merge keys, plain
decimal numbers. Nesting and aliases are bounded, so no text can make the loader run away.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agentwall.errors import PolicyError, SourceLocation
from agentwall.policy.problems import Problems, show

Plain = str | int | bool | None | list["Plain"] | dict[str, "Plain"]
Place = Sequence[str | int]
"""The way from the top of the document to a value: ``("allow", 0, "ports", 1)``."""

MAX_DEPTH = 16
MAX_ALIASED_NODES = 10_000
"""How many nodes a document may have more when its aliases are written out."""

_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A parsed file."""

    path: str
    data: dict[str, Plain]
    root: Node

    def locate(self, place: Place, *, key: bool = False) -> SourceLocation:
        """Return where the value at *place* stands, or its *key*; the nearest parent if absent."""
        node = found = self.root
        for step in place:
            child = _child(node, step)
            if child is None:
                break
            found, node = child
        return _location(self.path, found if key else node)

    def locate_character(self, place: Place, index: int) -> SourceLocation:
        """Return where character *index* of the text at *place* stands, or else the text."""
        node = self.root
        for step in place:
            child = _child(node, step)
            if child is None:
                return self.locate(place)
            node = child[1]
        where = _location(self.path, node)
        # Other styles fold lines and have escapes.
        if not isinstance(node, ScalarNode) or node.style not in (None, "'"):
            return where
        if node.start_mark.line != node.end_mark.line:
            return where
        before = node.value[:index]
        # A single quote is written twice, and the text begins behind one.
        quotes = before.count("'") + 1 if node.style else 0
        return SourceLocation(where.path, where.line, where.column + len(before) + quotes)


def _child(node: Node, step: str | int) -> tuple[Node, Node] | None:
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key, value
    return None


def _location(path: str, node: Node) -> SourceLocation:
    return _at(node.start_mark, path)


def _at(mark: Any, path: str) -> SourceLocation:  # noqa: ANN401 - yaml has two classes of marks
    # yaml counts from 0.
    return SourceLocation(path, mark.line + 1, mark.column + 1) if mark else _start(path)


def _start(path: str) -> SourceLocation:
    return SourceLocation(path, 1, 1)


def parse_source(raw: bytes, path: str, *, dates: bool = False) -> Source:
    """Parse the content of the policy file *path*.

    Args:
        raw: The content.
        path: For places.
        dates: Take dates for the text they are written as, instead of refusing them.

    Raises:
        PolicyError: With every duplicate key, tag and other oddity found.
    """
    text = decode_text(raw, path)
    try:
        count = sum(1 for _ in _bounded_events(text, path))
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as err:
        raise _yaml_problem(err, path, text) from err
    if root is None:
        raise PolicyError(_start(path), "", "expected a map, got an empty file")
    problems = Problems()
    reader = _Reader(path, count + MAX_ALIASED_NODES, problems, dates=dates)
    data = reader.read(root, ())
    problems.raise_any()
    if not isinstance(data, dict):
        raise PolicyError(_location(path, root), "", f"expected a map, got {show(data)}")
    return Source(path=path, data=data, root=root)


def decode_text(raw: bytes, path: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        PolicyError: At the first byte that is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        # err.object and not raw: the codec has taken the byte order mark off.
        before = err.object[: err.start]
        where = _end_of(before.decode("utf-8", "replace"), path)
        problem = f"expected UTF-8, got byte 0x{err.object[err.start]:02x}"
        raise PolicyError(where, "", problem) from err


def _end_of(text: str, path: str) -> SourceLocation:
    line = text.count("\n") + 1
    return SourceLocation(path, line, len(text) - (text.rfind("\n") + 1) + 1)


def _bounded_events(text: str, path: str) -> Iterator[yaml.Event]:
    # Events come one by one; composing recurses, so depth is judged before it.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise PolicyError(
                _at(event.start_mark, path), "", f"expected at most {MAX_DEPTH} levels of nesting"
            )
        yield event


def _yaml_problem(err: yaml.YAMLError, path: str, text: str) -> PolicyError:
    if isinstance(err, yaml.reader.ReaderError):
        # libyaml counts bytes here.
        before = text.encode()[: err.position].decode("utf-8", "replace")
        where = _end_of(before, path)
        return PolicyError(where, "", f"expected YAML: {err.reason}")
    mark = getattr(err, "problem_mark", None) or getattr(err, "context_mark", None)
    parts = (getattr(err, "context", None), getattr(err, "problem", None))
    problem = ", ".join(part for part in parts if part)
    if "alias" in problem:
        problem += " (quote text that begins with a star)"
    return PolicyError(_at(mark, path), "", f"expected YAML: {problem}")


class _Reader:
    def __init__(self, path: str, budget: int, problems: Problems, *, dates: bool) -> None:
        self._path = path
        self._dates = dates
        self._budget = itertools.count(budget, -1)
        self._problems = problems

    def read(self, node: Node, place: tuple[str | int, ...]) -> Plain:
        # An alias may stand for one of its own parents, and aliases of aliases multiply.
        if len(place) > MAX_DEPTH or next(self._budget) <= 0:
            where = _location(self._path, node)
            raise PolicyError(where, "", "expected fewer aliases: they write out to too much")
        if isinstance(node, MappingNode):
            return self._map(node, place)
        if isinstance(node, SequenceNode):
            return [self.read(child, (*place, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, ScalarNode), "yaml has no fourth kind of node"
        return self._scalar(node, place)

    def _map(self, node: MappingNode, place: tuple[str | int, ...]) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            where = _location(self._path, key)
            if not isinstance(key, ScalarNode) or key.tag != f"{_TAG}str":
                self._problems.add(where, place, f"expected a text key, got {_describe(key)}")
                continue
            name = key.value
            if name in found:
                first = f"the first one is on line {lines[name]}"
                self._problems.add(where, (*place, name), f"duplicate key; {first}")
                continue
            lines[name] = where.line
            found[name] = self.read(value, (*place, name))
        return found

    def _scalar(self, node: ScalarNode, place: tuple[str | int, ...]) -> Plain:
        kind, text = node.tag.removeprefix(_TAG), node.value
        match kind:
            case "str":
                return str(text)
            case "timestamp" if self._dates:
                return str(text)
            case "null":
                return None
            case "bool":
                return text.lower() in ("true", "yes", "on")
            case "int" if _DECIMAL.fullmatch(text):
                return int(text)
            case "int":
                problem = f"expected a plain decimal number, got {show(text)} (quote it if text)"
            case _:
                problem = f"expected text or a number, got {_describe(node)} (quote it if text)"
        self._problems.add(_location(self._path, node), place, problem)
        return None


def _describe(node: Node) -> str:
    if isinstance(node, ScalarNode):
        kind = node.tag.removeprefix(_TAG)
        names = {"float": "the fraction", "timestamp": "the date", "merge": "the merge key"}
        return f"{names.get(kind, kind)} {show(node.value)}"
    return "a list" if isinstance(node, SequenceNode) else "a map"
