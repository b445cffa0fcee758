# SPDX-License-Identifier: Apache-2.0
"""Reads a policy file and every file that it names, as a base or as a list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import agentwall
from agentwall.errors import PolicyError, SourceLocation
from agentwall.net.domain import NamePattern
from agentwall.policy.document import (
    LISTS,
    PHASE_LISTS,
    AllowRule,
    DenyRule,
    InboundRule,
    PolicyDocument,
)
from agentwall.policy.lists import parse_host_list, parse_prefix_list
from agentwall.policy.model import RulePattern, RulePrefix
from agentwall.policy.problems import Problems, show
from agentwall.policy.source import Place, Source, parse_source
from agentwall.policy.suffixes import check_reach
from agentwall.policy.wording import validate

RuleDocument = AllowRule | DenyRule | InboundRule

SITE_POLICIES = Path("/etc/agentwall/policies")
MAX_POLICY_BYTES = 16 << 20
MAX_LIST_BYTES = 64 << 20
"""A line of a list costs about a tenth of what a rule in YAML does."""
MAX_CHAIN = 16
"""How many policies may stand on one another."""


def shipped_policies() -> Path:
    """Return the directory of the policies that come with agentwall.

    A wheel carries them inside the package; a checkout has them beside it.
    """
    package = Path(agentwall.__file__).parent
    packed = package / "_policies"
    return packed if packed.is_dir() else package.parent / "policies"


def default_search_path() -> tuple[Path, ...]:
    """Return where ``extends`` looks after the directory of the extending file."""
    return (SITE_POLICIES, shipped_policies())


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """What a list holds; one of the two is empty."""

    prefixes: tuple[RulePrefix, ...] = ()
    patterns: tuple[RulePattern, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """One policy file, valid on its own, with the lists it names."""

    source: Source
    document: PolicyDocument
    lists: dict[Place, List]
    """What the ``cidr_file`` or ``host_file`` of the rule at ``("allow", 0)`` holds."""
    contents: tuple[tuple[str, bytes], ...]
    """Path and content of each file read for this one, its own last."""


def gather(path: str, search_path: Sequence[Path]) -> list[PolicyFile]:
    """Read *path* and its bases: bases first, left to right, each file once.

    Raises:
        PolicyError: With everything that is wrong in any of the files.
    """
    gatherer = _Gatherer(search_path)
    try:
        raw = _read(path)
    except (OSError, ValueError) as err:
        problem = f"cannot be read: {_reason(err)}"
        raise PolicyError(SourceLocation(path, 1, 1), "", problem) from err
    gatherer.add(path, raw)
    gatherer.problems.raise_any()
    return gatherer.files


def _read(path: str) -> bytes:
    try:
        return _read_up_to(MAX_POLICY_BYTES, path)
    except ValueError as err:
        raise ValueError(f"{err}; long lists belong in a cidr_file or host_file") from err


def _read_up_to(size_bytes: int, path: str) -> bytes:
    with open(path, "rb") as file:
        raw = file.read(size_bytes + 1)
    if len(raw) > size_bytes:
        raise ValueError(f"larger than {size_bytes >> 20} MiB")
    return raw


def _reason(err: OSError | ValueError) -> str:
    text = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return text[:1].lower() + text[1:]


def _display(path: str) -> str:
    """Return *path* relative to the working directory if it lies below it."""
    if not os.path.isabs(path):
        return os.path.normpath(path)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


class _Gatherer:
    def __init__(self, search_path: Sequence[Path]) -> None:
        self.files: list[PolicyFile] = []
        self.problems = Problems()
        self._search_path = search_path
        self._seen: set[str] = set()
        self._chain: list[tuple[str, str]] = []
        self._lists: dict[tuple[str, str, str, bool], List] = {}
        self._raw: dict[str, bytes] = {}

    def add(self, path: str, raw: bytes) -> None:
        identity = os.path.realpath(path)
        self._seen.add(identity)
        self._chain.append((identity, path))
        try:
            source = parse_source(raw, path)
            document = validate(source, self.problems)
            if document is not None:
                self._add_bases(source, document)
                self._add_document(source, document, raw)
        except PolicyError as err:
            self.problems.add_error(err)
        finally:
            self._chain.pop()

    def _add_bases(self, source: Source, document: PolicyDocument) -> None:
        for index, name in enumerate(document.extends):
            place = ("extends", index)
            found = self._find(source, place, name)
            if found is None:
                continue
            path, raw = found
            identity = os.path.realpath(path)
            steps = [shown for known, shown in self._chain]
            if identity in (known for known, shown in self._chain):
                way = " -> ".join((*steps, path))
                self.problems.add(source.locate(place), place, f"cycle: {way}")
            elif len(self._chain) >= MAX_CHAIN:
                problem = f"expected at most {MAX_CHAIN} policies that stand on one another"
                self.problems.add(source.locate(place), place, problem)
            elif identity not in self._seen:
                self.add(path, raw)

    def _find(self, source: Source, place: Place, name: str) -> tuple[str, bytes] | None:
        directories = (os.path.dirname(source.path), *map(str, self._search_path))
        for directory in directories:
            path = _display(os.path.join(directory, f"{name}.yaml"))
            try:
                return path, _read(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as err:
                problem = f"{show(path)} cannot be read: {_reason(err)}"
                self.problems.add(source.locate(place), place, problem)
                return None
        places = ", ".join(("this file's directory", *map(str, self._search_path)))
        problem = f"expected the name of a policy, got {show(name)} (no {name}.yaml in {places})"
        self.problems.add(source.locate(place), place, problem)
        return None

    def _add_document(self, source: Source, document: PolicyDocument, raw: bytes) -> None:
        lists: dict[Place, List] = {}
        contents: list[tuple[str, bytes]] = []
        for place, rule in rules_of(document):
            if rule.origin not in ("cidr_file", "host_file"):
                continue
            name = getattr(rule, rule.origin)
            path = _display(os.path.join(os.path.dirname(source.path), name))
            try:
                lists[place] = self._load_list(path, rule, contents)
            except PolicyError as err:
                self.problems.add_error(err)
            except (OSError, ValueError) as err:
                at = (*place, rule.origin)
                problem = f"{show(path)} cannot be read: {_reason(err)}"
                self.problems.add(source.locate(at), at, problem)
        contents.append((source.path, raw))
        self.files.append(
            PolicyFile(source=source, document=document, lists=lists, contents=tuple(contents))
        )

    def _load_list(
        self,
        path: str,
        rule: RuleDocument,
        contents: list[tuple[str, bytes]],
    ) -> List:
        # Which patterns a list of names may have depends on the rule, see _parse_list.
        key = (path, rule.origin, type(rule).__name__, getattr(rule, "shared_suffix", False))
        if key not in self._lists:
            if path not in self._raw:
                self._raw[path] = _read_up_to(MAX_LIST_BYTES, path)
                contents.append((path, self._raw[path]))
            self._lists[key] = _parse_list(self._raw[path], path, rule)
        return self._lists[key]


def rules_of(document: PolicyDocument) -> Iterator[tuple[Place, RuleDocument]]:
    """Yield each rule with its place: ``("allow", 0)``, ``("phases", "setup", "allow", 0)``."""
    for section in LISTS:
        for index, rule in enumerate(getattr(document, section.value)):
            yield (section.value, index), rule
    for name, phase in document.phases.items():
        for section in PHASE_LISTS:
            for index, rule in enumerate(getattr(phase, section.value)):
                yield ("phases", name, section.value, index), rule


def _parse_list(raw: bytes, path: str, rule: RuleDocument) -> List:
    if rule.origin == "cidr_file":
        return List(prefixes=parse_prefix_list(raw, path))

    def check(pattern: NamePattern) -> None:
        if isinstance(rule, AllowRule):
            check_reach(pattern, shared=rule.shared_suffix)

    return List(patterns=parse_host_list(raw, path, check))
