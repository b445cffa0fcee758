# SPDX-License-Identifier: Apache-2.0
"""Tests mirror the package, links in documents lead somewhere, no file names a machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from rig.tree import ROOT, files_of, plant

# Modules whose behaviour is tested elsewhere, with where.
TESTED_ELSEWHERE = {
    "__main__.py": "tests/cli/test_main.py runs python -m agentwall",
    "probes/compile_child.py": "as its parent sees it: tests/probes/test_compiling.py",
    "policy/document.py": "the keys as users see them: tests/policy/test_load.py, test_schema.py",
    "policy/detect_document.py": "each key and wrong value: tests/policy/test_detect_merge.py",
    "policy/source.py": "each kind of broken YAML by its message: tests/policy/test_load.py",
    "policy/wording.py": "each message it words: tests/policy/test_load.py",
}

LINK = re.compile(r"\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")

# Put together here, so that this file does not contain what it looks for.
REGISTRIES = [
    *("pypi" + ".org", "python" + "hosted.org", "deb.deb" + "ian.org", "snapshot.deb" + "ian.org"),
    *("registry." + "npmjs", "docker" + ".io/", "ghcr" + ".io", "quay" + ".io"),
]
MACHINE_PATHS = re.compile(r"(?<![\w.*/-])/(?:wo" + r"rk|fa" + r"rm|home/\w+)/")
TEXT = {".py", ".c", ".h", ".sh", ".md", ".yaml", ".toml", ".txt", ".json", ".mk", ".svg", ""}


def has_logic(text: str) -> bool:
    """Whether a module defines a function whose body is more than a docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = [s for s in node.body if not (isinstance(s, ast.Expr) and _constant(s.value))]
            if body:
                return True
    return False


def _constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def untested(root: Path, elsewhere: dict[str, str]) -> list[str]:
    """Every agentwall/x/y.py with logic for which there is no tests/x/test_y.py."""
    found = []
    for path in files_of(root / "agentwall"):
        name = path.relative_to(root / "agentwall")
        mirror = root / "tests" / name.parent / f"test_{name.name}"
        if path.suffix != ".py" or name.as_posix() in elsewhere or mirror.exists():
            continue
        if has_logic(path.read_text(encoding="utf-8")):
            found.append(f"{name}: no {mirror.relative_to(root)}")
    return found


def dead_links(root: Path) -> list[str]:
    """Every relative link in a Markdown file below root that leads to no file."""
    found = []
    for path in files_of(root):
        if path.suffix != ".md":
            continue
        for match in LINK.finditer(path.read_text(encoding="utf-8")):
            target = (match[1] or match[2]).partition("#")[0]
            if target and "://" not in target and not (path.parent / target).exists():
                found.append(f"{path.relative_to(root)}: {target}")
    return found


def foreign_names(root: Path) -> list[str]:
    """Every line below root that names a package registry or a path of one machine."""
    found = []
    for path in files_of(root):
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATHS.search(line) or any(name in line for name in REGISTRIES):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    return found


def test_tests_mirror_the_package():
    """Every module with logic has the test file that its name leads to."""
    assert untested(ROOT, TESTED_ELSEWHERE) == []


def test_exceptions_are_needed():
    """A module listed as tested elsewhere exists and has no test file of its own."""
    needless = [
        name
        for name in TESTED_ELSEWHERE
        if not (ROOT / "agentwall" / name).exists()
        or (ROOT / "tests" / Path(name).parent / f"test_{Path(name).name}").exists()
    ]

    assert needless == []


def test_links_lead_somewhere():
    """Every relative link in the documents leads to a file of the tree."""
    assert dead_links(ROOT) == []


def test_no_machine_in_the_tree():
    """No file names a package registry's host or an absolute path of a developer's machine."""
    assert foreign_names(ROOT) == []


def test_planted_module_without_test(tmp_path):
    """A module with a function and no mirrored test is found; one of mere values is not."""
    tree = plant(
        tmp_path,
        {
            "agentwall/x/logic.py": "def f():\n    return 1\n",
            "agentwall/x/values.py": "A = 1\n\n\nclass B:\n    '''B.'''\n",
            "agentwall/x/seam.py": "class S:\n    def f(self):\n        '''F.'''\n        ...\n",
            "agentwall/x/tested.py": "def f():\n    return 1\n",
            "tests/x/test_tested.py": "",
        },
    )

    assert untested(tree, {}) == ["x/logic.py: no tests/x/test_logic.py"]
    assert untested(tree, {"x/logic.py": "reason"}) == []


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](gone.md)", ["docs/x.md: gone.md"]),
        ('[a](gone.md#part "title")', ["docs/x.md: gone.md"]),
        ('<img src="gone.svg">', ["docs/x.md: gone.svg"]),
        ("[a](x.md#part) [b](https://example.com/y) [c](#part) [d](../docs)", []),
    ],
)
def test_planted_link(tmp_path, text, dead):
    """A link to a missing file is found; whole URLs and anchors are left alone."""
    assert dead_links(plant(tmp_path, {"docs/x.md": text})) == dead


@pytest.mark.parametrize(
    "line",
    [f"cd /{'wo'}rk/tree", f"'/{'ho'}me/someone/x'", f"see https://{'pypi'}.org/project/x"],
)
def test_planted_machine(tmp_path, line):
    """A developer's path and a registry's host are found."""
    assert foreign_names(plant(tmp_path, {"x.md": f"ok\n{line}"})) == [f"x.md:2: {line}"]
