# SPDX-License-Identifier: Apache-2.0
"""A directory for one server's files, gone when the block ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(label: str) -> Iterator[Path]:
    """Make a directory that every user may enter; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix=f"agentwall-{label}-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
