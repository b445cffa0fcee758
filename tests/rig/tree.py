# SPDX-License-Identifier: Apache-2.0
"""The files of this project, for the tests that judge the source tree itself."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The top of the working tree."""

_NOT_OURS = {".git", ".venv", "build", "dist", "_bpf", "__pycache__", ".hypothesis"}


def files_of(root: Path) -> list[Path]:
    """Return every file of the project below root, sorted; no build output, no caches."""
    found: list[Path] = []
    for directory, names, files in os.walk(root):
        names[:] = [n for n in names if n not in _NOT_OURS and not n.endswith("_cache")]
        found += [Path(directory, name) for name in files]
    return sorted(found)


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write files, given as path below root and text, and return root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
