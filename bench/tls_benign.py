# SPDX-License-Identifier: Apache-2.0
"""Many benign requests over TLS in one sandbox: whether any is taken for mining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REQUESTS = 10_000
_TESTS = Path(__file__).parents[1] / "tests"
_PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Benign:
    """What came of them."""

    asked: int
    answered: int
    """Whole answers."""
    sessions: int
    """Of TLS, of those that the kernel told of."""
    read: int
    """Of these, those whose text was read."""
    untold: int
    """Sessions over the limit of hellos, of which nothing is said here."""
    matches: int
    took_s: float


def measure_benign(
    count: int, progress: Callable[[str], None], uses: tuple[str, ...] = ("off", "require")
) -> dict[str, Benign]:
    """Have *count* requests made, of pages, APIs, chats and logs that quote what miners say.

    The clients are Python's http.client, curl and wget, the server nginx: tests/rig, as a program.

    Args:
        count: The same ones each time.
        progress: Is told what is next.
        uses: Of ``agentwall run --tls``.
    """
    found = {}
    for use in uses:
        progress(f"inside TLS: {count} benign requests, --tls {use}")
        done = subprocess.run(
            [sys.executable, "-m", "rig.tls_benign_day", str(count), "--tls", use],
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"benign requests: exit {done.returncode}: {done.stderr[-500:]}")
        found[use] = Benign(**json.loads(done.stdout))
    return found
