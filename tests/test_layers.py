# SPDX-License-Identifier: Apache-2.0
"""Imports point down, and what decides does no input or output (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rig.tree import ROOT, files_of, plant

# Highest first; packages of one row do not import each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"daemon"},
    {"kernel", "probes", "host", "sinks", "capture"},
    {"engine"},
    {"detect"},
    {"policy"},
    {"flow"},
    {"net"},
    {"client"},
    {"errors"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}

PURE = {"engine", "detect", "policy", "flow", "net", "errors"}
OUTSIDE_WORLD = {
    *("asyncio", "ctypes", "fcntl", "io", "mmap", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess", "sys"),
    *("tempfile", "threading", "time", "urllib"),
}
OUTSIDE_CALLS = {"open", "print", "input"}
READS_FILES = {"policy/load.py", "policy/extends.py"}  # policies, what they extend and list
PATHS = {"os", "pathlib"}
BINDS_C = {"kernel", "probes", "host"}


def imports_of(path: Path, package: Path) -> list[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, inside functions too."""
    here = ("agentwall", *path.relative_to(package).with_suffix("").parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def calls_of(path: Path) -> list[tuple[int, str]]:
    """Line and name of every call of a plain name."""
    return [
        (node.lineno, node.func.id)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def _upward(own: str, target: str) -> bool:
    if target not in RANK or own == target:
        return False
    return own not in RANK or RANK[target] <= RANK[own]


def _breach(own: str, name: str, imported: str) -> str | None:
    """What is wrong with one import in a module of the package ``own``."""
    top, _, rest = imported.partition(".")
    if top == "agentwall":
        target = rest.partition(".")[0]
        return f"{own} imports {target}" if _upward(own, target) else None
    if own in PURE and top in OUTSIDE_WORLD - (PATHS if name in READS_FILES else set()):
        return f"{own} is pure, imports {top}"
    if top == "ctypes" and own not in BINDS_C:
        return f"{own} imports ctypes"
    return None


def violations(package: Path) -> list[str]:
    """Every import and call below package that the rules above forbid, as file:line: reason."""
    found = []
    for path in files_of(package):
        if path.suffix != ".py":
            continue
        name = path.relative_to(package).as_posix()
        own = path.relative_to(package).parts[0].removesuffix(".py")
        for line, imported in imports_of(path, package):
            if breach := _breach(own, name, imported):
                found.append(f"{name}:{line}: {breach}")
        if own in PURE and name not in READS_FILES:
            found += [
                f"{name}:{line}: {own} is pure, calls {called}"
                for line, called in calls_of(path)
                if called in OUTSIDE_CALLS
            ]
    return found


def test_imports_point_down():
    """No module imports a layer above its own, a sibling, or, where it is pure, the world."""
    assert violations(ROOT / "agentwall") == []


def test_every_package_has_a_layer():
    """A new package is in the order above before anything imports it."""
    packages = {path.parent.name for path in (ROOT / "agentwall").glob("*/__init__.py")}

    assert packages - RANK.keys() == set()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("policy/x.py", "import agentwall.kernel.maps", "policy/x.py:1: policy imports kernel"),
        ("policy/x.py", "from agentwall import daemon", "policy/x.py:1: policy imports daemon"),
        ("policy/x.py", "from ..engine import y", "policy/x.py:1: policy imports engine"),
        ("policy/__init__.py", "from ..cli import y", "policy/__init__.py:1: policy imports cli"),
        ("flow/x.py", "def f():\n    import agentwall.policy", "flow/x.py:2: flow imports policy"),
        ("kernel/x.py", "from agentwall.host import y", "kernel/x.py:1: kernel imports host"),
        ("sinks/x.py", "from agentwall.kernel.y import z", "sinks/x.py:1: sinks imports kernel"),
        ("errors.py", "from agentwall.net import y", "errors.py:1: errors imports net"),
        ("engine/x.py", "from time import time", "engine/x.py:1: engine is pure, imports time"),
        ("policy/x.py", "import os.path", "policy/x.py:1: policy is pure, imports os"),
        ("flow/x.py", "open('x')", "flow/x.py:1: flow is pure, calls open"),
        ("cli/x.py", "import ctypes", "cli/x.py:1: cli imports ctypes"),
    ],
)
def test_planted_violation(tmp_path, name, text, expected):
    """Each kind of forbidden import is found."""
    assert violations(plant(tmp_path, {name: text})) == [expected]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cli/x.py", "from agentwall.policy.load import load_policy"),
        ("kernel/x.py", "import ctypes\nfrom .abi import FlowEvent\nfrom agentwall import errors"),
        ("policy/load.py", "from pathlib import Path\nopen('x')"),
        ("sinks/x.py", "print('x')"),
        ("net/x.py", "import ipaddress\nfrom agentwall import __version__"),
    ],
)
def test_permitted_import(tmp_path, name, text):
    """Imports of lower layers, of the own package and of harmless modules pass."""
    assert violations(plant(tmp_path, {name: text})) == []
