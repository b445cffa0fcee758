# SPDX-License-Identifier: Apache-2.0
"""Files and functions stay short, are named for what they hold, and state their licence."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rig.tree import ROOT, files_of, plant

MOST_LINES = 400
MOST_FUNCTION_LINES = 50
SOURCES = {".py", ".c", ".h", ".sh"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
APACHE = "SPDX-License-Identifier: Apache-2.0"
KERNEL = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"


def violations(root: Path) -> list[str]:
    """Every file below root that is too long, vaguely named or without its licence line."""
    found = []
    for path in files_of(root):
        name = path.relative_to(root).as_posix()
        if path.stem.split(".")[0] in VAGUE_NAMES or path.parent.name in VAGUE_NAMES:
            found.append(f"{name}: a name that says nothing")
        if path.suffix not in SOURCES:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MOST_LINES:
            found.append(f"{name}: {len(lines)} lines, at most {MOST_LINES}")
        licence = KERNEL if name.startswith("bpf/") or ".bpf." in name else APACHE
        if not any(licence in line for line in lines[:2]):
            found.append(f"{name}: first lines lack {licence}")
        if path.suffix == ".py" and name.startswith(("agentwall/", "bench/")):
            found += [f"{name}:{problem}" for problem in _long_functions("\n".join(lines))]
    return found


def _long_functions(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > MOST_FUNCTION_LINES:
                found.append(f"{node.lineno}: {node.name} has {size} lines")
    return found


def test_sizes_and_names():
    """Every source file keeps the limits on length, name and licence line."""
    assert violations(ROOT) == []


SPDX = f"# {APACHE}\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("agentwall/x.py", SPDX + "\n" * 400, "agentwall/x.py: 401 lines, at most 400"),
        ("bpf/x.h", f"/* {KERNEL} */\n" + "\n" * 400, "bpf/x.h: 401 lines, at most 400"),
        ("agentwall/utils.py", SPDX, "agentwall/utils.py: a name that says nothing"),
        ("tests/helpers/x.py", SPDX, "tests/helpers/x.py: a name that says nothing"),
        ("agentwall/x.py", "", f"agentwall/x.py: first lines lack {APACHE}"),
        ("bpf/x.bpf.c", f"// {APACHE}", f"bpf/x.bpf.c: first lines lack {KERNEL}"),
        (
            "agentwall/x.py",
            SPDX + "def f():\n" + "    pass\n" * 50,
            "agentwall/x.py:2: f has 51 lines",
        ),
    ],
)
def test_planted_violation(tmp_path, name, text, expected):
    """Each kind of breach is found."""
    assert violations(plant(tmp_path, {name: text})) == [expected]


def test_limits_are_inclusive(tmp_path):
    """A file of 400 lines and a function of 50 pass."""
    text = SPDX + "def f():\n" + "    pass\n" * 49 + "\n" * 349

    assert violations(plant(tmp_path, {"agentwall/x.py": text})) == []
