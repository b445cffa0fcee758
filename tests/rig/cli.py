# SPDX-License-Identifier: Apache-2.0
"""``agentwall`` as a user starts it: a process of its own, from this tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rig.tree import ROOT

TIMEOUT_S = 120.0
"""Generous: on an emulated processor Python alone takes its time."""


def agentwall(*words: str | Path) -> list[str]:
    """Return the command line of ``agentwall WORDS``.

    ``run`` reads inside TLS only where that is asked for: its probes are loaded each time.
    """
    given = [*map(str, words)]
    if given[:1] == ["run"] and "--tls" not in given:
        given[1:1] = ["--tls", "off"]
    return [sys.executable, "-m", "agentwall", *given]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment in which :func:`agentwall` finds the package, sudo unheard of."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SUDO_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run_agentwall(
    *words: str | Path,
    stdin: str = "",
    variables: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``agentwall WORDS`` to its end; the exit code is not judged."""
    return subprocess.run(
        agentwall(*words),
        input=stdin,
        env=environment(**(variables or {})),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
