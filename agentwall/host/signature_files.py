# SPDX-License-Identifier: Apache-2.0
"""The signature files of this host, and what they compile to, kept on disk.

Compiling takes long and comes out the same each time, so what it came to is kept, see
:mod:`agentwall.host.kept_files`. Where it cannot be kept it is made anew each time. numpy is
imported only for what is made or read of an automaton, and not for a table that was kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentwall.detect.budget import BudgetError
from agentwall.detect.packed import PackedTable
from agentwall.detect.pattern import PatternError
from agentwall.detect.signature import SignatureSet
from agentwall.detect.signature_load import LoadedSignatures, load_files
from agentwall.errors import PolicyError
from agentwall.host.kept_files import cache_directory
from agentwall.host.signature_text import read_text, unreadable
from agentwall.host.table_file import load_table, store_table
from agentwall.policy.extends import shipped_policies
from agentwall.policy.problems import Problems

if TYPE_CHECKING:
    from agentwall.detect.automaton import Automaton

SITE_SIGNATURES = Path("/etc/agentwall/signatures")


def shipped_signatures() -> Path:
    """Return the directory of the signatures that come with agentwall."""
    return shipped_policies() / "signatures"


def read_signatures(extra: Sequence[str] = ()) -> SignatureSet:
    """Load the shipped signatures, those of this site, and *extra* files or directories.

    Raises:
        PolicyError: With everything that is wrong with them, unreadable files included.
    """
    return load_signature_files([*default_directories(), *extra]).signatures


def default_directories() -> list[str]:
    """Return where signatures are that hold without being named; those there are."""
    return [str(each) for each in (shipped_signatures(), SITE_SIGNATURES) if each.is_dir()]


def load_signature_files(paths: Sequence[str]) -> LoadedSignatures:
    """Load signature files, keeping their places.

    Args:
        paths: Files, and directories, of which it takes ``*.yaml``. One named twice counts once.

    Raises:
        PolicyError: With everything that is wrong with them, unreadable files included.
    """
    problems = Problems()
    texts: list[tuple[str, str]] = []
    seen: set[str] = set()
    for path in map(_display, _files(paths, problems)):
        identity = os.path.realpath(path)
        if identity in seen:
            continue
        seen.add(identity)
        try:
            texts.append((path, read_text(path)))
        except PolicyError as err:
            problems.add_error(err)
    try:
        loaded = load_files(texts)
    except PolicyError as err:
        problems.add_error(err)
    problems.raise_any()
    return loaded


def _files(paths: Sequence[str], problems: Problems) -> Iterator[str]:
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        try:
            names = sorted(os.listdir(path))
        except OSError as err:
            problems.add_error(unreadable(path, err))
            continue
        yield from (os.path.join(path, name) for name in names if name.endswith(".yaml"))


def _display(path: str) -> str:
    """Return *path* relative to the working directory if it lies below it."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def table_of(signatures: SignatureSet) -> PackedTable:
    """Return the kernel's table for *signatures*: from the cache, or made and put there.

    Raises:
        PolicyError: They need more states than there is room for.
        BudgetError: They have too many dialects, or need too many cells.
    """
    directory = cache_directory()
    if directory is not None:
        kept = load_table(directory, signatures.digest, len(signatures.signatures))
        if kept is not None:
            return kept
    from agentwall.detect.packing import pack_table

    table = pack_table(automaton_of(signatures), signatures)
    if directory is not None:
        store_table(directory, signatures.digest, table)
    return table


def automaton_of(signatures: SignatureSet) -> Automaton:
    """Return what *signatures* compile to: from the cache, or compiled and put there.

    Raises:
        PolicyError: They need more states than there is room for.
    """
    from agentwall.detect.dfa import compile_automaton
    from agentwall.host.automaton_file import load_automaton, store_automaton

    directory = cache_directory()
    count = len(signatures.signatures)
    if directory is not None:
        kept = load_automaton(directory, signatures.digest, count)
        if kept is not None:
            return kept
    try:
        automaton = compile_automaton(signatures.signatures)
    except (BudgetError, PatternError) as err:
        # Of all of them together; the first stands for them.
        raise PolicyError(signatures.signatures[0].where, "", str(err)) from err
    if directory is not None:
        store_automaton(directory, signatures.digest, automaton)
    return automaton
